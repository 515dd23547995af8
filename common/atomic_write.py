"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import TrainingError, UserError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def write_atomically(path: Path, write: Callable[[Path], Any], *, writer: str = "") -> None:
    """Call `write(temporary_path)`, sync the file to disk and rename it to `path`.

    A process killed at any moment leaves either the old file or the new one.

    Args:
        path: of the file.
        write: writes it where it is told to.
        writer: tells this process from others that may be writing the same file.

    Raises:
        UserError: it cannot be written.
        TrainingError: there is no room for it.
    """
    temporary = path.with_name(f".{path.name}{writer and f'.{writer}'}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        kind = TrainingError if error.errno in NO_ROOM else UserError
        raise kind(f"cannot write {path} ({error.strerror}); what was there before is untouched") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text_atomically(path: Path, text: str, *, writer: str = "") -> None:
    """The same with text, in UTF-8; what that has no bytes for, such as odd names of files, is escaped."""
    write_atomically(
        path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"), writer=writer
    )


def copy_atomically(source: Path, path: Path) -> None:
    """The same with the content and the times of another file."""
    write_atomically(path, lambda temporary: shutil.copy2(source, temporary))
