"""Checks in processes of their own, several at a time: one that loses its device takes no other check with it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from benchmarks.first_run.verdicts import FAILED, Check, Verdict
from common.command_line import REPOSITORY

POLL_SECONDS = 0.2
ABORT_SECONDS = 2.0  # to write a traceback, and to be gone after a kill
LOG_LINES = 40  # of a process that was taken down


@dataclasses.dataclass(eq=False)
class Worker:
    """A process with the checks that it has still to run."""

    process: subprocess.Popen
    waiting: list[str]
    log: Path
    running: str | None = None
    since: float = dataclasses.field(default_factory=time.time)
    hung: bool = False

    def end(self) -> None:
        """Kill it and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a driver can hold on to it
            self.process.wait(ABORT_SECONDS)

    def abort(self) -> None:
        """Kill it, too, after it has written where it hangs."""
        self.process.send_signal(signal.SIGABRT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(ABORT_SECONDS)
        self.end()


class Pool:
    """Runs shards of checks, each in a process, and hands every verdict on as it comes.

    Args:
        checks: name -> check.
        command: of a worker, to which the names of its checks are appended.
        report: told each verdict.
        start_limit: seconds in which a process has to begin its first check.
        patience: times the limits of checks is what they may take.
    """

    def __init__(
        self,
        checks: dict[str, Check],
        command: Sequence[str],
        report: Callable[[Verdict], None],
        start_limit: float = 90.0,
        patience: float = 1.0,
    ) -> None:
        self.checks, self.command, self.report = checks, list(command), report
        self.start_limit, self.patience = start_limit, patience
        self.events: Queue[tuple[Worker, dict[str, Any] | None]] = Queue()
        self.logs = tempfile.TemporaryDirectory()
        self.started = 0

    def run(self, shards: Sequence[Sequence[str]], jobs: int, until: float) -> list[str]:
        """Run all shards, `jobs` at a time, the first ones first.

        Args:
            shards: names of checks, those of a process together.
            jobs: processes at a time.
            until: when it has to be over, by `time.time`.

        Returns:
            Names of the checks that have no verdict for want of time.
        """
        queue = [list(shard) for shard in shards if shard]
        working: list[Worker] = []
        try:
            while (queue or working) and time.time() < until:
                while queue and len(working) < jobs:
                    working.append(self._start(queue.pop(0)))
                for worker, event in self._next_events():
                    if worker not in working:
                        continue  # given up already
                    if event is None:
                        working.remove(worker)
                        queue[:0] = self._ended(worker)
                    else:
                        self._take(worker, event)
                for worker in working:
                    self._look_after(worker)
        finally:
            for worker in working:
                worker.end()
        left = [name for worker in working for name in ([worker.running] if worker.running else []) + worker.waiting]
        return left + [name for shard in queue for name in shard]

    def _start(self, names: list[str]) -> Worker:
        self.started += 1
        log = Path(self.logs.name, str(self.started))
        with open(log, "w") as file:
            process = subprocess.Popen(
                [*self.command, *names],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        worker = Worker(process, names, log)
        threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        return worker

    def _listen(self, worker: Worker) -> None:
        for line in worker.process.stdout or ():
            with contextlib.suppress(ValueError):  # what a library has to say before the first check
                self.events.put((worker, json.loads(line)))
        worker.process.wait()
        self.events.put((worker, None))

    def _next_events(self) -> list[tuple[Worker, dict[str, Any] | None]]:
        try:
            return [self.events.get(timeout=POLL_SECONDS)]
        except Empty:
            return []

    def _take(self, worker: Worker, event: dict[str, Any]) -> None:
        worker.since = time.time()
        if "begin" in event:
            worker.running = event["begin"]
            worker.waiting.remove(event["begin"])
        else:
            worker.running = None
            self.report(Verdict(**event))

    def _look_after(self, worker: Worker) -> None:
        """Kill a process that hangs."""
        limit = self.checks[worker.running].limit if worker.running else self.start_limit
        if time.time() - worker.since > limit * self.patience:
            worker.hung = True
            worker.abort()
            self.events.put((worker, None))  # whether or not it could be killed

    def _ended(self, worker: Worker) -> list[list[str]]:
        """Say what took a process down; returns what it has left undone, for another process."""
        code, last = worker.process.returncode, last_words(worker.log)
        log = "\n".join(lines_of(worker.log)[-LOG_LINES:])
        seconds = time.time() - worker.since
        how = f"hung for {seconds:.0f} s and was killed" if worker.hung else f"took its process down (exit code {code})"
        if worker.running:
            self.report(Verdict(worker.running, FAILED, f"{how}: {last}", seconds, log=log))
        elif code and worker.waiting and not last.startswith("the device does not answer"):
            # a process that cannot even begin counts against one check, so that this comes to an end
            text = f"its process ended before it (exit code {code}): {last}"
            self.report(Verdict(worker.waiting.pop(0), FAILED, text, log=log))
        return [worker.waiting] if worker.waiting else []


def lines_of(log: Path) -> list[str]:
    """What a process has written to standard error."""
    return log.read_text(errors="replace").strip().splitlines()


def last_words(log: Path) -> str:
    """The line of it that says why the process ended."""
    lines = lines_of(log)
    fatal = [line for line in lines if line.startswith("Fatal Python error") or "what():" in line]  # tracebacks follow
    return (fatal or lines or ["no message"])[-1][:300]


def shards_of(names: Sequence[str], count: int) -> list[list[str]]:
    """Deal names out to `count` processes, so that all begin with what comes first."""
    return [list(names[i::count]) for i in range(min(count, len(names)))]


def worker_command() -> list[str]:
    """What starts this program again, wherever it was started."""
    return [sys.executable, "-m", "benchmarks.gpu_first_run"]
