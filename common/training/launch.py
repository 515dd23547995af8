"""Several processes on one machine, for scripts whose own flags ask for them. `torchrun` does the same from outside."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import NoReturn

GRACE = 5.0  # seconds in which the others may say themselves what stopped them, before they are stopped


def is_launched() -> bool:
    """Whether this process is one of several, started by `launch_processes` or `torchrun`."""
    return "RANK" in os.environ


def launch_processes(
    count: int, *, master: tuple[str, int] | None = None, first_rank: int = 0, world_size: int | None = None
) -> NoReturn:
    """Run this command line again in `count` processes, wait for them, and leave with their exit code.

    The first that fails stops the others. Stopping this process stops all.

    Args:
        count: processes on this machine.
        master: address and port where the processes of all machines meet (default: a free port of this machine).
        first_rank: of the processes here, among those of all machines.
        world_size: processes on all machines (default: those here).
    """
    address, port = master or ("127.0.0.1", _free_port())
    shared = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size or count)}
    # as torchrun does: without it each process would take every core
    shared["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // count))
    processes = [
        subprocess.Popen(
            [sys.executable, *sys.orig_argv[1:]],
            env={**os.environ, **shared, "RANK": str(first_rank + local), "LOCAL_RANK": str(local)},
            start_new_session=True,  # Ctrl-C comes here alone and is passed on once
        )
        for local in range(count)
    ]
    try:
        while None in (codes := [process.poll() for process in processes]) and not any(codes):
            time.sleep(0.05)
        end = time.monotonic() + GRACE
        while any(process.poll() is None for process in processes) and time.monotonic() < end:
            time.sleep(0.05)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
        for process in processes:
            process.wait()
    sys.exit(next((code if code > 0 else 1 for code in codes if code), 0))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
