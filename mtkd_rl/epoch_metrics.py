"""What the agent did in an epoch, summed up on the device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtkd_rl.multi_teacher import Weights, all_reduce_sum


class EpochMetrics(nn.Module):
    """Sums over an epoch; it is empty between epochs, so that checkpoints need none of it.

    Args:
        teachers: their names.
        num_classes: K.

    Attributes:
        weights_by_class: mean weights of the last epoch, [K, 2M]: for logits, then for features; not a number for a
            class without a sample.
    """

    def __init__(self, teachers: Sequence[str], num_classes: int) -> None:
        super().__init__()
        self.names = [f"{kind}_weight/{name}" for kind in ("logit", "feature") for name in teachers]
        # a row per class: sums of the weights, number of samples
        self._by_class: Tensor
        self.register_buffer(
            "_by_class", torch.zeros(num_classes, len(self.names) + 1, dtype=torch.float64), persistent=False
        )
        # sums of rewards and of the agent's losses, number of steps
        self._totals: Tensor
        self.register_buffer("_totals", torch.zeros(3, dtype=torch.float64), persistent=False)
        self.weights_by_class = torch.full((num_classes, len(self.names)), math.nan)

    def update(self, targets: Tensor, chosen: Weights, reward: Tensor, agent_loss: Tensor) -> None:
        """Take in one batch: classes [N], the agent's weights [N, M], rewards [N], this process's share of its loss."""
        rows = torch.cat([*chosen, torch.ones_like(chosen.logits[:, :1])], dim=1)
        self._by_class.index_add_(0, targets, rows.to(self._by_class.dtype))
        self._totals += torch.stack([reward.sum(), agent_loss, torch.ones_like(agent_loss)]).to(self._totals.dtype)

    def compute(self) -> dict[str, Tensor]:
        """Means over all ranks; starts again."""
        steps = self._totals[2].clone()
        by_class, totals = all_reduce_sum(self._by_class.clone()), all_reduce_sum(self._totals.clone())
        self._by_class.zero_()
        self._totals.zero_()
        self.weights_by_class = by_class[:, :-1] / by_class[:, -1:]
        *weights, samples = by_class.sum(0)
        return {
            **{name: weight / samples for name, weight in zip(self.names, weights, strict=True)},
            "reward": totals[0] / samples,
            "agent_loss": totals[1] / steps,
        }
