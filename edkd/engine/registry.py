"""From `DISTILLER.TYPE` to a distiller's class: a registered name, or `FILE.py:CLASS`."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import sys
import traceback
import types
from pathlib import Path

from torch import nn

from common.command_line import find_path
from common.errors import UserError, is_out_of_memory
from edkd import distillers
from edkd.distillers import distiller_dict
from edkd.engine.experiment import PAPER

OWN_DIRECTORY = Path(distillers.__file__).resolve().parent


def distiller_class(name: str) -> type[nn.Module]:
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


def load_distiller(source: str) -> type[nn.Module]:
    """The class of `FILE.py:CLASS`; a file is loaded once.

    What the file imports from its own directory is that directory's; `._base`, `._common` and distillers that are not
    there are those of `edkd/distillers/`.

    Args:
        source: the file is looked for in the working directory, in `edkd/` and in the repository.

    Raises:
        UserError: no such file or class, or a file that cannot be imported.
    """
    name_of_file, _, name = source.rpartition(":")
    file = find_path(name_of_file, PAPER).resolve()
    if not file.is_file():
        raise UserError(f"DISTILLER.TYPE {source}: there is no file '{name_of_file}'; give FILE.py:CLASS")
    try:
        module = importlib.import_module(f"{_package_of(file.parent)}.{file.stem}")
    except Exception as error:  # whatever a file does when it is imported
        if is_out_of_memory(error):
            raise
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else str(file)
        line = f":{error.lineno}" if isinstance(error, SyntaxError) else ""
        raise UserError(f"{file}{line} cannot be imported: {type(error).__name__}: {error} ({place})") from error
    kind = getattr(module, name, None)
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        found = [k for k, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise UserError(f"{file} has no distiller '{name}': its classes are {', '.join(found) or 'none'}")
    return kind


def _package_of(directory: Path) -> str:
    """The package whose modules are the files of a directory, below `edkd.distillers` as far as imports can see."""
    if directory.is_relative_to(OWN_DIRECTORY):
        return ".".join([distillers.__name__, *directory.relative_to(OWN_DIRECTORY).parts])
    name = f"{distillers.__name__}.files_{hashlib.sha256(str(directory).encode()).hexdigest()[:12]}"
    if name not in sys.modules:
        package = types.ModuleType(name, f"Distillers in {directory}.")
        package.__path__ = [str(directory)]
        sys.modules[name] = package
    return name
