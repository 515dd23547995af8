"""What a distiller keeps beside parameters and buffers: optimizers of its own, counters, averages, memories."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import is_out_of_memory
from common.training.method import FrozenTeacher
from edkd.distillers._base import StudentView, TeacherView

NETWORKS = (StudentView, TeacherView, FrozenTeacher)
OF_MODULES = frozenset(vars(nn.Module()))  # what every module has


class OwnState:
    """The state of a distiller's Python attributes, for checkpoints.

    Saved are objects with a `state_dict` (optimizers, schedulers), and numbers, text, tensors, and lists, tuples and
    dictionaries of these, as far as they are no longer what the constructor left. Of anything else that changed a
    checkpoint has the name alone, so that a resumed run can say that it starts anew.

    Args:
        distiller: as built.
    """

    def __init__(self, distiller: nn.Module) -> None:
        self.distiller = distiller
        self.initial = {path: _fingerprint(owner[key]) for path, owner, key in self._attributes()}

    def _attributes(self) -> Iterator[tuple[str, Any, Any]]:
        """(path, container, key) of every attribute; what lists and dictionaries have in them follows them."""
        for name, module in _own_modules(self.distiller):
            for key, value in list(vars(module).items()):
                path = f"{name}.{key}".lstrip(".")
                if key not in OF_MODULES:
                    yield path, vars(module), key
                    inside = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
                    yield from ((f"{path}.{at}", value, at) for at, entry in inside if _is_stateful(entry))

    def capture(self) -> dict[str, Any]:
        """`objects`: path -> `state_dict`; `values`: path -> value; `unsaved`: path -> name of the type."""
        state: dict[str, Any] = {"objects": {}, "values": {}, "unsaved": {}}
        for path, owner, key in self._attributes():
            value = owner[key]
            if _is_stateful(value):
                state["objects"][path] = value.state_dict()
            elif not _has_no_state(value) and (path not in self.initial or self.initial[path] != _fingerprint(value)):
                try:
                    state["values"][path] = _plain(value)
                except TypeError:
                    state["unsaved"][path] = type(value).__name__
        return state

    def restore(self, state: Mapping[str, Any]) -> list[str]:
        """Take back what `capture` gave; returns what a run's log should say."""
        owners = {path: (owner, key) for path, owner, key in self._attributes()}
        lost = dict(state["unsaved"])
        for path, content in state["objects"].items():
            owner, key = owners.get(path, ({path: None}, path))
            if _is_stateful(owner[key]):
                owner[key].load_state_dict(content)
            else:
                lost[path] = "made in training"
        modules = dict(_own_modules(self.distiller))
        for path, value in state["values"].items():
            name, _, key = path.rpartition(".")
            attributes = vars(modules[name])
            attributes[key] = _into(attributes.get(key), value)
        name = type(self.distiller).__name__
        return [f"{name}.{path} ({what}) is not part of checkpoints: it starts anew" for path, what in lost.items()]


def _own_modules(distiller: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The distiller and its modules, without networks and PyTorch's own."""
    if isinstance(distiller, NETWORKS):
        return
    if not type(distiller).__module__.startswith("torch."):
        yield name, distiller
    for child, module in distiller.named_children():
        yield from _own_modules(module, f"{name}.{child}".lstrip("."))


def _is_stateful(value: Any) -> bool:
    return hasattr(value, "load_state_dict") and not isinstance(value, nn.Module | type)


def _has_no_state(value: Any) -> bool:
    """Code, modules, and lists of parameters, modules or stateful objects, which are saved elsewhere."""
    if type(value) in (list, tuple, dict):
        entries = list(value.values()) if isinstance(value, dict) else value
        return any(isinstance(e, nn.Parameter | nn.Module) or _is_stateful(e) or callable(e) for e in entries)
    return callable(value) or isinstance(value, nn.Parameter | nn.Module)


def _plain(value: Any) -> Any:
    """A copy that the safe loader reads.

    Raises:
        TypeError: there is none.
    """
    if isinstance(value, np.generic):
        return value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    if type(value) is dict and all(type(key) in (int, str) for key in value):
        return {key: _plain(entry) for key, entry in value.items()}
    raise TypeError(type(value).__name__)


def _fingerprint(value: Any) -> bytes | None:
    """Differs where values differ; None for what cannot be told."""
    if _has_no_state(value) or _is_stateful(value):
        return None
    try:
        content = _plain(value)
    except TypeError:
        content = value
    try:
        file = io.BytesIO()
        _ByContent(file).dump(content)
        return file.getvalue()
    except Exception as error:  # whatever objects do that cannot be pickled
        if is_out_of_memory(error):
            raise
        return None


class _ByContent(pickle.Pickler):
    """Pickles tensors by what they hold; PyTorch's own way has the address of their memory in it."""

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return NotImplemented
        content = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return tuple, ((str(value.dtype), tuple(value.shape), content),)


def _into(present: Any, value: Any) -> Any:
    """`value`, in the place of what is there already, so that other names for it hold."""
    if isinstance(present, Tensor) and isinstance(value, Tensor):
        if present.shape != value.shape or present.dtype != value.dtype:
            return value.to(present.device)
        with torch.no_grad():
            return present.copy_(value)
    if type(present) is type(value) is list:
        present[:] = value
        return present
    if type(present) is type(value) is dict:
        present.clear()
        present.update(value)
        return present
    return value
