"""Whether a distiller from somewhere else fits, found out by reading it and by training with it for a few steps."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import random
import re
import tempfile
import textwrap
import traceback
import unittest.mock
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.data import DeviceLoader
from common.errors import first_line, is_out_of_memory
from common.losses import add_up
from common.models import Network
from common.own_code import is_foreign, shorter
from common.training.checkpoints import CheckpointFiles
from common.training.engine import Loaders, Trainer
from common.training.runtime import Runtime
from common.training.schedules import step_decay
from common.training.training_step import Optimization
from edkd.distillers._base import StudentView, TeacherView
from edkd.engine.method import Distillation, build_method, forked_random_state, make_distiller, make_method
from edkd.engine.node import Node
from edkd.engine.own_state import shared_variables_kept
from edkd.engine.registry import distiller_class, promise
from edkd.engine.signatures import keywords_of
from edkd.engine.solver import make_optimizer

TOLERANCE = 1e-3  # relative, of a step's loss in float32
aten = torch.ops.aten
WAITS_FOR_THE_HOST = (
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.lift_fresh.default),
)


class Finding(NamedTuple):
    """What one look at a distiller found.

    Attributes:
        subject: what was looked at.
        holds: False where it does not fit; None for what is good to know.
        text: what was found.
    """

    subject: str
    holds: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "NO", None: "--"}[self.holds]
        return f"{mark}  {self.subject:<10} {self.text}"


class Setting(NamedTuple):
    """With what a distiller is tried.

    Attributes:
        cfg: configuration.
        student, teachers: networks, of which every trial takes copies.
        batches: of the training set.
        runtime: where; its `plain` is not read.
        steps: how many training steps a trial takes.
    """

    cfg: Node
    student: Network
    teachers: list[Network]
    batches: DeviceLoader
    runtime: Runtime
    steps: int


def check_distiller(setting: Setting) -> Iterator[Finding]:
    """All findings, from the cheapest on.

    Raises:
        UserError: the distiller cannot be trained as it is configured.
    """
    kind = distiller_class(setting.cfg.DISTILLER.TYPE)
    yield _signature(kind)
    yield from _keys(kind, setting.cfg)
    yield from _attributes(kind, setting)
    method = make_method(setting.cfg, *_networks(setting), setting.batches.targets, setting.runtime)
    yield Finding("a step", True, f"forward, backward, evaluation of a batch of {setting.cfg.SOLVER.BATCH_SIZE}")
    for message in method.messages:
        yield Finding("evaluation", None, message)
    yield _teacher_mode(method)
    logits_only = yield from _reading(method, setting)
    plain = _train(setting, plain=True)
    yield Finding("training", all(map(math.isfinite, plain)), f"losses of {setting.steps} steps: {_shown(plain)}")
    if logits_only and _does_without_features(setting, plain):
        yield Finding("features", None, "`teacher_features = False` in the class would make its teacher faster")
    yield _compared("fast mode", plain, _train(setting, plain=False))
    yield _channels_last(setting, plain)
    yield _capture(setting)


def _signature(kind: type[nn.Module]) -> Finding:
    own, train = keywords_of(kind), getattr(kind, "forward_train", None)
    shown = inspect.signature(train) if train else "missing"
    return Finding("signature", train is not None, f"{kind.__name__}({', '.join(own.names)}), forward_train{shown}")


def _source(kind: type[nn.Module]) -> str:
    """The text of a class and of those that it inherits from, as far as they are its own file's or its neighbors'."""
    own = Path(inspect.getfile(kind)).parent
    return "\n".join(
        inspect.getsource(base)
        for base in kind.__mro__
        if base.__module__ not in ("builtins",) and Path(inspect.getfile(base)).parent == own
    )


def _chains(kind: type[nn.Module]) -> set[str]:
    """What the code says with dots, without `self`: `cfg.KD.TEMPERATURE`, `student.fc`; longest forms alone."""
    tree = ast.parse(textwrap.dedent(_source(kind)))
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    chains = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and id(n) not in inner}
    return {chain.removeprefix("self.") for chain in chains}


def _keys(kind: type[nn.Module], cfg: Node) -> Iterator[Finding]:
    """What is not declared the step asks for, or not: it decides."""
    matches = (re.match(r"cfg\.((?:[A-Z][A-Z0-9_]*\.?)+)", chain, re.IGNORECASE) for chain in sorted(_chains(kind)))
    names = sorted({match[1].rstrip(".") for match in matches if match and match[1].isupper()})
    declared = dict(cfg.leaves())
    groups = {key.rpartition(".")[0] for key in declared}
    missing = [name for name in names if name not in declared and name not in groups]
    if missing:
        hint = "declare them in edkd/engine/cfg.py or in the file (docs/distillers.md)"
        yield Finding("keys", None, f"not declared: {', '.join(missing)}; {hint}")
    else:
        yield Finding("keys", True, ", ".join(names) or "none")


def _attributes(kind: type[nn.Module], setting: Setting) -> Iterator[Finding]:
    """What the networks lack the step asks for, or not: it decides."""
    asked = sorted({chain for chain in _chains(kind) if re.match(r"(student|teacher)\.[a-zA-Z]", chain)})
    networks = {"student": setting.student, "teacher": (setting.teachers or [None])[0]}
    lacking = [name for name in asked if not hasattr(networks[name.split(".")[0]], name.split(".")[1])]
    if lacking and len(setting.teachers) < 2:
        yield Finding("networks", None, f"{', '.join(lacking)}: these networks have no such thing")
    else:
        yield Finding("networks", True, ", ".join(asked) or "called only")


def _networks(setting: Setting) -> tuple[Network, list[Network]]:
    return copy.deepcopy((setting.student, setting.teachers))


def _teacher_mode(method: Distillation) -> Finding:
    training = any(teacher.training for teacher in method._teachers())
    moved = (
        "in training mode, as the distiller asks: its batch norm normalizes by the batch" if training else "evaluated"
    )
    return Finding("teacher", None, moved)


class _Read(dict):
    """Features that write down which of them are looked at."""

    def __init__(self, features: dict[str, Any], seen: set[str]) -> None:
        super().__init__(features)
        self.seen = seen


def _noting(name: str, *, one: bool) -> Any:
    """A dictionary's method that notes the key that it is given, or all of them."""
    plain = getattr(dict, name)

    def method(self: _Read, *args: Any) -> Any:
        self.seen.update(args[:1] if one else dict.keys(self))
        return plain(self, *args)

    return method


