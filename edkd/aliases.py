"""Names under which files written for mdistiller import what is here.

* `mdistiller` and all below it is `edkd`, unless mdistiller itself is installed: then its name stays its own.
* In a package `edkd/distillers/<name>/`, a module that the package lacks is that of `edkd/distillers/` (`from ._base
  import Distiller`), and `from ..engine.cfg import CFG` is `edkd/engine/cfg.py`, as for a file of mdistiller's own.

An alias is the very same module: a class imported by either name is one class.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import Any

HERE, THEIRS = "edkd", "mdistiller"
DISTILLERS = f"{HERE}.distillers"
ABOVE = ("engine", "models")  # beside `distillers`, in both trees


class _SameModule(importlib.abc.Loader):
    """Gives a module that has another name already."""

    def __init__(self, name: str) -> None:
        self.name = name

    def create_module(self, spec: Any) -> ModuleType:
        module = importlib.import_module(self.name)
        self.spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec  # the import system has put the alias's there


class Aliases(importlib.abc.MetaPathFinder):
    """Finds modules by their other names."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        real = _real_name(name, path)
        if real is None:
            return None
        try:
            if importlib.util.find_spec(real) is not None:
                return importlib.machinery.ModuleSpec(name, _SameModule(real))
        except ModuleNotFoundError:
            pass  # a parent that does not exist either
        if beside := _beside(name):
            return importlib.machinery.ModuleSpec(name, _SameModule(beside))
        if name.startswith(f"{THEIRS}."):
            message = f"there is no {name} here: docs/distillers.md lists what there is of mdistiller"
            raise ModuleNotFoundError(message, name=name)
        return None


def _real_name(name: str, path: Any) -> str | None:
    """Of which module `name` is an alias; None where it is none. `path` is that of its package."""
    if name == THEIRS:
        return HERE if importlib.machinery.PathFinder.find_spec(name) is None else None
    if name.startswith(f"{THEIRS}."):
        is_ours = sys.modules[THEIRS] is sys.modules[HERE]
        return HERE + name.removeprefix(THEIRS) if is_ours else None
    if not name.startswith(f"{DISTILLERS}."):
        return None
    first, *rest = name.removeprefix(f"{DISTILLERS}.").split(".")
    if first in ABOVE:
        return ".".join([HERE, first, *rest])
    lacks_it = len(rest) == 1 and importlib.machinery.PathFinder.find_spec(name, path) is None
    return f"{DISTILLERS}.{rest[0]}" if lacks_it else None


def _beside(name: str) -> str | None:
    """A fork's `mdistiller.distillers.X` where X lies beside a distiller's file; the file that is read last counts."""
    parent, _, module = name.rpartition(".")
    if parent != f"{THEIRS}.distillers":
        return None
    packages = [package for package in list(sys.modules) if package.startswith(f"{DISTILLERS}.files_")]
    directories = [package for package in packages if package.count(".") == DISTILLERS.count(".") + 1]
    found = (f"{package}.{module}" for package in reversed(directories))
    return next((real for real in found if importlib.util.find_spec(real) is not None), None)


def install() -> None:
    """Let imports know the other names."""
    if not any(isinstance(finder, Aliases) for finder in sys.meta_path):
        sys.meta_path.insert(0, Aliases())
