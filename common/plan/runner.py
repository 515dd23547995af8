"""Executes tasks: several at a time, each after those that it needs, going on past failures."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from common.plan.progress import Display, last_line
from common.plan.tasks import State, Task

POLL_SECONDS, REFRESH_SECONDS = 0.1, 1.0
GRACE_SECONDS = 30.0  # for a stopped run to write its record
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def cpu_count() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
class _Child:
    process: subprocess.Popen
    begun: float


class Runner:
    """Runs tasks that are not done.

    Args:
        tasks: each after those that it needs.
        jobs: how many at a time.
        missing_data: data set -> why it cannot be had; runs on it are blocked.
    """

    def __init__(self, tasks: Sequence[Task], jobs: int, missing_data: dict[str, str]) -> None:
        self.jobs, self.missing_data = jobs, missing_data
        self.outcome = Outcome()
        self.pending: list[Task] = []
        for task in tasks:
            if task.state() is State.DONE:
                self.outcome.done.add(task)
            else:
                self.pending.append(task)
        self.running: dict[Task, _Child] = {}
        self.display = Display(len(tasks), len(self.outcome.done), jobs)
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
                        self.display.refresh({task: child.begun for task, child in self.running.items()})
                        refreshed = time.monotonic()
                    time.sleep(POLL_SECONDS)
            finally:
                self.display.close()
                self._stop_children()
        self.outcome.stopped = bool(self._signals)
        return self.outcome

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Signals are only counted, so that nothing is ever cut off between starting a child and knowing of it."""

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
            elif len(self.running) < self.jobs and self.outcome.done.issuperset(task.needs):
                self.pending.remove(task)
                self._start(task)

    def _obstacle(self, task: Task) -> str | None:
        """Why a task will never be able to start."""
        for need in task.needs:
            if need in self.outcome.failed or need in self.outcome.blocked:
                return f"needs {need.name}"
        return self.missing_data.get(task.run.dataset)

    def _start(self, task: Task) -> None:
        if task.state() is State.STALE:
            return self._fail(task, f"it was {State.STALE.value}: remove {task.directory} to run it again")
        threads = max(1, cpu_count() // self.jobs)
        environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
        try:
            task.prepare()
            with open(task.log, "a") as log:
                log.write(f"$ {task.shell_command}\n")
                log.flush()
                # a session of its own: Ctrl-C in the terminal reaches us alone, and we stop the child
                process = subprocess.Popen(
                    task.command,
                    cwd=task.workspace,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=_die_with_parent,
                )
        except OSError as error:
            return self._fail(task, f"cannot be started: {error}")
        self.running[task] = _Child(process, time.monotonic())
        self.display.started(task)

    def _collect(self) -> None:
        """Take in the tasks that have ended."""
        for task, child in list(self.running.items()):
            if (code := child.process.poll()) is None:
                continue
            del self.running[task]
            if code == 0 and task.state() is State.DONE:
                self.outcome.done.add(task)
                task.tidy()
                self.display.ended(task, "done", f"{time.monotonic() - child.begun:.0f} s, {last_line(task.log)}")
            elif code == 0:
                self._fail(task, "it ended without a record of a finished run")
            else:
                self._fail(task, f"exit code {code}: {last_line(task.log)}")

    def _fail(self, task: Task, reason: str) -> None:
        self.outcome.failed[task] = reason
        self.display.ended(task, "FAILED", reason)

    def _stop_children(self) -> None:
        """Ask all to stop, and end those that do not; a further signal cuts the waiting short."""
        for child in self.running.values():
            child.process.terminate()
        deadline, signals = time.monotonic() + GRACE_SECONDS, self._signals
        while any(child.process.poll() is None for child in self.running.values()):
            if time.monotonic() > deadline or self._signals > signals:
                for child in self.running.values():
                    child.process.kill()
            time.sleep(POLL_SECONDS)


def _die_with_parent() -> None:
    """In the child: be stopped by the kernel (Linux) when the runner is killed, so that nobody goes on unseen."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
