"""Whether state is fit to be saved, and whether saved state is what the run that reads it would have written."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor, nn

# options of an optimizer that say how it computes or change as a run goes on, not what is trained
FREE_OPTIONS = ("params", "lr", "initial_lr", "foreach", "fused", "capturable", "differentiable")


class MismatchError(ValueError):
    """Saved state that the reading run would not have written: says where, in a few words."""


def nonfinite_names(state: Any) -> set[str]:
    """Names of the tensors and numbers in nested `state` that are not finite throughout; the device is read once."""
    names: set[str] = set()
    flags: dict[torch.device, dict[str, Tensor]] = {}
    for name, leaf in _leaves(state):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            names.add(name)
        elif isinstance(leaf, Tensor) and leaf.layout == torch.strided and _is_inexact(leaf) and not leaf.is_meta:
            flags.setdefault(leaf.device, {})[name] = leaf.isfinite().all()
    for of_device in flags.values():
        finite = torch.stack(list(of_device.values())).tolist()
        names.update(name for name, good in zip(of_device, finite, strict=True) if not good)
    return names


def _leaves(state: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What is no container in nested `state`, by dotted names."""
    if isinstance(state, Mapping):
        parts = state.items()
    elif isinstance(state, list | tuple):
        parts = enumerate(state)
    else:
        yield name, state
        return
    for key, value in parts:
        yield from _leaves(value, f"{name}.{key}" if name else str(key))


def is_empty(state: Any) -> bool:
    """Whether nested `state` holds nothing but empty containers."""
    return not any(True for _ in _leaves(state))


