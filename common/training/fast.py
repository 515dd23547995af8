"""What makes a step fast without changing what it computes; `--plain` leaves all of it out."""

from __future__ import annotations

from typing import Any

import torch

from common.training.batch_norm import use_channels_last_batch_norm
from common.training.method import FrozenTeacher, Method
from common.training.runtime import Runtime

FUSED = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)  # not their subclasses, which step by themselves


def speed_up(method: Method, runtime: Runtime) -> None:
    """Fold the teachers' batch norm, and lay out for the device what is computed."""
    for part in list(method.modules()):
        if isinstance(part, FrozenTeacher):
            part.fold()
    if not method.channels_last:
        return
    method.to(memory_format=torch.channels_last)
    if runtime.device.type == "cpu":
        use_channels_last_batch_norm(method)


def use_fused(optimizer: torch.optim.Optimizer) -> None:
    """Let `optimizer` update all parameters by one kernel, also after a state of other flags has been loaded.

    On a GPU that saves launches; on a CPU it saves less than a hundredth of a step and costs the equality of bits with
    the optimiser as published, so it is left as it is there.
    """
    if type(optimizer) not in FUSED:
        return
    flags = {"fused": True, "foreach": False}
    if "capturable" in optimizer.defaults:
        flags["capturable"] = optimizer.param_groups[0]["params"][0].is_cuda

    def with_flags(_: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return {**state, "param_groups": [{**group, **flags} for group in state["param_groups"]]}

    for group in optimizer.param_groups:
        group.update(flags)
    optimizer.register_load_state_dict_pre_hook(with_flags)


def recording_obstacle(
    method: Method, optimizer: torch.optim.Optimizer, runtime: Runtime, accumulation_steps: int
) -> str | None:
    """Why the steps of this training cannot be recorded as a CUDA graph; None where they can."""
    if type(optimizer) not in FUSED:
        return f"{type(optimizer).__name__} takes the learning rate from the host"
    if runtime.distributed:
        return "several processes train together"
    if runtime.amp == "fp16":
        return "loss scaling asks the device whether to step"
    if accumulation_steps > 1:
        return "gradients of several batches are summed"
    return None if method.recordable else "the method does not say that it is recordable"
