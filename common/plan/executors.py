"""Where commands are executed: as processes of this machine, or (cluster.py) on many."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from common.hardware import cpu_count
from common.plan.tasks import Task

LOST = -1000  # exit code of a job whose machine or worker went away


class ExecutorGoneError(Exception):
    """What executes jobs does not answer any more, such as a cluster whose head died; says so in a line."""


class Job(Protocol):
    """A command that is being executed."""

    def poll(self) -> int | None:
        """Its exit code, minus the signal that killed it; None as long as it goes on; LOST where its worker went away.

        Raises:
            ExecutorGoneError: nobody can say.
        """

    def terminate(self) -> None:
        """Ask it to stop; it writes down how far it came."""

    def kill(self) -> None:
        """End it."""


class Executor(Protocol):
    """Executes commands.

    Attributes:
        jobs: how many at a time.
        restarts: how often a job that was lost is started again.
    """

    jobs: int
    restarts: int

    def start(self, task: Task) -> Job:
        """Begin to execute a task's command, whose output is added to the task's log.

        Raises:
            OSError: it cannot be started.
            ExecutorGoneError: nor can any other.
        """
        ...


class LocalExecutor:
    """Processes of this machine, which share its cores."""

    restarts = 0

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs

    def start(self, task: Task) -> Job:
        threads = max(1, cpu_count() // self.jobs)
        return start_process(task.command, task.workspace, task.log, threads, signal.SIGTERM)


def start_process(
    command: list[str], workspace: Path, log: Path, threads: int, orphan_signal: signal.Signals
) -> subprocess.Popen:
    """Start a command.

    Args:
        command, workspace: what, and its working directory.
        log: file that its output is added to.
        threads: CPU threads that it may use.
        orphan_signal: what the kernel (Linux) sends it when this process is killed, so that nobody goes on unseen.
    """

    def die_with_parent() -> None:
        if sys.platform == "linux":
            pr_set_pdeathsig = 1
            ctypes.CDLL(None).prctl(pr_set_pdeathsig, orphan_signal)

    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONUNBUFFERED": "1"}
    with open(log, "a") as output:
        # a session of its own: Ctrl-C in the terminal reaches us alone, and we stop the child
        return subprocess.Popen(
            command,
            cwd=workspace,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
