"""What distillers import from mdistiller's module of this name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from common.training.checkpoints import load_checkpoint

__all__ = ["AverageMeter", "accuracy", "load_checkpoint", "log_msg"]


class AverageMeter:
    """The last value, and the mean of all since `reset`."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.val = self.avg = self.sum = self.count = 0

    def update(self, val: Any, n: int = 1) -> None:
        """Take in a mean over `n` samples."""
        self.val, self.sum, self.count = val, self.sum + val * n, self.count + n
        self.avg = self.sum / self.count


@torch.no_grad()
def accuracy(output: Tensor, target: Tensor, topk: tuple[int, ...] = (1,)) -> list[Tensor]:
    """Percent of samples [N, K] whose class [N] is among the k first, for each k; each of shape [1]."""
    ranked = output.topk(max(topk), dim=1).indices == target[:, None]
    return [ranked[:, :k].any(1, keepdim=True).float().mean(0) * 100 for k in topk]


def log_msg(msg: str, mode: str = "INFO") -> str:
    """A line that says of which kind it is; the forks color it."""
    return f"[{mode}] {msg}"
