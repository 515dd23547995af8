"""What a distiller keeps beside parameters and buffers: optimizers of its own, counters, averages, memories."""

from __future__ import annotations

import collections
import contextlib
import copy
import functools
import io
import pickle
import random
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.errors import is_out_of_memory
from common.own_code import own_namespaces
from common.training.batch_norm import ChannelsLastBatchNorm2d
from common.training.method import FrozenTeacher
from edkd.distillers import OURS
from edkd.distillers._base import StudentView, TeacherView


class Kind(NamedTuple):
    """How objects of a type are saved.

    Attributes:
        plain: what they hold, in lists, dictionaries, tuples, numbers, text and tensors.
        take_back: puts that into an object that is there already.
    """

    plain: Callable[[Any], Any]
    take_back: Callable[[Any, Any], Any]


def _refill(own: Any, saved: Any) -> None:
    own.clear()
    (own.extend if isinstance(own, collections.deque) else own.update)(saved)


def _tensors(value: Any) -> Any:
    """Arrays as tensors, also in dictionaries."""
    if isinstance(value, dict):
        return {key: _tensors(entry) for key, entry in value.items()}
    return torch.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else value


def _arrays(value: Any) -> Any:
    """The way back."""
    if isinstance(value, dict):
        return {key: _arrays(entry) for key, entry in value.items()}
    return value.cpu().numpy() if isinstance(value, Tensor) else value


# kinds of attributes beside plain values, saved where the constructor has made them and training changes them
KINDS = {
    set: Kind(list, _refill),
    collections.deque: Kind(list, _refill),
    collections.defaultdict: Kind(dict, _refill),
    collections.OrderedDict: Kind(dict, _refill),
    collections.Counter: Kind(dict, _refill),
    np.ndarray: Kind(_tensors, lambda own, saved: np.copyto(own, _arrays(saved))),
    np.random.RandomState: Kind(
        lambda own: _tensors(own.get_state(legacy=False)), lambda own, saved: own.set_state(_arrays(saved))
    ),
    np.random.Generator: Kind(
        lambda own: _tensors(own.bit_generator.state),
        lambda own, saved: setattr(own.bit_generator, "state", _arrays(saved)),
    ),
    torch.Generator: Kind(torch.Generator.get_state, lambda own, saved: own.set_state(saved.cpu())),
    random.Random: Kind(random.Random.getstate, random.Random.setstate),
}

NETWORKS = (StudentView, TeacherView, FrozenTeacher)
CODE = (
    *(types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType, type, functools.partial),
    *(functools._lru_cache_wrapper, np.ufunc, torch.jit.ScriptFunction, torch._ops.OpOverload),
)
OF_MODULES = frozenset(vars(nn.Module()))  # what every module has


class OwnState:
    """The state of a distiller's Python attributes, for checkpoints.

    Saved are objects with a `state_dict` (optimizers, schedulers), and numbers, text, tensors, lists, tuples and
    dictionaries of these, and what is one of `KINDS`, as far as they are no longer what the constructor left. Of
    anything else that changed a checkpoint has the name alone, so that a resumed run can say that it starts again.

    Args:
        distiller: as built.
    """

    def __init__(self, distiller: nn.Module) -> None:
        self.distiller = distiller
        self.shared = shared_namespaces(type(distiller))
        self.initial = {path: _fingerprint(owner[key]) for path, owner, key in self._attributes()}
        self.types = {path: type(owner[key]) for path, owner, key in self._attributes()}

    def _attributes(self) -> Iterator[tuple[str, Any, Any]]:
        """(path, container, key) of every attribute; what lists and dictionaries have in them follows them."""
        own = {name: vars(module) for name, module in _own_modules(self.distiller)}
        for name, attributes in [*own.items(), *self.shared.items()]:
            for key, value in list(attributes.items()):
                path = f"{name}.{key}".lstrip(".")
                if key not in OF_MODULES:
                    yield path, attributes, key
                    inside = value.items() if type(value) is dict else enumerate(value) if type(value) is list else ()
                    yield from ((f"{path}.{at}", value, at) for at, entry in inside if _is_stateful(entry))
        for name, module in _own_modules(self.distiller):
            yield from ((f"{name}.{key}".lstrip("."), module._buffers, key) for key in _unsaved_buffers(module))

    def capture(self) -> dict[str, Any]:
        """`objects`: path -> `state_dict`; `values`: path -> value; `unsaved`: path -> name of the type."""
        state: dict[str, Any] = {"objects": {}, "values": {}, "unsaved": {}}
        for path, owner, key in self._attributes():
            value = owner[key]
            if _is_stateful(value):
                state["objects"][path] = value.state_dict()
            elif isinstance(value, types.GeneratorType):  # whether it has gone on, nobody can tell
                state["unsaved"][path] = type(value).__name__
            elif not _has_no_state(value) and (path not in self.initial or self.initial[path] != _fingerprint(value)):
                try:
                    kind = KINDS.get(type(value)) if self.types.get(path) is type(value) else None
                    state["values"][path] = _plain(kind.plain(value) if kind else value)
                except TypeError:
                    state["unsaved"][path] = type(value).__name__
        return state

    def in_python(self) -> dict[str, Any]:
        """Path -> what differs after a step that has changed it in Python; a tensor may have other entries."""
        found: dict[str, Any] = {}
        for path, owner, key in self._attributes():
            value = owner[key]
            found[path] = id(value) if isinstance(value, Tensor) else _fingerprint(value)
        return found

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
        namespaces = {**{name: vars(module) for name, module in _own_modules(self.distiller)}, **self.shared}
        for path, value in state["values"].items():
            name, _, key = path.rpartition(".")
            if name not in namespaces:
                if name not in dict(self.distiller.named_modules()):  # PyTorch's own keep nothing there
                    lost[path] = "made in training"
                continue
            attributes, key = owners.get(path, (namespaces[name], key))
            if kind := KINDS.get(type(attributes.get(key))):
                kind.take_back(attributes[key], value)
            else:
                attributes[key] = _into(attributes.get(key), value)
        name = type(self.distiller).__name__
        return [f"{name}.{path} ({what}) is not part of checkpoints: it starts again" for path, what in lost.items()]


