"""What went wrong in a distiller, in one line: a configuration that does not fit, or an error in its code."""

from __future__ import annotations

import re
import traceback

import torch

from common.models import Network
from common.own_code import OwnCodeError, in_words, place_of
from edkd.distillers import OURS
from edkd.engine.cuda_as_cpu import CUDA_SWITCH, CudaAsCpu
from edkd.engine.node import Node, UndeclaredKeyError
from edkd.engine.registry import distiller_class

# what PyTorch says where widths, heights or numbers of stages differ
SHAPES = re.compile(
    r"size|shape|channel|dimension|broadcast|mat1|out of (range|bounds)|no regression from", re.IGNORECASE
)
NO_GPU = re.compile(r"CUDA|NVIDIA|cuda")


def pair_of(cfg: Node) -> str:
    """Teacher and student of a run, for messages."""
    names = cfg.DISTILLER.TEACHER
    return f"{' + '.join(names) if isinstance(names, list) else names} -> {cfg.DISTILLER.STUDENT}"


def explain_in_training(error: BaseException, cfg: Node) -> OwnCodeError | None:
    """The same of what was raised in training; None for distillers of this repository, which have been tried."""
    name = cfg.DISTILLER.TYPE
    kind = distiller_class(name)
    return None if kind in OURS else explain(error, kind, name, pair_of(cfg))


def explain(error: BaseException, kind: type, name: str, pair: str) -> OwnCodeError:
    """The error for people.

    Args:
        error: raised when the distiller was built or tried.
        kind: its class.
        name: `DISTILLER.TYPE`.
        pair: names of teacher and student.
    """
    what = f"{in_words(error)} ({place_of(error, kind)})"
    if not torch.cuda.is_available() and NO_GPU.search(str(error)) and not isinstance(error, UndeclaredKeyError):
        way = f"{CUDA_SWITCH} has nothing for it" if CudaAsCpu.is_on else f"{CUDA_SWITCH} runs such calls on the CPU"
        message = f"{name} insists on a GPU, and there is none here: {what}; {way}"
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
    return OwnCodeError(message, details)


def _is_misfit(error: BaseException) -> bool:
    """Whether networks and keys, rather than the code, are likely to be at fault."""
    if isinstance(error, NotImplementedError):
        return bool(str(error))
    return isinstance(error, ValueError | IndexError | RuntimeError) and SHAPES.search(str(error)) is not None


def _of_network(error: AttributeError) -> bool:
    """Whether it is a network that lacks the attribute."""
    owner = re.match(r"'(\w+)' object", str(error))
    return owner is not None and owner[1] in {kind.__name__ for kind in _all_subclasses(Network)}


def _all_subclasses(kind: type) -> set[type]:
    return {kind}.union(*(_all_subclasses(below) for below in kind.__subclasses__()))
