"""In which memory layout a run computes: decided here alone, together with the precision."""

from __future__ import annotations

import torch
from torch import nn

from common.training.runtime import Runtime

CONTIGUOUS, CHANNELS_LAST = torch.contiguous_format, torch.channels_last

# (device, precision, kind of convolutions) -> layout, as measured on CPUs and, by shufflenet_v2 and resnet20 alone, on
# an H100 (benchmarks/README.md). Not measured yet are dense convolutions in bf16 on GPUs, where channels-last is what
# tensor cores want, and fp16, whose steps are not captured: uncaptured bf16 steps of grouped convolutions are faster
# contiguous.
LAYOUTS: dict[tuple[str, str, str], torch.memory_format] = {
    ("cpu", "fp32", "dense"): CHANNELS_LAST,
    ("cpu", "fp32", "grouped"): CHANNELS_LAST,
    ("cpu", "bf16", "dense"): CHANNELS_LAST,
    ("cpu", "bf16", "grouped"): CHANNELS_LAST,
    ("cuda", "fp32", "dense"): CONTIGUOUS,
    ("cuda", "fp32", "grouped"): CONTIGUOUS,
    ("cuda", "tf32", "dense"): CHANNELS_LAST,
    ("cuda", "tf32", "grouped"): CONTIGUOUS,
    ("cuda", "bf16", "dense"): CHANNELS_LAST,
    ("cuda", "bf16", "grouped"): CHANNELS_LAST,
    ("cuda", "fp16", "dense"): CHANNELS_LAST,
    ("cuda", "fp16", "grouped"): CONTIGUOUS,
}


def convolution_kind(module: nn.Module) -> str:
    """ "grouped" where a convolution in `module` has groups (depthwise ones do), else "dense"."""
    grouped = any(isinstance(part, nn.Conv2d) and part.groups > 1 for part in module.modules())
    return "grouped" if grouped else "dense"


def layout_for(module: nn.Module, runtime: Runtime) -> torch.memory_format:
    """The layout of all that `module` computes: a `Method` with student and teachers, or a network.

    Student and teachers share one layout, for methods compare their feature maps.
    """
    if runtime.plain or not getattr(module, "channels_last", True):
        return CONTIGUOUS
    return layout_of(runtime.device, runtime.precision, convolution_kind(module))


def layout_of(device: torch.device, precision: str, kind: str) -> torch.memory_format:
    """What `LAYOUTS` says; contiguous, as published, on kinds of devices that nobody has measured."""
    return LAYOUTS.get((device.type, precision, kind), CONTIGUOUS)


def layout_name(layout: torch.memory_format) -> str:
    """As records name it."""
    return "channels_last" if layout == CHANNELS_LAST else "contiguous"
