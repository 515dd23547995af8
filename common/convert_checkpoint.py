"""Make a checkpoint that is not opened, because it names Python code, into one of plain values: runs nothing from it.

`python -m common.convert_checkpoint IN OUT` keeps tensors, numbers, texts and what holds them. NumPy's scalars and
arrays become numbers and tensors, an argparse.Namespace a dictionary. Objects of other classes are left out, and named.
"""

from __future__ import annotations

import argparse
import collections
import functools
import os
import pickle
import re
import types
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._utils import _rebuild_parameter, _rebuild_tensor_v2

from common.command_line import ArgumentParser, cli_main
from common.errors import UserError, is_damage
from common.pickled_bytes import latin_1
from common.training.checkpoints import load_checkpoint, save_checkpoint, verify_checksums

MOST_DEPTH, MOST_VALUES = 64, 10**6  # of what a checkpoint holds
NUMBERS = re.compile(r"[<>|=]?[biufc][0-9]{1,2}|bool|u?int[0-9]{1,2}|float[0-9]{1,2}|complex[0-9]{1,3}")


class _Stand:
    """Takes the place of a class or function that a file names: keeps what it is given, and does nothing.

    Attributes:
        given: arguments that it was called with.
        state: what its attributes were set to.
    """

    given: tuple[Any, ...]
    state: Any

    def __new__(cls, *given: Any, **named: Any) -> _Stand:
        stand = super().__new__(cls)
        object.__setattr__(stand, "given", given)
        object.__setattr__(stand, "state", named)
        return stand

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        object.__setattr__(self, "state", state)

    def __setitem__(self, key: Any, value: Any) -> None:
        """Entries of other kinds of dictionaries are left out with them, and of lists."""

    def __call__(self, *given: Any) -> _Stand:
        return self

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass


@functools.cache
def _stand_for(name: str) -> type[_Stand]:
    """A class of its own for each name, by which what was made of it is known."""
    return type(name, (_Stand,), {})


# all that is called while a file is read: they make tensors, storages and texts
_REAL = {
    "collections.OrderedDict": collections.OrderedDict,
    "_codecs.encode": latin_1,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch.Size": torch.Size,
    "torch.storage.UntypedStorage": torch.UntypedStorage,
}


class _Unpickler(pickle.Unpickler):
    """Imports nothing: a name is one of `_REAL`, a dtype, or a `_Stand`."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        return _REAL.get(f"{module}.{name}") or _stand_for(f"{module}.{name}")


_PICKLE = types.SimpleNamespace(
    __name__="pickle", Unpickler=_Unpickler, load=lambda file, **options: _Unpickler(file, **options).load()
)


def read_inert(path: Path) -> Any:
    """The content of a checkpoint, with a `_Stand` for each object that is not plain.

    Raises:
        UserError: no checkpoint, a damaged one, or one that is a program.
    """
    if path.is_fifo():
        raise UserError(f"cannot read {path} (it is a pipe)")
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            verify_checksums(file, path)
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    if any(name.endswith("constants.pkl") for name in archive.namelist()):
                        raise UserError(f"{path} is a TorchScript program, not a checkpoint")
            file.seek(0)
            return torch.load(file, map_location="cpu", pickle_module=_PICKLE, weights_only=False)
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})") from error
    except Exception as error:
        if not is_damage(error):
            raise
        raise UserError(f"{path} is damaged, no checkpoint, or cannot be read without running it") from error


class _UnfitError(Exception):
    """What a converted file does not hold."""


class _Cleaner:
    """Makes values without objects.

    Attributes:
        left_out: what was left out, with its place and kind.
    """

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self._count = 0

    def clean(self, value: Any, place: str = "", depth: int = 0) -> Any:
        """A value from `read_inert` without objects.

        Raises:
            _UnfitError: it is an object of another class.
            UserError: nested more deeply than a checkpoint, or in a circle.
        """
        self._count += 1
        if depth > MOST_DEPTH or self._count > MOST_VALUES:
            raise UserError(f"it holds more within each other than a checkpoint does, at {place[:200]}")
        if isinstance(value, _Stand):
            value = _value_of(value)
        if isinstance(value, Tensor | str | bytes | bool | int | float | complex) or value is None:
            return value
        if not isinstance(value, Mapping | list | tuple):
            raise _UnfitError(type(value).__name__)
        kept = {}
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            where = f"{place}.{key}" if place else str(key)
            try:
                kept[key if isinstance(key, str | int) else str(key)] = self.clean(inner, where, depth + 1)
            except _UnfitError as kind:
                self.left_out.append(f"{where} ({kind})")
        return kept if isinstance(value, Mapping) else list(kept.values())


def _value_of(stand: _Stand) -> Any:
    """What a stand-in stands for, where that is a value.

    Raises:
        _UnfitError: it is an object of some class.
    """
    name, given = type(stand).__name__, stand.given
    if name == "argparse.Namespace" and isinstance(stand.state, Mapping):
        return dict(stand.state)
    try:
        if re.fullmatch(r"numpy\.(_?core)\.multiarray\.scalar", name):
            return np.frombuffer(_bytes(given[1]), _dtype(given[0]))[0].item()
        if re.fullmatch(r"numpy\.(_?core)\.multiarray\._reconstruct", name):
            _, shape, dtype, fortran, data = stand.state
            array = np.frombuffer(_bytes(data), _dtype(dtype)).reshape(shape, order="F" if fortran else "C")
            return torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise _UnfitError(f"{name}: {error}") from error
    raise _UnfitError(name)


def _bytes(data: Any) -> bytes:
    return data if isinstance(data, bytes) else data.encode("latin1")


def _dtype(stand: Any) -> np.dtype:
    """NumPy's type of numbers, from the stand-in for it."""
    name = stand.given[0]
    if not (type(stand).__name__ == "numpy.dtype" and isinstance(name, str) and NUMBERS.fullmatch(name)):
        raise ValueError("no numbers")
    order = stand.state[1] if isinstance(stand.state, tuple) and len(stand.state) > 1 else "="
    return np.dtype(name).newbyteorder(order if order in ("<", ">") else "=")


def convert(source: Path, target: Path) -> list[str]:
    """Write the plain values of a checkpoint to another file.

    Returns:
        What was left out.

    Raises:
        UserError: as of `read_inert`, a target that exists, nothing to keep.
    """
    if os.path.lexists(target):
        raise UserError(f"{target} is there already: give another name")
    cleaner = _Cleaner()
    try:
        content = cleaner.clean(read_inert(source))
    except _UnfitError as kind:
        raise UserError(f"{source} holds an object ({kind}), not a checkpoint of values") from kind
    if not isinstance(content, dict) or not content:
        raise UserError(f"{source} holds nothing that can be kept ({'; '.join(cleaner.left_out[:3])})")
    save_checkpoint(content, target)
    load_checkpoint(target)
    return cleaner.left_out


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m common.convert_checkpoint", description=__doc__)
    parser.add_argument("source", type=Path, metavar="IN", help="checkpoint that is not opened")
    parser.add_argument("target", type=Path, metavar="OUT", help="new file")
    return parser.parse_args()


@cli_main
def main() -> None:
    args = parse_arguments()
    for what in convert(args.source, args.target):
        print(f"left out: {what}")
    print(f"wrote {args.target}")


if __name__ == "__main__":
    main()
