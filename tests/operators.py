"""CUDA graphs without CUDA: operators are written down as they run, and replayed on the same tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.training.cuda_graphs import CaptureError

aten = torch.ops.aten
NOT_ON_A_STREAM = (  # what a capturing stream refuses: results or constants that wait for the host
    aten._local_scalar_dense.default,
    aten.item.default,  # in inference mode, which does not take it apart
    aten.is_nonzero.default,
    aten.equal.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten.lift_fresh.default,
)


class _Writing(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Callable, tuple, dict, Any]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in NOT_ON_A_STREAM:
            raise RuntimeError(f"{function} waits for the host\nmore lines")
        result = function(*args, **(kwargs or {}))
        self.operators.append((function, args, kwargs or {}, result))
        return result


class OperatorLog:
    """In place of `CudaGraphs`. Unlike a stream, it has to run what it writes down: the first replay is that run.

    What a GPU keeps besides, the current stream, the allocator and the state of generators, it does not have: after a
    capture that failed there is nothing to restore here. `recoverable` is what `CudaGraphs` finds then.
    """

    def __init__(self, recoverable: bool = True) -> None:
        self.captures = self.replays = 0
        self.recoverable = recoverable

    def run(self, function: Callable[[], Any]) -> Any:
        return function()

    def capture(self, function: Callable[[], Any]) -> Callable[[], Any]:
        try:
            with _Writing() as writing:
                result = function()
        except RuntimeError as error:
            raise CaptureError(error, self.recoverable) from error
        self.captures += 1
        written = iter([True])

        def replay() -> Any:
            self.replays += 1
            if not next(written, False):
                for operator in writing.operators:
                    _again(*operator)
            return result

        return replay


@torch.no_grad()
def _again(function: Callable, args: tuple, kwargs: dict, result: Any) -> None:
    """Run an operator again and put its results where they were."""
    places = {_place(tensor) for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)}
    fresh = function(*args, **kwargs)
    for old, new in zip(tree_leaves(result), tree_leaves(fresh), strict=True):
        if isinstance(old, Tensor) and _place(old) not in places:  # else a view, or changed in place
            old.copy_(new)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
