"""Pickles as the published CIFAR files hold them, opcode by opcode."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def _opcodes(value: object) -> Iterator[bytes]:
    """Pickle of a value as Python 2 wrote it: what the published CIFAR files hold, and what readers of them expect.

    Python 3 would write other string types and, for arrays, module names that depend on the installed numpy.
    """
    if isinstance(value, bool):
        yield pickle.NEWTRUE if value else pickle.NEWFALSE
    elif value is None:
        yield pickle.NONE
    elif isinstance(value, int):
        yield pickle.BININT + struct.pack("<i", value)
    elif isinstance(value, (str, bytes)):
        content = value.encode("latin1") if isinstance(value, str) else value
        yield pickle.BINSTRING + struct.pack("<i", len(content))
        yield content
    elif isinstance(value, tuple):
        yield pickle.MARK
        for item in value:
            yield from _opcodes(item)
        yield pickle.TUPLE
    elif isinstance(value, list):
        yield pickle.EMPTY_LIST + pickle.MARK
        for item in value:
            yield from _opcodes(item)
        yield pickle.APPENDS
    elif isinstance(value, dict):
        yield pickle.EMPTY_DICT + pickle.MARK
        for key, item in value.items():
            yield from _opcodes(key)
            yield from _opcodes(item)
        yield pickle.SETITEMS
    elif isinstance(value, np.ndarray) and value.dtype == np.uint8:
        # _reconstruct(ndarray, (0,), "b"), then its state (1, shape, dtype("u1", 0, 1), False, content)
        yield pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n"
        yield pickle.MARK + pickle.GLOBAL + b"numpy\nndarray\n"
        yield from _opcodes((0,))
        yield from _opcodes("b")
        yield pickle.TUPLE + pickle.REDUCE + pickle.MARK
        yield from _opcodes(1)
        yield from _opcodes(value.shape)
        yield pickle.GLOBAL + b"numpy\ndtype\n"
        yield from _opcodes(("u1", 0, 1))
        yield pickle.REDUCE
        yield from _opcodes((3, "|", None, None, None, -1, -1, 0))
        yield pickle.BUILD
        yield from _opcodes(False)
        yield from _opcodes(value.tobytes())
        yield pickle.TUPLE + pickle.BUILD
    else:
        raise TypeError(f"CIFAR files hold no {type(value).__name__}")


def write_pickle(path: Path, value: dict) -> None:
    with path.open("wb") as file:
        file.write(pickle.PROTO + b"\x02")
        file.writelines(_opcodes(value))
        file.write(pickle.STOP)