class Shared(MutableMapping):
    """What a module of somebody's, or a class in it, keeps for all: its variables, without code."""

    def __init__(self, owner: types.ModuleType | type) -> None:
        self.owner = owner

    def __getitem__(self, key: str) -> Any:
        return vars(self.owner)[key]

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.owner, key, value)

    def __delitem__(self, key: str) -> None:
        delattr(self.owner, key)

    def __iter__(self) -> Iterator[str]:
        for key, value in list(vars(self.owner).items()):
            if not key.startswith("__") and (type(value) in KINDS or isinstance(value, _VARIABLES)):
                yield key

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __deepcopy__(self, memo: dict) -> Shared:
        return self  # a copy of a distiller has the same code


_VARIABLES = (bool, int, float, str, Tensor, list, tuple, dict, np.generic, type(None))


def shared_namespaces(kind: type) -> dict[str, Shared]:
    """Those of a class's own code; none for the distillers of this repository, which keep nothing there."""
    return {} if kind in OURS else {f"<{name}>": Shared(owner) for name, owner in own_namespaces(kind)}


@contextlib.contextmanager
def shared_variables_kept(kind: type) -> Iterator[None]:
    """Within it somebody's modules and classes have copies of what they keep for all, afterwards their own again."""
    namespaces = shared_namespaces(kind)
    own = {name: dict(shared) for name, shared in namespaces.items()}
    for name, copies in _copied(own).items():
        namespaces[name].update(copies)
    try:
        yield
    finally:
        for name, shared in namespaces.items():
            for key in set(shared) - set(own[name]):
                del shared[key]
            shared.update(own[name])


def _copied(variables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Deep copies, in which two names of one object are still that; what cannot be copied stays as it is."""
    memo: dict[int, Any] = {}
    copies: dict[str, dict[str, Any]] = {}
    for name, entries in variables.items():
        copies[name] = {}
        for key, value in entries.items():
            try:
                copies[name][key] = copy.deepcopy(value, memo)
            except Exception as error:  # whatever objects do that cannot be copied
                if is_out_of_memory(error):
                    raise
                copies[name][key] = value
    return copies


def _own_modules(distiller: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The distiller and its modules, without networks, PyTorch's own, and what the fast path makes of those."""
    if isinstance(distiller, NETWORKS):
        return
    if not type(distiller).__module__.startswith("torch.") and not isinstance(distiller, ChannelsLastBatchNorm2d):
        yield name, distiller
    for child, module in distiller.named_children():
        yield from _own_modules(module, f"{name}.{child}".lstrip("."))


def _unsaved_buffers(module: nn.Module) -> list[str]:
    """Names of the buffers that a `state_dict` leaves out."""
    return [name for name in module._buffers if name in module._non_persistent_buffers_set]


def _is_stateful(value: Any) -> bool:
    return hasattr(value, "load_state_dict") and not isinstance(value, nn.Module | type)


def _has_no_state(value: Any) -> bool:
    """Code, modules, and lists of parameters, modules or stateful objects, which are saved elsewhere."""
    if type(value) in (list, tuple, dict):
        entries = list(value.values()) if isinstance(value, dict) else value
        return any(isinstance(e, nn.Parameter | nn.Module) or _is_stateful(e) or isinstance(e, CODE) for e in entries)
    return isinstance(value, (*CODE, nn.Parameter, nn.Module))


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
        content = _plain(KINDS[type(value)].plain(value) if type(value) in KINDS else value)
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
    if type(present) is list and type(value) is list:
        present[:] = value
        return present
    if type(present) is dict and type(value) is dict:
        present.clear()
        present.update(value)
        return present
    return value
