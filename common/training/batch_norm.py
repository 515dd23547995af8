"""A faster backward pass of batch norm on CPUs.

PyTorch's own, for channels-last tensors, takes up to four times what its reductions cost as matrix-vector products
(benchmarks/README.md), which in a ShuffleNet is a fifth of the whole training step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from common.errors import TrainingError


class _BatchNormFunction(torch.autograd.Function):
    """y = (x - mean) * invstd * weight + bias over the batch; x [N, C, H, W], channels-last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, module: nn.BatchNorm2d, momentum: float) -> Tensor:
        y, mean, invstd = torch.native_batch_norm(
            x, weight, bias, module.running_mean, module.running_var, True, momentum, module.eps
        )
        ctx.save_for_backward(x, weight, mean, invstd)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, invstd = ctx.saved_tensors
        N, C, H, W = x.shape
        M = N * H * W
        rows = grad.permute(0, 2, 3, 1).reshape(M, C)
        centered = x.permute(0, 2, 3, 1).reshape(M, C) - mean
        ones = rows.new_ones(M)
        grad_bias = rows.t().mv(ones)
        grad_weight = (centered * rows).t().mv(ones) * invstd
        scale = weight * invstd
        # dx = scale * (grad - mean(grad) - (x - mean) * invstd * mean(grad * normalized x))
        grad_x = torch.addcmul(-scale * grad_bias / M, centered, -scale * invstd * grad_weight / M)
        grad_x.addcmul_(rows, scale)
        return grad_x.view(N, H, W, C).permute(0, 3, 1, 2), grad_weight, grad_bias, None, None


class ChannelsLastBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the faster backward pass where it applies: training on a CPU, channels-last, eager."""

    def forward(self, x: Tensor) -> Tensor:
        applies = (
            self.training
            and self.affine
            and self.track_running_stats
            and self.momentum is not None
            and x.dtype == self.weight.dtype
            and x.is_contiguous(memory_format=torch.channels_last)
            and x.numel() > x.shape[1]  # PyTorch refuses a single value of each channel
            and not torch.compiler.is_compiling()
        )
        if self.num_batches_tracked is None or not applies:
            return super().forward(x)
        self.num_batches_tracked.add_(1)
        return _BatchNormFunction.apply(x, self.weight, self.bias, self, self.momentum)


@contextlib.contextmanager
def explained_single_values() -> Iterator[None]:
    """Turn PyTorch's refusal of a batch with a single value of each channel into one line.

    Raises:
        TrainingError: says what to raise.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise TrainingError(
            "batch norm cannot train on a single value of each channel, which is what one image in a process leaves in "
            "feature maps of one pixel; take a larger batch size, or larger images"
        ) from error


def use_channels_last_batch_norm(module: nn.Module) -> None:
    """Let every plain `nn.BatchNorm2d` in `module` take the faster backward pass; parameters and names stay."""
    for part in module.modules():
        if type(part) is nn.BatchNorm2d:
            part.__class__ = ChannelsLastBatchNorm2d
