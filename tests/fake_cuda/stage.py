"""A GPU that computes nothing: what the loop would do on one, operator by operator, on a machine without.

Tensors are fake ones on a `cuda` device: they have shapes, strides and types, and no numbers. What is covered: which
device each operator reads and writes, whether it waits for the host inside a capture, how what fused optimizers are
given lies in memory, autocast. What is not: numbers, and the state of streams, the allocator and generators
(`benchmarks/gpu_first_run.py` sees those). The engine of autograd cannot run here: gradients come from a stand-in, so
operators of a backward pass are not looked at.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.data import Batch
from common.training.checkpoints import CheckpointFiles
from common.training.engine import Loaders, Trainer
from common.training.method import Method
from common.training.runtime import Runtime
from common.training.schedules import step_decay
from common.training.training_step import Optimization

GPU = torch.device("cuda", 0)
WAITS = {  # names of operators whose result, or its size, the host has to know
    *("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "masked_select", "bincount", "histc"),
    *("unique_consecutive", "_unique2", "unique_dim", "_linalg_svd", "_linalg_eigh", "_assert_async"),
    *("_linalg_check_errors", "linalg_eig", "linalg_lstsq", "linalg_pinv", "multinomial"),
}


class RefusedError(RuntimeError):
    """An operator that a GPU, or a capture on it, does not take."""


class Gpu(TorchDispatchMode):
    """Refuses what a GPU would: always operators on two devices and fused updates of tensors that lie differently in
    memory; in a capture whatever waits for the host or takes numbers from it."""

    def __init__(self) -> None:
        super().__init__()
        self.capturing, self.seen, self.fused = False, 0, 0
        self.parameters: list[nn.Parameter] = []  # that backward passes give gradients

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = function.name().removeprefix("aten::").partition(".")[0]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if self.capturing:
            self.seen += 1
            self._check_captured(name, tensors, args)
        self._check_devices(name, tensors)
        if name.startswith("_fused_"):  # in place, and not known to fake tensors
            return self._check_fused(name, args)
        result = function(*args, **(kwargs or {}))
        if self.capturing and any(t.device.type != "cuda" for t in tree_leaves(result) if isinstance(t, Tensor)):
            raise RefusedError(f"{name} makes a tensor of the host inside a capture")
        return result

    def _check_devices(self, name: str, tensors: list[Tensor]) -> None:
        # a scalar of the host is an argument of the kernel; copies between devices are what copies are for
        devices = {t.device.type for t in tensors if t.dim() or t.device.type != "cpu"}
        if len(devices) > 1 and name not in ("copy_", "_to_copy"):
            raise RefusedError(f"{name} mixes devices: {', '.join(sorted(devices))}")

    def _check_captured(self, name: str, tensors: list[Tensor], args: tuple) -> None:
        if name in WAITS or (name == "repeat_interleave" and len(args) == 1):
            raise RefusedError(f"{name} reads from the device inside a capture")
        if name == "lift_fresh" or any(t.device.type == "cpu" for t in tensors):
            raise RefusedError(f"{name} takes numbers from the host inside a capture")
        masks = args[1] if name.startswith(("index", "_index")) and len(args) > 1 and isinstance(args[1], list) else []
        if any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in masks):
            raise RefusedError(f"{name} by a mask reads from the device inside a capture")

    def _check_fused(self, name: str, args: tuple) -> None:
        self.fused += 1
        lists = [a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor)]
        for together in zip(*lists, strict=True):
            same = [t for t in together if t.shape == together[0].shape]  # step counts are scalars
            if any(t.stride() != same[0].stride() for t in same):
                strides = ", ".join(str(t.stride()) for t in same)
                raise RefusedError(f"{name} is given tensors of other strides: {strides}")


class Graphs:
    """In place of `CudaGraphs`; a replay gives the results of the capture."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu, self.captures, self.replays = gpu, 0, 0

    def run(self, function: Callable[[], Any]) -> Any:
        return function()

    def capture(self, function: Callable[[], Any]) -> Callable[[], Any]:
        self.gpu.capturing = True
        try:
            result = function()
        finally:
            self.gpu.capturing = False
        self.captures += 1

        def replay() -> Any:
            self.replays += 1
            return result

        return replay


