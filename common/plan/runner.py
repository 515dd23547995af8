"""Executes tasks: several at a time, each after those that it needs, going on past failures."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from common.command_line import signals_handled
from common.errors import TrainingError, UserError
from common.plan.executors import LOST, Executor, ExecutorGoneError, Job
from common.plan.progress import Display, last_line
from common.plan.tasks import State, Task, states

POLL_SECONDS, REFRESH_SECONDS = 0.1, 1.0
LOOK_AGAIN_SECONDS = 1.0  # after a task that another process is at
RESTARTS_OF_KILLED = 1
GRACE_SECONDS = 30.0  # for a stopped run to write its record
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass
class RunSummary:
    """What became of the tasks.

    Attributes:
        done: finished, now or before.
        failed, blocked: task -> why.
        stopped: a signal ended it before its end.
        broken: why nothing could be executed any more; None where all went to its end.
    """

    done: set[Task] = dataclasses.field(default_factory=set)
    failed: dict[Task, str] = dataclasses.field(default_factory=dict)
    blocked: dict[Task, str] = dataclasses.field(default_factory=dict)
    stopped: bool = False
    broken: str | None = None


@dataclasses.dataclass
class _Running:
    job: Job
    begun: float
    lock: IO[str]


class Runner:
    """Runs tasks that are not done.

    Args:
        tasks: each after those that it needs.
        executor: where.
        missing_data: dataset -> why it cannot be had; runs on it are blocked.
        needed_later: tasks whose networks are kept whatever happens.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        executor: Executor,
        missing_data: dict[str, str],
        needed_later: Collection[Task] = (),
    ) -> None:
        self.executor, self.missing_data, self.needed_later = executor, missing_data, needed_later
        self.tasks, self.states = tasks, states(tasks)
        self.outcome = RunSummary({task for task in tasks if self.states[task] is State.DONE})
        self.pending = [task for task in tasks if task not in self.outcome.done]
        self.running: dict[Task, _Running] = {}
        self.restarts: Counter[Task] = Counter()
        self.waiting: dict[Task, float] = {}  # tasks that another process is at -> when to look again
        self.display = Display(len(tasks), len(self.outcome.done), executor.jobs)
        self._signals = 0

    def run(self) -> RunSummary:
        """Until everything is done, failed or blocked, or a signal stops it."""
        refreshed = 0.0
        with self._listening():
            try:
                while (self.pending or self.running) and not self._signals:
                    self._collect()
                    self._start_what_can()
                    if time.monotonic() - refreshed > REFRESH_SECONDS:
                        self.display.refresh({task: running.begun for task, running in self.running.items()})
                        refreshed = time.monotonic()
                    time.sleep(POLL_SECONDS)
                self._delete_networks_of(self.tasks)
            except ExecutorGoneError as error:
                self.outcome.broken = str(error)
                self.running.clear()
            finally:
                self.display.close()
                with contextlib.suppress(ExecutorGoneError):
                    self._stop_jobs()
        self.outcome.stopped = bool(self._signals)
        return self.outcome

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals are only counted, so that nothing is ever cut off between starting a job and knowing of it."""

        def count(number: int, frame: object) -> None:
            self._signals += 1

        with signals_handled(STOP_SIGNALS, count):
            yield

    def _start_what_can(self) -> None:
        for task in list(self.pending):
            if problem := self._blocking_reason(task):
                self.pending.remove(task)
                self.outcome.blocked[task] = problem
                self.display.ended(task, "BLOCKED", problem)
            elif len(self.running) < self.executor.jobs and self.outcome.done.issuperset(task.depends_on):
                self._start(task)

    def _blocking_reason(self, task: Task) -> str | None:
        """Why a task will never be able to start."""
        for need in task.depends_on:
            if need in self.outcome.failed or need in self.outcome.blocked:
                return f"needs {need.name}"
        return self.missing_data.get(task.run.dataset)

    def _start(self, task: Task) -> None:
        """Start a task, unless another process is at it, or has finished it by now."""
        if time.monotonic() < self.waiting.get(task, 0):
            return
        try:
            lock = task.lock()
        except BlockingIOError:
            return self._wait(task)
        except OSError as error:
            self.pending.remove(task)
            return self._fail(task, f"cannot be started: {error}")
        self.pending.remove(task)
        with contextlib.ExitStack() as stack:
            stack.enter_context(lock)
            state = task.state()
            if state is State.DONE and not (self.states[task] is State.BARE and task.is_bare):
                self.outcome.done.add(task)
                return self.display.ended(task, "done", "by another process")
            if state is State.STALE:
                where = found.directory if (found := task.found()) else task.workspace
                return self._fail(task, f"it was {State.STALE.value}: remove {where} to run it again")
            try:
                task.prepare()
                with open(task.log, "a") as log:
                    log.write(f"$ {task.shell_command}\n")
                job = self.executor.start(task)
            except (OSError, UserError, TrainingError) as error:
                return self._fail(task, f"cannot be started: {error}")
            stack.pop_all()
        self.running[task] = _Running(job, time.monotonic(), lock)
        return self.display.started(task)

    def _wait(self, task: Task) -> None:
        """Look again later."""
        if task not in self.waiting:
            self.display.waits(task)
        self.waiting[task] = time.monotonic() + LOOK_AGAIN_SECONDS

    def _collect(self) -> None:
        """Take in the tasks that have ended."""
        for task, running in list(self.running.items()):
            try:
                code = running.job.poll()
            except OSError as error:
                code, problem = 1, str(error)
            else:
                problem = None
            if code is None:
                continue
            del self.running[task]
            with running.lock:
                if problem:
                    self._fail(task, problem)
                else:
                    self._take_in(task, code, running.begun)

    def _take_in(self, task: Task, code: int, begun: float) -> None:
        """What became of a task that ended with an exit code."""
        if code == 0:
            try:
                task.finish()
            except (OSError, UserError, TrainingError) as error:
                return self._fail(task, f"it ended well, but {error}")
        if code == 0 and task.state() is State.DONE:
            self.outcome.done.add(task)
            self._delete_networks_of((task, *task.depends_on))
            self.display.ended(task, "done", f"{time.monotonic() - begun:.0f} s, {last_line(task.log)}")
        elif code == 0:
            self._fail(task, "it ended without a record of a finished run")
        elif code < 0:
            self._start_again(task, code)
        elif task.is_in_use():  # somebody has begun it by hand meanwhile
            self.pending.insert(0, task)
            self._wait(task)
        else:
            self._fail(task, f"exit code {code}: {last_line(task.log)}")

    def _start_again(self, task: Task, code: int) -> None:
        """A task whose worker was lost, or that a signal killed, is started again a number of times."""
        lost = code == LOST
        what = "its worker was lost" if lost else f"it was killed by {_signal_name(-code)}"
        if not lost and -code == signal.SIGKILL:
            what += ", which is what happens where memory is short"
        if self.restarts[task] < (self.executor.restarts if lost else RESTARTS_OF_KILLED):
            self.restarts[task] += 1
            self.pending.insert(0, task)
            self.display.restarted(task, f"{what}; it starts again and resumes")
        else:
            self._fail(task, f"{what}, {self.restarts[task] + 1} times: {last_line(task.log)}")

    def _delete_networks_of(self, tasks: Iterable[Task]) -> None:
        """Of those that are done, and that no other task will need."""
        needed = {need for task in self.tasks if task not in self.outcome.done for need in task.depends_on}
        for task in tasks:
            if task in self.outcome.done and task not in needed and task not in self.needed_later:
                task.delete_networks()

    def _fail(self, task: Task, reason: str) -> None:
        self.outcome.failed[task] = reason
        self.display.ended(task, "FAILED", reason)

    def _stop_jobs(self) -> None:
        """Ask all to stop, and end those that do not; a further signal cuts the waiting short."""
        jobs = [running.job for running in self.running.values()]
        for job in jobs:
            job.terminate()
        deadline, signals = time.monotonic() + GRACE_SECONDS, self._signals
        while any(job.poll() is None for job in jobs):
            if time.monotonic() > deadline or self._signals > signals:
                for job in jobs:
                    job.kill()
            time.sleep(POLL_SECONDS)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