for _name in ("__getitem__", "get", "pop", "setdefault"):
    setattr(_Read, _name, _noting(_name, one=True))
# with an `__iter__` of its own, copies such as `{**features}` ask for each key
for _name in ("__iter__", "__or__", "__ror__", "items", "values", "copy", "popitem"):
    setattr(_Read, _name, _noting(_name, one=False))


def _reading(method: Distillation, setting: Setting) -> Generator[Finding, None, bool]:
    """Which features are looked at; returns whether of the teacher none are that it gives."""
    seen: dict[str, set[str]] = {"student": set(), "teacher": set()}
    for network in method.modules():
        role = "student" if isinstance(network, StudentView) else "teacher"
        if isinstance(network, StudentView | TeacherView):
            network.forward = _watched(network.forward, seen[role])
    method.to(setting.runtime.device).train()
    with forked_random_state(setting.runtime.device):
        batch = next(iter(setting.batches.epoch(0)))
        method(*batch.inputs[:3], 0, *batch.inputs[3:])
    for role, names in seen.items():
        yield Finding("features", None, f"of the {role}: {', '.join(sorted(names)) or 'none'}")
    return not seen["teacher"] and any(isinstance(m, TeacherView) for m in method.modules())


def _does_without_features(setting: Setting, plain: list[float]) -> bool:
    """Whether a distiller has the same losses with teachers that give logits alone."""
    kind = distiller_class(setting.cfg.DISTILLER.TYPE)
    try:
        with unittest.mock.patch.object(kind, "teacher_features", False, create=True):
            without = _train(setting, plain=False)  # with batch norm folded, which what watches it would miss
    except Exception as error:  # whatever somebody's code does without them
        if is_out_of_memory(error):
            raise
        return False
    return bool(_compared("features", plain, without).holds)


def _watched(forward: Any, seen: set[str]) -> Any:
    def call(image: Tensor) -> tuple[Tensor, _Read]:
        logits, features = forward(image)
        return logits, _Read(features, seen)

    return call


def _trainer(setting: Setting, *, plain: bool, channels_last: bool | None = None) -> Trainer:
    """A trainer of a new method, from the same weights and random state each time; an epoch of it is one step."""
    cfg, runtime = setting.cfg, setting.runtime
    torch.manual_seed(runtime.seed)
    method = build_method(
        cfg, make_distiller(cfg, *_networks(setting), len(setting.batches.targets)), setting.batches.targets.cpu()
    )
    method.graph_capturable = False
    if channels_last is not None:
        method.channels_last = channels_last
    place = Path(tempfile.gettempdir())
    return Trainer(
        method,
        Optimization(lambda p: make_optimizer(cfg, p), step_decay(cfg.SOLVER.LR, (), 1.0), setting.steps),
        Loaders(setting.batches, setting.batches),
        Runtime(runtime.device, plain=plain, seed=runtime.seed),
        CheckpointFiles(place / "unused", None),  # nothing is saved
        settings={},
    )