@contextlib.contextmanager
def fake_gpu() -> Iterator[Gpu]:
    """Inside, a GPU seems to be there. What is built is real, on the CPU, until a module is moved to the GPU: from
    there on all tensors are fake, and backward passes fill gradients with nothing."""
    move, gpu = nn.Module.to, Gpu()
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context

        def moved(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
            if GPU not in args:
                return move(module, *args, **kwargs)
            patch(FakeTensorMode(allow_non_fake_inputs=False))
            patch(gpu)
            gpu.parameters = _to_fake_gpu(module)
            return module

        def backward(*_: Any, **__: Any) -> None:
            for parameter in gpu.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.empty_like(parameter)

        patch(mock.patch.object(nn.Module, "to", moved))
        patch(mock.patch.object(Tensor, "backward", backward))
        patch(mock.patch.object(torch.autograd, "grad", _empty_gradients))
        patch(mock.patch("torch._subclasses.fake_tensor.init_gpu_context", _nothing))
        patch(mock.patch.object(torch.cuda, "is_available", _yes))  # else autocast switches itself off
        patch(mock.patch.object(FakeTensorMode, "avoid_device_init", True))  # although one is said to be there
        patch(mock.patch.object(torch.cuda, "is_bf16_supported", _yes))
        patch(mock.patch.object(torch.cuda, "is_current_stream_capturing", _nothing))
        patch(mock.patch("common.training.engine.reset_peak_memory", _nothing))
        # reads the device, before the first step and after each epoch: there is nothing to read here
        patch(mock.patch("common.training.run_state.nonfinite_names", return_value=set()))
        patch(mock.patch("common.training.training_step.CudaGraphs", return_value=Graphs(gpu)))
        yield gpu


def _to_fake_gpu(module: nn.Module) -> list[nn.Parameter]:
    """Put an empty fake tensor in the place of each parameter and buffer; shapes, strides and types stay.

    Returns:
        The parameters that gradients are wanted of.
    """
    fakes: dict[Tensor, Tensor] = {}  # shared ones stay shared

    def fake(tensor: Tensor) -> Tensor:
        if tensor not in fakes:
            empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=GPU)
            is_parameter = isinstance(tensor, nn.Parameter)
            fakes[tensor] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
        return fakes[tensor]

    for part in module.modules():
        for kind in (part._parameters, part._buffers):
            kind.update({name: fake(tensor) for name, tensor in kind.items() if tensor is not None})
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


def _empty_gradients(_: Tensor, of: Sequence[Tensor], **__: Any) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(tensor) for tensor in of)


def _yes(*_: Any, **__: Any) -> bool:
    return True


def _nothing(*_: Any, **__: Any) -> None:
    """In place of what would ask a driver."""


def fake_batch(size: int = 4, pixels: int = 32) -> Batch:
    """As the loaders give it: channels-last, on the GPU."""
    images = torch.empty(size, 3, pixels, pixels, device=GPU).contiguous(memory_format=torch.channels_last)
    indices = torch.empty(size, dtype=torch.int64, device=GPU)
    return Batch(images, torch.empty_like(indices), indices, size)


class NoBatches:
    """A dataset that nobody looks into."""

    samples = 0

    def __len__(self) -> int:
        return 1

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        return iter(())


def captured_trainer(
    method: Method,
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    amp: str = "off",
    *,
    epoch: int = 1,
    warm_up: int = 1,
    prepare: Callable[[Trainer], None] = _nothing,
) -> Trainer:
    """A trainer as a run on a GPU has it, after a step that is not captured, the capture, and a replay; and likewise an
    evaluation.

    Args:
        method: built on the CPU; inside `fake_gpu`.
        make_optimizer: from its trainable parameters.
        amp: precision.
        epoch: that is trained, from 0.
        warm_up: steps before the capture.
        prepare: called before the first step.
    """
    trainer = Trainer(
        method,
        Optimization(make_optimizer, step_decay(0.1, (), 1.0), epochs=2),
        Loaders(NoBatches(), NoBatches()),
        Runtime(device=GPU, amp=amp),
        CheckpointFiles(Path("never-written"), None),
        settings={},
    )
    trainer.method.train()
    prepare(trainer)
    trainer.step.begin_epoch(epoch)
    if trainer.step.graphed:
        trainer.step.graphed.warm_up = warm_up
    for iteration in range(3):
        trainer.step(fake_batch(), iteration, 3)
    trainer.method.student.eval()
    with torch.inference_mode():
        for _ in range(3):
            trainer._evaluations["test"]._take_in(*fake_batch()[:2])
    return trainer
