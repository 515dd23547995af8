"""From `DISTILLER.TYPE` to a distiller's class: a registered name, or `FILE.py:CLASS`."""

from __future__ import annotations

import difflib
import itertools
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import UserError
from common.own_code import load_class, package_for
from edkd import distillers
from edkd.distillers import OURS, Distiller, distiller_dict
from edkd.distillers._base import StudentTraining
from edkd.engine.experiment import PAPER

OWN_DIRECTORY = Path(distillers.__file__).resolve().parent


def distiller_class(name: str) -> type[StudentTraining]:
    """The class that `DISTILLER.TYPE` names.

    Raises:
        UserError: there is none.
    """
    if name in distiller_dict:
        return distiller_dict[name]
    if ":" in name:
        return load_distiller(name)
    close = difflib.get_close_matches(name.upper(), distiller_dict, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else f"one of {', '.join(distiller_dict)}, or FILE.py:CLASS"
    raise UserError(f"DISTILLER.TYPE: unknown distiller '{name}': {hint}")


def promise(distiller: nn.Module | type[nn.Module], name: str) -> Any:
    """What a distiller, or its class, says by one of the attributes that `Distiller` lists.

    A class that somebody derived from one of those here has not made that one's promises: what it adds may read
    features, flatten them, or count steps. It makes its own.
    """
    kind = distiller if isinstance(distiller, type) else type(distiller)
    if kind in OURS or not any(base in OURS for base in kind.__mro__):
        return getattr(distiller, name, getattr(Distiller, name))
    theirs = itertools.takewhile(lambda base: base not in OURS, kind.__mro__)
    return next((vars(base)[name] for base in theirs if name in vars(base)), getattr(Distiller, name))


def load_distiller(source: str) -> type[StudentTraining]:
    """The class of `FILE.py:CLASS`; a file is loaded once. Any module with the methods of `StudentTraining` is one.

    What the file imports from its own directory is that directory's; `._base`, `._common` and distillers that are not
    there are those of `edkd/distillers/`.

    Args:
        source: the file is looked for in the working directory, in `edkd/` and in the repository.

    Raises:
        UserError: no such file or class, or a file that cannot be imported.
    """
    return load_class(source, "DISTILLER.TYPE", nn.Module, PAPER, _package_of)


def _package_of(directory: Path) -> str:
    """The package whose modules are the files of a directory, below `edkd.distillers` as far as imports can see."""
    if directory.is_relative_to(OWN_DIRECTORY):
        return ".".join([distillers.__name__, *directory.relative_to(OWN_DIRECTORY).parts])
    return package_for(directory, distillers.__name__)
