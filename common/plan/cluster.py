"""The plan on a Ray cluster (`pip install .[cluster]`, docs/cluster.md): each run a task with its share of a GPU.

Ray places the tasks and tells when a worker or machine went away; the run then starts again elsewhere and resumes. The
repository, its environment, the data and the results lie on a path that all machines share.
"""

from __future__ import annotations

import importlib
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.plan.executors import LOST, ExecutorGoneError, Job, start_process
from common.plan.tasks import Task

POLL_SECONDS = 0.1
HEAD_SECONDS, HEAD_FAILURES = 2.0, 3  # how often the head is asked, and how often in a row it may be silent
GRACE_SECONDS = 20.0  # for a stopped run to write its record


class RayExecutor:
    """Runs on a Ray cluster.

    Args:
        address: of the cluster: "auto" (the one of this machine), "HOST:PORT", or "ray://HOST:PORT".
        jobs: how many at a time; None leaves that to the cluster's resources.
        cpus, gpus: of each run; a run that takes 0.25 of a GPU shares it with three others.
        restarts: how often a run whose worker went away is started again.

    Raises:
        UserError: no Ray here, or no cluster there.
    """

    def __init__(self, address: str, *, jobs: int | None, cpus: int, gpus: float | None, restarts: int = 3) -> None:
        try:
            ray: Any = importlib.import_module("ray")  # there only where it is wanted
        except ImportError as error:
            raise UserError("--cluster needs Ray: pip install '.[cluster]' in the repository") from error
        try:
            _knock(address)
            ray.init(address, log_to_driver=False, configure_logging=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(f"--cluster {address}: no Ray cluster answers there ({error})") from error
        self._ray, self._head = ray, _Head(ray.get_runtime_context().gcs_address)
        resources = ray.cluster_resources()
        if gpus is None:
            gpus = 1.0 if resources.get("GPU") else 0.0
        if cpus > resources.get("CPU", 0) or gpus > resources.get("GPU", 0):
            raise UserError(f"--cluster {address}: no machine there has {cpus} cores and {gpus:g} GPUs for a run")
        self._cpus, self.restarts = cpus, restarts
        places = [resources["CPU"] / cpus, *([resources["GPU"] / gpus] if gpus else [])]
        self.jobs = jobs or max(1, int(min(places)))
        # we start lost runs again ourselves: the plan may have been stopped meanwhile
        self._execute = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(execute)

    def start(self, task: Task) -> Job:
        reference = self._execute.remote(task.command, task.workspace, task.log, self._cpus)
        return _RayJob(self._ray, self._head, reference)


class _RayJob:
    def __init__(self, ray: Any, head: _Head, reference: object) -> None:
        self._ray, self._head, self._reference = ray, head, reference

    def poll(self) -> int | None:
        ray = self._ray
        self._head.require()
        if not ray.wait([self._reference], timeout=0)[0]:
            return None
        try:
            return ray.get(self._reference)
        except (ray.exceptions.TaskCancelledError, KeyboardInterrupt):
            return -signal.SIGTERM
        except ray.exceptions.RayTaskError as error:
            raise OSError(f"a worker of the cluster cannot execute commands: {error.cause}") from error
        except ray.exceptions.RayError:
            return LOST

    def terminate(self) -> None:
        self._ray.cancel(self._reference)

    def kill(self) -> None:
        self._ray.cancel(self._reference, force=True)


class _Head:
    """The machine that a cluster hangs on. Ray itself waits for it for a minute, and then ends this process.

    Args:
        address: where it listens, "HOST:PORT".
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._asked, self._failures = time.monotonic(), 0

    def require(self) -> None:
        """Raises:
        ExecutorGoneError: it has not answered several times.
        """
        if time.monotonic() - self._asked < HEAD_SECONDS:
            return
        self._asked = time.monotonic()
        try:
            _knock(self.address)
            self._failures = 0
        except OSError:
            self._failures += 1
        if self._failures >= HEAD_FAILURES:
            raise ExecutorGoneError(f"the head of the Ray cluster ({self.address}) does not answer any more")


def _knock(address: str) -> None:
    """Raise an OSError where nobody answers; Ray itself asks for minutes."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


def execute(command: list[str], workspace: Path, log: Path, threads: int) -> int:
    """On a worker: execute a command to its end; returns its exit code.

    Raises:
        KeyboardInterrupt: canceled; the command was asked to stop first.
    """
    # an orphan is killed at once, because the run starts again elsewhere and must find the directory free
    process = start_process(command, workspace, log, threads, signal.SIGKILL)
    try:
        while process.poll() is None:  # Ray's canceling does not interrupt a call that waits
            time.sleep(POLL_SECONDS)
        return process.returncode
    except KeyboardInterrupt:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
