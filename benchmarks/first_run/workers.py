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

from benchmarks.first_run.verdicts import ABSENT, FAILED, Check, Verdict
from common.command_line import REPOSITORY

POLL_SECONDS = 0.2


@dataclasses.dataclass
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
        self.process.wait()


class Pool:
    """Runs shards of checks, each in a process, and hands every verdict on as it comes.

    Args:
        checks: name -> check.
        command: of a worker, to which the names of its checks are appended.
        report: told each verdict.
        until: when everything has to be over, by `time.time`.
        start_limit: seconds in which a process has to begin its first check.
    """

    def __init__(
        self,
        checks: dict[str, Check],
        command: Sequence[str],
        report: Callable[[Verdict], None],
        until: float,
        start_limit: float = 120.0,
    ) -> None:
        self.checks, self.command, self.report, self.until = checks, list(command), report, until
        self.start_limit = start_limit
        self.events: Queue[tuple[Worker, dict[str, Any] | None]] = Queue()
        self.logs = tempfile.TemporaryDirectory()
        self.started = 0

    def run(self, shards: Sequence[Sequence[str]], jobs: int) -> None:
        """Run all shards, `jobs` at a time, the first ones first."""
        queue = [list(shard) for shard in shards if shard]
        working: list[Worker] = []
        try:
            while queue or working:
                while queue and len(working) < jobs and time.time() < self.until:
                    working.append(self._start(queue.pop(0)))
                for worker, event in self._next_events():
                    if event is None:
                        working.remove(worker)
                        queue[:0] = self._ended(worker)
                    else:
                        self._take(worker, event)
                for worker in working:
                    self._look_after(worker)
                if time.time() >= self.until:
                    break
        finally:
            for worker in working:
                worker.end()
        left = [name for worker in working for name in ([worker.running] if worker.running else []) + worker.waiting]
        for name in left + [name for shard in queue for name in shard]:
            self.report(Verdict(name, ABSENT, "out of time"))

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
        for line in worker.process.stdout:
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
        """Kill a process that hangs; the end of its output tells the rest."""
        limit = self.checks[worker.running].limit if worker.running else self.start_limit
        if time.time() - worker.since > limit:
            worker.hung = True
            worker.end()

    def _ended(self, worker: Worker) -> list[list[str]]:
        """Say what took a process down; returns what it has left undone, for another process."""
        code, last = worker.process.returncode, last_line(worker.log)
        how = "hung and was killed" if worker.hung else f"took its process down (exit code {code})"
        if worker.running:
            self.report(Verdict(worker.running, FAILED, f"{how}: {last}", time.time() - worker.since))
        elif code and worker.waiting and not last.startswith("the device does not answer"):
            # a process that cannot even begin counts against one check, so that this comes to an end
            self.report(
                Verdict(worker.waiting.pop(0), FAILED, f"its process ended before it (exit code {code}): {last}")
            )
        return [worker.waiting] if worker.waiting else []


def last_line(log: Path) -> str:
    """Of what a process has written to standard error."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "no message"


def shards_of(names: Sequence[str], count: int) -> list[list[str]]:
    """Deal names out to `count` processes, so that all begin with what comes first."""
    return [list(names[i::count]) for i in range(min(count, len(names)))]


def worker_command() -> list[str]:
    """What starts this program again, wherever it was started."""
    return [sys.executable, "-m", "benchmarks.gpu_first_run"]
