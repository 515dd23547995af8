"""Which files are opened to be read while somebody's code is imported or makes its objects."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import sys
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

STANDARD = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "<frozen ")
NO_FILES = ("/proc/", "/sys/", "/dev/")  # what is there is made when it is read

_noted: dict[Path, dict[str, str]] = defaultdict(dict)  # by the file of the code: path -> who opened it first
_listening: dict[str, str] | None = None


@contextlib.contextmanager
def files_noted(own: Path) -> Iterator[None]:
    """Within it, each file that is opened to be read is noted as one of the code in the file `own`."""
    global _listening
    _listen()
    before, _listening = _listening, _noted[own]
    try:
        yield
    finally:
        _listening = before


def files_read(own: Path) -> Iterator[tuple[Path, Path]]:
    """The files that have been noted, and the source that opened each, libraries of Python's own aside."""
    for name, opener in _noted.get(own, {}).items():
        file = Path(name)
        with contextlib.suppress(ValueError, NotImplementedError):
            file = Path(importlib.util.source_from_cache(name))  # a module that was compiled before
        if file.is_file():
            yield file.resolve(), Path(opener)


@functools.cache
def _listen() -> None:
    sys.addaudithook(_hear)  # for good: Python knows no way to take it back


def _hear(event: str, arguments: tuple) -> None:
    if event != "open" or _listening is None:
        return
    path, _, flags = arguments
    if isinstance(path, str | bytes | os.PathLike) and flags & os.O_ACCMODE == os.O_RDONLY:
        name = os.path.abspath(os.fsdecode(path))
        if not name.startswith(NO_FILES):
            _listening.setdefault(name, _opener())


def _opener() -> str:
    """The source of the nearest caller outside of Python's own libraries."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(STANDARD):
        frame = frame.f_back
    return frame.f_code.co_filename
