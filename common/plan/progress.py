"""What a person sees while the plan runs: lines of what happened, and in a terminal the state of everything below."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from common.plan.tasks import Task

_TAIL_BYTES = 4096
MOST_LINES = 20  # of running jobs; a cluster may have more


def last_line(log: Path) -> str:
    """The last line of a log that says something; "starting" after the command's own line, which begins with "$ "."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
    return "starting" if line.startswith("$ ") else line


class Display:
    """Progress of the whole plan and of each running job, in one place.

    Args:
        total: number of tasks.
        finished: how many of them were finished before.
        jobs: how many run at a time.
    """

    def __init__(self, total: int, finished: int, jobs: int) -> None:
        self.total, self.finished = total, finished
        # disable=None: bars only where a person is watching
        from tqdm import tqdm  # the plan can be read without it

        self._bar = tqdm(total=total, initial=finished, desc="all runs", unit="run", leave=False, disable=None)
        self._lines = [
            tqdm(position=i, bar_format="{desc}", leave=False, disable=None)
            for i in range(1, min(jobs, total, MOST_LINES) + 1)
        ]

    def started(self, task: Task) -> None:
        if self._bar.disable:
            self._write("started", task, "")

    def restarted(self, task: Task, reason: str) -> None:
        """A task starts again and resumes."""
        self._write("AGAIN", task, reason)

    def waits(self, task: Task) -> None:
        """Another process is executing the same task."""
        self._write("WAITS", task, "another process is at it; what it leaves will count here")

    def ended(self, task: Task, verdict: str, details: str) -> None:
        """A task has been done, has failed, or will not be run."""
        self.finished += 1
        self._bar.update()
        self._write(verdict, task, details)

    def _write(self, verdict: str, task: Task, details: str) -> None:
        count = f"[{self.finished:{len(str(self.total))}}/{self.total}]"
        self._bar.write(f"{count} {verdict:8} {task.name}{details and ': '}{details}")
        sys.stdout.flush()  # a log that somebody follows shows it now

    def refresh(self, running: Mapping[Task, float]) -> None:
        """Show the last log line of each running task; `running` tells when it started."""
        width = shutil.get_terminal_size().columns - 1
        texts = [f"{time.monotonic() - begun:6.0f} s  {t.name}: {last_line(t.log)}" for t, begun in running.items()]
        for line, text in zip(self._lines, texts + [""] * len(self._lines), strict=False):
            line.set_description_str(text[:width])
        self._bar.refresh()

    def close(self) -> None:
        for line in (*reversed(self._lines), self._bar):
            line.close()
