"""Several ranks that train together: what each of them does beside its own share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from common.training.runtime import Runtime


def data_parallel(module: nn.Module, parameters: Sequence[nn.Parameter]) -> DistributedDataParallel:
    """`module` with the gradients of `parameters` averaged over ranks; what else it learns is its own business."""
    ours = {id(parameter) for parameter in parameters}
    others = [name for name, parameter in module.named_parameters() if id(parameter) not in ours]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PyTorch is about to rename the flag
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, others)
        # running statistics are averaged once per epoch instead of broadcast at every step
        return DistributedDataParallel(module, broadcast_buffers=False)


def average_running_statistics(network: nn.Module, runtime: Runtime) -> None:
    """Give all ranks the same batch-norm statistics: the mean of theirs."""
    if not runtime.distributed:
        return
    for buffer in network.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= runtime.world_size


def on_any_rank(condition: bool, runtime: Runtime) -> bool:
    """Whether `condition` holds on one of the ranks at least."""
    if not runtime.distributed:
        return condition
    flag = torch.tensor(float(condition), device=runtime.device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag)


def on_main_rank(condition: bool, runtime: Runtime) -> bool:
    """Whether `condition` holds on the main process, as all ranks are told."""
    if not runtime.distributed:
        return condition
    flag = torch.tensor(float(condition), device=runtime.device)
    dist.broadcast(flag, 0)
    return bool(flag)