def _train(setting: Setting, *, plain: bool, channels_last: bool | None = None) -> list[float]:
    """The losses of a few steps."""
    with shared_variables_kept(distiller_class(setting.cfg.DISTILLER.TYPE)):
        trainer = _trainer(setting, plain=plain, channels_last=channels_last)
        torch.manual_seed(setting.runtime.seed)
        return [trainer.train_epoch(epoch, show_progress=False)["loss"] for epoch in range(setting.steps)]


def _compared(subject: str, plain: list[float], other: list[float]) -> Finding:
    difference = max(abs(a - b) / max(abs(a), 1e-12) for a, b in zip(plain, other, strict=True))
    same = "the losses of --plain" if difference <= TOLERANCE else f"other losses than --plain: {_shown(other)}"
    return Finding(subject, difference <= TOLERANCE, f"{same} (largest relative difference {difference:.1e})")


def _channels_last(setting: Setting, plain: list[float]) -> Finding:
    if promise(distiller_class(setting.cfg.DISTILLER.TYPE), "channels_last"):
        return Finding("layout", None, "`channels_last = True` in the class: features may be channels-last in memory")
    try:
        found = _compared("layout", plain, _train(setting, plain=False, channels_last=True))
    except Exception as error:  # whatever channels-last features do to somebody's code
        if is_out_of_memory(error):
            raise
        reason = f"channels-last features fail ({type(error).__name__}: {first_line(error)[:80]})"
        return Finding("layout", None, f"needs contiguous features and gets them; {reason}")
    if not found.holds:
        return Finding("layout", None, "needs contiguous features and gets them: channels-last ones give other losses")
    return Finding(
        "layout", None, "gets contiguous features; `channels_last = True` in the class works as well, faster"
    )


class _Waits(TorchDispatchMode):
    """Writes down where the device's work waits for the host, or the host's values enter it."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, None] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        devices = {leaf.device.type for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor) and leaf.dim()}
        if function in WAITS_FOR_THE_HOST or len(devices) > 1:
            ours = [
                f
                for f in traceback.extract_stack()
                if "/edkd/distillers/" in f.filename or is_foreign(Path(f.filename))
            ]
            place = f"{shorter(ours[-1].filename)}:{ours[-1].lineno}" if ours else str(function)
            self.places[place] = None
        return result


def _capture(setting: Setting) -> Finding:
    """Whether a step could be captured as a CUDA graph: it leaves all to the device, and does the same each time."""
    trainer = _trainer(setting, plain=False)
    method = trainer.method.train()
    assert isinstance(method, Distillation)  # of `_trainer`
    batch = next(iter(setting.batches.epoch(0)))
    before = _host_state(method)
    with _Waits() as waits:
        step = method(*batch.inputs[:3], 0, *batch.inputs[3:])
        add_up(step.losses.values()).backward()
    changed = [name for name, value in _host_state(method).items() if before.get(name, _NOTHING) != value]
    is_declared = promise(method.get_submodule("distiller"), "graph_capturable")
    declared = "`graph_capturable = True` is in the class" if is_declared else None
    if waits.places:
        reason = f"waits for the host, or takes values from it, at {', '.join(list(waits.places)[:3])}"
    elif changed:
        reason = f"Python changes {', '.join(changed[:3])} in a step"
    else:
        return Finding(
            "capture", None, declared or "nothing is against `graph_capturable = True` in the class (faster on GPUs)"
        )
    if declared:
        return Finding("capture", False, f"{declared}, but it {reason}")
    return Finding("capture", None, f"its steps cannot be captured as a CUDA graph: {reason}")


_NOTHING = object()


def _host_state(method: Distillation) -> dict[str, Any]:
    """What the distiller keeps in Python, numbers and words of all modules, and the host's random states."""
    state: dict[str, Any] = {"random": random.getstate(), "numpy.random": repr(np.random.get_state())}
    state |= method.own_state.in_python()
    for name, module in method.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, int | float | str | bool):
                state[f"{name}.{key}".removeprefix("distiller.")] = value
            elif isinstance(value, list | dict | set) and not key.startswith("_"):
                state[f"len({name}.{key})".replace("distiller.", "")] = len(value)
    return state


def _shown(losses: list[float]) -> str:
    return ", ".join(f"{loss:.4f}" for loss in losses)
