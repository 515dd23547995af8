"""Files that one process locks and others respect, also where the file system knows no locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

LOCK = ".lock"  # of a run's directory

# what file systems without locks answer: some NFS and Lustre mounts, some of FUSE
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EBADF, errno.EIO}


def take_lock(path: Path, *, wait: bool = False) -> IO[str]:
    """Lock a file, which is made when absent, until it is closed or this process ends.

    Where the file system knows no locks, one warning says so and everything goes on.

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
    except BlockingIOError:
        file.close()
        raise
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            file.close()
            raise
        _warn_once(str(path.parent), os.strerror(error.errno))
    return file


def is_locked(path: Path) -> bool:
    """Whether another process has locked a file; False where there is none, or no locks."""
    try:
        with open(path, "r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock, and keep others waiting meanwhile."""
    with take_lock(path, wait=True):
        yield


@functools.cache
def _warn_once(directory: str, reason: str) -> None:
    print(
        f"warning: the file system of {directory} knows no locks ({reason}): do not start the same run twice",
        file=sys.stderr,
        flush=True,
    )
