"""Executes tasks: several at a time, each after those that it needs, going on past failures."""

from __future__ import annotations

import dataclasses
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from common.plan.executors import LOST, Executor, Job
from common.plan.progress import Display, last_line
from common.plan.tasks import State, Task, states

POLL_SECONDS, REFRESH_SECONDS = 0.1, 1.0
GRACE_SECONDS = 30.0  # for a stopped run to write its record
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclasses.dataclass
class Outcome:
    """What became of the tasks.

    Attributes:
        done: finished, now or before.
        failed, blocked: task -> why.
        stopped: a signal ended it before its end.
    """

    done: set[Task] = dataclasses.field(default_factory=set)
    failed: dict[Task, str] = dataclasses.field(default_factory=dict)
    blocked: dict[Task, str] = dataclasses.field(default_factory=dict)
    stopped: bool = False


@dataclasses.dataclass
class _Running:
    job: Job
    begun: float


class Runner:
    """Runs tasks that are not done.

    Args:
        tasks: each after those that it needs.
        executor: where.
        missing_data: data set -> why it cannot be had; runs on it are blocked.
    """

    def __init__(self, tasks: Sequence[Task], executor: Executor, missing_data: dict[str, str]) -> None:
        self.executor, self.missing_data = executor, missing_data
        self.states = states(tasks)
        self.outcome = Outcome({task for task in tasks if self.states[task] is State.DONE})
        self.pending = [task for task in tasks if task not in self.outcome.done]
        self.running: dict[Task, _Running] = {}
        self.restarts: Counter[Task] = Counter()
        self.display = Display(len(tasks), len(self.outcome.done), executor.jobs)
        self._signals = 0

    def run(self) -> Outcome:
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
            finally:
                self.display.close()
                self._stop_jobs()
        self.outcome.stopped = bool(self._signals)
        return self.outcome

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals are only counted, so that nothing is ever cut off between starting a job and knowing of it."""

        def count(number: int, frame: object) -> None:
            self._signals += 1

        before = {number: signal.signal(number, count) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start_what_can(self) -> None:
        for task in list(self.pending):
            if problem := self._obstacle(task):
                self.pending.remove(task)
                self.outcome.blocked[task] = problem
                self.display.ended(task, "BLOCKED", problem)
            elif len(self.running) < self.executor.jobs and self.outcome.done.issuperset(task.needs):
                self.pending.remove(task)
                self._start(task)

    def _obstacle(self, task: Task) -> str | None:
        """Why a task will never be able to start."""
        for need in task.needs:
            if need in self.outcome.failed or need in self.outcome.blocked:
                return f"needs {need.name}"
        return self.missing_data.get(task.run.dataset)

    def _start(self, task: Task) -> None:
        if self.states[task] is State.STALE:
            directory = task.record().directory
            return self._fail(task, f"it was {State.STALE.value}: remove {directory} to run it again")
        try:
            task.prepare()
            with open(task.log, "a") as log:
                log.write(f"$ {task.shell_command}\n")
            job = self.executor.start(task)
        except OSError as error:
            return self._fail(task, f"cannot be started: {error}")
        self.running[task] = _Running(job, time.monotonic())
        self.display.started(task)

    def _collect(self) -> None:
        """Take in the tasks that have ended."""
        for task, running in list(self.running.items()):
            if (code := running.job.poll()) is None:
                continue
            del self.running[task]
            if code == 0:
                task.finish()
            if code == 0 and task.state() is State.DONE:
                self.outcome.done.add(task)
                self.display.ended(task, "done", f"{time.monotonic() - running.begun:.0f} s, {last_line(task.log)}")
            elif code == 0:
                self._fail(task, "it ended without a record of a finished run")
            elif code == LOST and self.restarts[task] < self.executor.restarts:
                self.restarts[task] += 1
                self.pending.insert(0, task)
                self.display.restarted(task)
            elif code == LOST:
                self._fail(task, f"its worker was lost {self.restarts[task] + 1} times: {last_line(task.log)}")
            else:
                self._fail(task, f"exit code {code}: {last_line(task.log)}")

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
