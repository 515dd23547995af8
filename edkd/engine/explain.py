"""What went wrong in a distiller, in one line: a configuration that does not fit, or an error in its code."""

from __future__ import annotations

import inspect
import re
import traceback
from pathlib import Path

import torch

from common.command_line import REPOSITORY
from common.errors import UserError
from common.models import Network
from edkd.distillers import OURS
from edkd.engine.cuda_as_cpu import CUDA_SWITCH
from edkd.engine.node import UndeclaredKeyError

# what PyTorch says where widths, heights or numbers of stages differ
SHAPES = re.compile(
    r"size|shape|channel|dimension|broadcast|mat1|out of (range|bounds)|no regression from", re.IGNORECASE
)
NO_GPU = re.compile(r"CUDA|NVIDIA|cuda")
LONGEST = 400  # characters of a message


class DistillerError(UserError):
    """A distiller that cannot be trained as it is configured.

    Attributes:
        details: the traceback, for a log; None where a configuration does not fit a distiller of this repository.
    """

    def __init__(self, message: str, details: str | None) -> None:
        super().__init__(message)
        self.details = details


def explain(error: Exception, kind: type, name: str, pair: str) -> DistillerError:
    """The error for people.

    Args:
        error: raised when the distiller was built or tried.
        kind: its class.
        name: `DISTILLER.TYPE`.
        pair: names of teacher and student.
    """
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST]} ({place_of(error, kind)})"
    if not torch.cuda.is_available() and NO_GPU.search(str(error)) and not isinstance(error, UndeclaredKeyError):
        message = f"{name} insists on a GPU, and there is none here: {what}; {CUDA_SWITCH} runs such calls on the CPU"
    elif isinstance(error, UndeclaredKeyError):
        message = f"{name} reads a key that is not declared: {what}; declare it in edkd/engine/cfg.py"
    elif _is_misfit(error):
        message = f"{name} does not fit {pair}: {what}; do the keys of {name} fit their features?"
    elif isinstance(error, AttributeError) and "object has no attribute" in str(error) and _of_network(error):
        message = f"{name} does not fit {pair}: {what}; their networks have no such thing"
    else:
        message = f"error in the code of {name}: {what}"
    fits_badly = kind in OURS and "does not fit" in message
    details = None if fits_badly else "".join(traceback.format_exception(error))
    return DistillerError(message, details)


def _is_misfit(error: Exception) -> bool:
    """Whether networks and keys, rather than the code, are likely to be at fault."""
    if isinstance(error, NotImplementedError):
        return bool(str(error))
    return isinstance(error, ValueError | IndexError | RuntimeError) and SHAPES.search(str(error)) is not None


def place_of(error: Exception, kind: type) -> str:
    """File and line of the distiller's code in which an exception arose; of its class where that was never entered."""
    own = Path(inspect.getfile(kind))
    base = REPOSITORY / "edkd/distillers/_base.py"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_near(Path(frame.filename), own, base)]
    if frames:
        return f"{shorter(frames[-1].filename)}:{frames[-1].lineno}, in {frames[-1].name}"
    return f"{shorter(own)}:{inspect.getsourcelines(kind)[1]}, class {kind.__name__}"


def shorter(file: str | Path) -> Path:
    """A path, relative to the repository where it lies in it."""
    file = Path(file).resolve()
    return file.relative_to(REPOSITORY) if file.is_relative_to(REPOSITORY) else file


def _is_near(file: Path, own: Path, base: Path) -> bool:
    return file.parent == own.parent and file != base


def _of_network(error: AttributeError) -> bool:
    """Whether it is a network that lacks the attribute."""
    owner = re.match(r"'(\w+)' object", str(error))
    return owner is not None and owner[1] in {kind.__name__ for kind in _all_subclasses(Network)}


def _all_subclasses(kind: type) -> set[type]:
    return {kind}.union(*(_all_subclasses(below) for below in kind.__subclasses__()))
