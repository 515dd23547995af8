"""Floating-point operations of a training step, and the rate that a matrix product reaches on the same device."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def flops_of(work: Callable[[], Any]) -> int:
    """Floating-point operations of the matrix products and convolutions that `work` does, forward and backward.

    The usual count: a multiplication and an addition for each weight and output pixel. A convolution may do with fewer
    (Winograd's), so that a rate made of this count can exceed that of a matrix product.
    """
    counted = {torch.ops.aten.convolution_backward: convolution_backward_flops}
    with FlopCounterMode(display=False, custom_mapping=counted) as counter:
        work()
    return counter.get_total_flops()


def convolution_backward_flops(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    bias_sizes: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
    **kwargs: Any,
) -> int:
    """As many for each gradient (of the input, of the weights) as the forward pass took.

    PyTorch's own formula counts the weights' gradient of a convolution in groups as if it had none.
    """
    positions = (x_shape if transposed else grad_shape)[2:]
    return sum(output_mask[:2]) * 2 * x_shape[0] * math.prod(weight_shape) * math.prod(positions)


def matrix_product(device: torch.device, dtype: torch.dtype) -> Callable[[], int]:
    """Work for `interleave`: square matrices multiplied, large enough to fill the device; returns the operations."""
    if device.type == "cuda":
        size, count = 8192, 10
    else:  # many CPUs emulate bfloat16, hundreds of times as slowly
        size, count = (2048 if dtype == torch.float32 else 512), 4
    a, b = torch.randn(2, size, size, device=device).to(dtype)
    product = torch.empty_like(a)

    def work() -> int:
        for _ in range(count):
            torch.mm(a, b, out=product)
        return count * 2 * size**3

    return work


def report_arithmetic(
    flops: int, batch_size: int, precisions: dict[str, torch.dtype], rates: dict[Any, list[float]]
) -> None:
    """Print the operations per second of each side, and their share of what a matrix product reaches.

    Args:
        flops: of a step.
        batch_size: of a step.
        precisions: side -> in which it computes.
        rates: of `interleave`: images per second of the sides, operations per second of each precision's product.
    """
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"a step is {flops * 1e-9:.1f} GFLOP of matrix products and convolutions, forward and backward, teachers too")
    for dtype in dict.fromkeys(precisions.values()):
        print(f"  {f'matrix product, {_name(dtype)}':30} {medians[dtype] * 1e-9:10.0f} GFLOP/s")
    for side, dtype in precisions.items():
        rate = medians[side] * flops / batch_size
        print(f"  {side:30} {rate * 1e-9:10.0f} GFLOP/s, {rate / medians[dtype]:.2f} of the {_name(dtype)} product")


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
