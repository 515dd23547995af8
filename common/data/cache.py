"""Decoded images beside their dataset: decoding takes seconds at every start, reading arrays takes a tenth of that."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from common.errors import is_damage, is_out_of_memory
from common.safe_json import open_at_once

DIRECTORY = ".cache"  # below the directory of datasets; may be removed at any time
FORMAT = 3  # of what is kept: another one where the same files are to give other arrays
_KEY = "key"


def cached(root: Path, name: str, sources: Iterable[Path], decode: Callable[[], dict[str, np.ndarray]]) -> dict:
    """What `decode()` gives, or gave the last time, where no source has changed since.

    A source has changed where its name, size, inode, or time of modification or of change is another. The file
    `root/.cache/<name>.npz` holds a checksum of each array: where it is damaged, it is written again. Where it cannot
    be written, for example to a directory that is read-only, nothing is kept.

    Args:
        root: directory of datasets.
        name: of the dataset, and what else `decode` depends on.
        sources: the files that `decode` reads.
        decode: reads them; returns arrays by name.
    """
    file = root / DIRECTORY / f"{name.replace('/', '-')}.npz"
    try:
        key = _key(root, sources)  # taken first: what changes while it is being read is decoded the next time
    except OSError:
        return decode()  # which says what is wrong
    arrays = _read(file, key)
    if arrays is None:
        arrays = decode()
        _write(file, {**arrays, _KEY: np.array(key)})
    return arrays


def _key(root: Path, sources: Iterable[Path]) -> str:
    digest = hashlib.md5(f"format {FORMAT}\n".encode())
    start = len(os.fsencode(root))
    for source in sources:
        state = os.stat(source)
        known = f" {state.st_size} {state.st_ino} {state.st_mtime_ns} {state.st_ctime_ns}\n"
        digest.update(os.fsencode(source)[start:] + known.encode())
    return digest.hexdigest()


def _read(file: Path, key: str) -> dict[str, np.ndarray] | None:
    """The arrays in `file`; None where there are none, they are damaged, or of another key."""
    try:
        with open_at_once(file) as stream, np.load(stream, allow_pickle=False) as stored:
            if str(stored[_KEY]) != key:
                return None
            return {name: stored[name] for name in stored.files if name != _KEY}
    except OSError as error:
        if is_out_of_memory(error):
            raise
        return None
    except Exception as error:
        if not is_damage(error):
            raise
        return None


def _write(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write under another name and rename: others see a whole file, however many write it at once."""
    partial = file.with_name(f"{file.name}.{secrets.token_hex(4)}.partial")
    try:
        file.parent.mkdir(exist_ok=True)
        with open(partial, "wb") as stream:
            np.savez(stream, **arrays)  # pyright: ignore[reportArgumentType]  # its stub fears an array `allow_pickle`
        os.replace(partial, file)
    except OSError:
        pass  # it would only have saved time
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()
