"""What makes a step fast without changing what it computes; `--plain` leaves all of it out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.errors import UserError
from common.training.batch_norm import use_channels_last_batch_norm
from common.training.layouts import CHANNELS_LAST
from common.training.method import FrozenTeacher, Method
from common.training.runtime import Runtime

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # not their subclasses, which step by themselves
IMPLEMENTATION = ("fused", "foreach", "capturable")  # flags in the groups of PyTorch's optimizers


def apply_fast_path(method: Method, layout: torch.memory_format, runtime: Runtime) -> None:
    """Fold the teachers' batch norm, and lay out for the device what is computed."""
    for part in list(method.modules()):
        if isinstance(part, FrozenTeacher):
            part.fold()
    method.to(memory_format=layout)
    if runtime.device.type == "cpu" and layout == CHANNELS_LAST:
        use_channels_last_batch_norm(method)


def use_fused(optimizer: torch.optim.Optimizer) -> None:
    """Let `optimizer` update all parameters by one kernel.

    On a GPU that saves launches; on a CPU it saves less than a hundredth of a step and costs the equality of bits with
    the optimizer as published, so it is left as it is there.
    """
    if type(optimizer) not in FUSED:
        return
    flags = {"fused": True, "foreach": False}
    if "capturable" in optimizer.defaults:
        flags["capturable"] = optimizer.param_groups[0]["params"][0].is_cuda
    for group in optimizer.param_groups:
        group.update(flags)


def keep_implementation(optimizer: torch.optim.Optimizer) -> None:
    """Let a state that is loaded into `optimizer` change what it computes with, and not by which kernels.

    PyTorch keeps the choice of kernels among the hyperparameters: a run with `--plain`, or on a CPU, would go on fused
    from the checkpoint of a GPU's run, and that one unfused from a published checkpoint.
    """

    def with_own(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        groups, own = state["param_groups"], optimizer.param_groups
        if len(groups) != len(own):
            return state  # which is refused with these numbers
        kept = [{flag: group[flag] for flag in IMPLEMENTATION if flag in group} for group in own]
        return {**state, "param_groups": [{**group, **flags} for group, flags in zip(groups, kept, strict=True)]}

    optimizer.register_load_state_dict_pre_hook(with_own)


def use_fused_loss_scaling(optimizer: torch.optim.Optimizer) -> None:
    """Let a fused `optimizer` take the loss scale and what was not finite from a `GradScaler` on the device.

    As if it had been built with `fused=True`. Otherwise the scaler waits for the device at every step, to know whether
    to step at all; its pass over the gradients, which finds what is not finite, remains.
    """
    if type(optimizer) not in FUSED:
        return
    optimizer._step_supports_amp_scaling = True  # pyright: ignore[reportAttributeAccessIssue]  # torch looks it up by name
    for group in optimizer.param_groups:
        if group.get("momentum"):
            # the fused kernel leaves a first momentum as it finds it where the first step is skipped; 0 m + g is g
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def keep_parameter_layout(optimizer: torch.optim.Optimizer) -> None:
    """Give each state tensor that is loaded into `optimizer` the strides of its parameter.

    A checkpoint keeps those of the run that wrote it, and fused kernels go through memory in order: beside a parameter
    of other strides they would update wrongly, or stop.
    """

    def lay_out(optimizer: torch.optim.Optimizer) -> None:
        for parameter, state in optimizer.state.items():
            for name, value in state.items():
                fits = isinstance(value, Tensor) and value.shape == parameter.shape
                if fits and value.stride() != parameter.stride():
                    state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)

    optimizer.register_load_state_dict_post_hook(lay_out)


def capture_blocker(
    method: Method, optimizer: torch.optim.Optimizer, runtime: Runtime, accumulation_steps: int
) -> str | None:
    """Why the steps of this training cannot be captured as a CUDA graph; None where they can."""
    if type(optimizer) not in FUSED:
        return f"{type(optimizer).__name__} takes the learning rate from the host"
    if runtime.distributed:
        return "several ranks train together"
    if runtime.amp == "fp16":
        return "fp16's loss scaling is not captured (bf16 needs none)"
    if accumulation_steps > 1:
        return "gradients of several batches are summed"
    return None if method.graph_capturable else "the method does not say that it is graph_capturable"


def refuse_old_names(owner: object) -> None:
    """Refuse a method or distiller that still says `recordable`.

    Raises:
        UserError: names the word of today.
    """
    if hasattr(owner, "recordable"):
        raise UserError(f"{type(owner).__name__}.recordable is called graph_capturable now: rename it")