def _is_inexact(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def require_keys(found: Any, expected: Mapping[str, Any], name: str) -> None:
    """Raises:
    MismatchError: `found` is no dictionary of exactly the keys of `expected`.
    """
    if not isinstance(found, Mapping):
        raise MismatchError(f"'{name}' is a {type(found).__name__}")
    if missing := [key for key in expected if key not in found]:
        raise MismatchError(f"'{name}' lacks '{missing[0]}'")
    if surplus := [key for key in found if key not in expected]:
        raise MismatchError(f"'{name}' has '{surplus[0]}'")


def require_tensor(found: Any, like: Tensor, name: str, *, any_precision: bool = False) -> None:
    """Raises:
    MismatchError: `found` is no plain tensor of the shape and dtype, or at least kind of number, of `like`.
    """
    if not isinstance(found, Tensor) or found.layout != torch.strided or found.is_meta:
        raise MismatchError(f"'{name}' is not a dense tensor")
    if found.shape != like.shape:
        raise MismatchError(f"'{name}' is {list(found.shape)}, not {list(like.shape)}")
    if found.dtype != like.dtype and not (any_precision and found.is_floating_point() and like.is_floating_point()):
        raise MismatchError(f"'{name}' is of {found.dtype}, not {like.dtype}")


def require_weights(found: Any, expected: Mapping[str, Any], name: str) -> None:
    """Check a state dict: its names, shapes, dtypes, and that it is finite where `expected` is.

    Raises:
        MismatchError: what differs.
    """
    require_keys(found, expected, name)
    for key, value in expected.items():
        if isinstance(value, Tensor):
            require_tensor(found[key], value, f"{name}.{key}")
    require_finite(found, name, except_for=nonfinite_names(expected))


def require_finite(state: Any, name: str, except_for: Set[str] = frozenset()) -> None:
    """Raises:
    MismatchError: a tensor or number in `state` is not finite.
    """
    if bad := sorted(nonfinite_names(state) - except_for):
        raise MismatchError(f"'{name}.{bad[0]}' is not finite")


def require_optimizer_state(
    found: Any, optimizer: torch.optim.Optimizer, template: torch.optim.Optimizer | None, unmoved: set[int] | None
) -> None:
    """Check what a state dict of an optimizer says about each parameter; its options are another matter.

    Args:
        found: the state dict.
        optimizer: that is to take it.
        template: the same after a step, on parameters without content; None where that is not known.
        unmoved: which parameters need no state, because training has left them as they were. None where another run
            has written it, maybe elsewhere: its state may be partial, of another precision, or hold numbers.

    Raises:
        MismatchError: what does not fit.
    """
    parameters = parameters_of(optimizer)
    numbers = [number for group in found["param_groups"] for number in group["params"]]
    if len(numbers) != len(parameters):
        raise MismatchError(f"the optimizer has {len(numbers)} parameters, not {len(parameters)}")
    if not isinstance(found["state"], Mapping) or not set(found["state"]) <= set(numbers):
        raise MismatchError("the optimizer's state is not by parameter")
    expected = template.state_dict()["state"] if template else {}
    foreign = unmoved is None
    for index, (number, parameter) in enumerate(zip(numbers, parameters, strict=True)):
        name, state, wanted = f"optimizer.{index}", found["state"].get(number), expected.get(index, {})
        if not state:
            if wanted and not foreign and index not in unmoved:
                raise MismatchError(f"'{name}' is missing")
            continue
        require_keys(state, state if foreign or not template else wanted, name)
        for key, value in state.items():
            like = wanted.get(key, parameter)
            if isinstance(value, Tensor) if foreign or not template else isinstance(like, Tensor):
                require_tensor(value, like, f"{name}.{key}", any_precision=foreign)
    require_finite(found["state"], "optimizer")


def require_optimizer_options(found: Any, optimizer: torch.optim.Optimizer) -> None:
    """Raises:
    MismatchError: groups of parameters other than the optimizer's, or with other options, such as its momentum.
    """
    groups = optimizer.state_dict()["param_groups"]
    if not isinstance(found, Sequence) or len(found) != len(groups):
        raise MismatchError("the optimizer has other groups of parameters")
    for saved, own in zip(found, groups, strict=True):
        if not isinstance(saved, Mapping) or saved.get("params") != own["params"]:
            raise MismatchError("the optimizer has other parameters")
        for key in own.keys() & saved.keys() - set(FREE_OPTIONS):  # PyTorch's versions differ in what they have
            if type(saved[key]) is not type(own[key]) or saved[key] != own[key]:
                raise MismatchError(f"the optimizer's {key} is {saved[key]!r:.40}, not {own[key]!r}")


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """The parameters of an optimizer, in the order in which its state dict numbers them."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def stepped_template(optimizer: torch.optim.Optimizer, made: Any) -> torch.optim.Optimizer | None:
    """An optimizer as `optimizer` after its first step, without content; None for those that PyTorch has not made.

    Args:
        optimizer: of the run.
        made: makes it from parameters.
    """
    if not type(optimizer).__module__.startswith("torch.optim."):
        return None
    shadows = [nn.Parameter(torch.empty_like(p, device="meta")) for p in parameters_of(optimizer)]
    for shadow in shadows:
        shadow.grad = torch.empty_like(shadow)
    template = made(shadows)
    template.step()
    return template


def require_history(found: Any, epochs: int, keys: Sequence[str]) -> None:
    """Check the lines of `metrics.jsonl` that a checkpoint keeps.

    Args:
        found: one line for each finished epoch.
        epochs: that are finished.
        keys: what each line has at least.

    Raises:
        MismatchError: another number of lines, or a line with figures that cannot be.
    """
    if not isinstance(found, list) or len(found) != epochs:
        raise MismatchError(f"its history does not have {epochs} epochs")
    for epoch, line in enumerate(found):
        if not isinstance(line, Mapping) or any(key not in line for key in keys) or line["epoch"] != epoch:
            raise MismatchError(f"its history lacks a figure of epoch {epoch + 1}")
        for key, value in line.items():
            percentage = key.endswith(("/accuracy", "/top5"))
            is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            if not is_number or (percentage and not 0 <= value <= 100.0001):
                raise MismatchError(f"its history says that {key} was {value!r:.40} in epoch {epoch + 1}")
