"""Where the time of a training step goes, by kinds of operators."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

if TYPE_CHECKING:
    from common.data import Batch, BatchLoader

DATA, REST = "batches", "the rest"
IDLE = "no operator at work"

# Kind -> pattern of its operators' names on a CPU and of its kernels' names on a GPU; the first that matches counts.
KINDS = {
    DATA: rf"^{DATA}$|index_?select",
    "optimizer": r"Optimizer\.|multi_tensor|_fused_(sgd|adam)|FusedSgd|FusedAdam",
    "batch norm": r"batch_?norm|bn_(fw|bw)",
    "convolution, backward": r"convolution_?backward|dgrad|wgrad|bprop|conv.*backward",
    "convolution, forward": r"conv|fprop|winograd",
    "matrix products": r"aten::(linear|addmm|mm|bmm|matmul)|AddmmBackward|MmBackward|gemm|gemv|cutlass|cublas|_linear",
    "concatenation, copies": (
        r"::(cat$|copy_|contiguous|clone)|shuffle|CatBackward|CatArray|direct_copy|memcpy|memset|nhwc|nchw"
    ),
    "pooling": r"pool",
    "activations, other elementwise": (
        r"relu|sigmoid|softmax|elementwise|triton|::(add|sub|mul|div|neg|exp|log|pow|sqrt|clamp|where|sum|mean|fill|zero)"
    ),
    REST: r"",
}


def kind_of(operator: str) -> str:
    """The kind of an operator or a kernel."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, operator, re.IGNORECASE))


class MarkedBatches:
    """`batches` whose making a profile shows as such."""

    def __init__(self, batches: BatchLoader) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def samples(self) -> int:
        return self._batches.samples

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        batches = iter(self._batches.epoch(epoch))
        while True:
            with record_function(DATA):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch


def shares(work: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """The share of each kind in the time that `work` takes; on a GPU that of its kernels.

    An operator counts for the outermost one around it that has a kind, so that what batch norm multiplies is batch
    norm's.
    """
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        started = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        whole = time.perf_counter() - started
    seconds = dict.fromkeys((*KINDS, IDLE), 0.0)
    for event in profiler.events() or ():
        if not on_gpu:
            seconds[_kind_on_cpu(event)] += event.self_cpu_time_total * 1e-6
        elif event.device_type == DeviceType.CUDA and not event.is_user_annotation:
            seconds[kind_of(event.name)] += event.self_device_time_total * 1e-6
    seconds[IDLE] = max(0.0, whole - sum(seconds.values()))
    together = sum(seconds.values())
    return {kind: own / together for kind, own in seconds.items()}


def _kind_on_cpu(event: Any) -> str:
    kind = REST
    while event is not None:
        found = kind_of(event.name)
        kind, event = (kind if found == REST else found), event.cpu_parent
    return kind


def report_shares(title: str, found: dict[str, float]) -> None:
    """Print the table, the largest first."""
    print(f"where the time of {title} goes")
    for kind, share in sorted(found.items(), key=lambda item: -item[1]):
        print(f"  {kind:32}{share:6.1%}")
