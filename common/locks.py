"""Files that one process locks and others respect, also where the file system knows no locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK = ".lock"  # of a run's directory

_TAKEN = (errno.EAGAIN, errno.EACCES)  # by another process; the second is how Windows' shares say it
_warned: set[int] = set()  # devices of file systems without locks


def take_lock(path: Path, *, wait: bool = False) -> IO[str]:
    """Lock a file, which is made when absent, until it is closed or this process ends.

    Where the file system knows no locks, which some of NFS, Lustre and FUSE say in many ways, one warning says so and
    everything goes on.

    Args:
        path: of the file.
        wait: for another process that has it.

    Raises:
        BlockingIOError: another process has it.
        OSError: it cannot be opened.
    """
    file = open(path, "a")  # noqa: SIM115 - open for writing: NFS gives no exclusive lock on others
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno in _TAKEN:
            file.close()
            raise BlockingIOError(error.errno, error.strerror, str(path)) from error
        _warn_once(os.fstat(file.fileno()).st_dev, path.parent, error)
    return file


def is_locked(path: Path) -> bool:
    """Whether another process has locked a file; False where there is none, or no locks."""
    try:
        file = open(path, "r+")  # noqa: SIM115
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _TAKEN
    return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock, and keep others waiting meanwhile."""
    with take_lock(path, wait=True):
        yield


def _warn_once(device: int, directory: Path, error: OSError) -> None:
    if device not in _warned:
        _warned.add(device)
        print(
            f"warning: the file system of {directory} knows no locks ({error.strerror}): do not start the same run "
            "twice",
            file=sys.stderr,
            flush=True,
        )
