"""What the log shows of an epoch, summed on the device."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import TrainingError
from common.training.method import StepOutput
from common.training.runtime import Runtime, reduce_sum


class EpochSums:
    """Losses, correct answers, and the first step that was not finite; nothing is read back before the epoch ends.

    Args:
        runtime: of the run.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.names: list[str] = []

    def update(self, step: StepOutput, targets: Tensor) -> None:
        """Take in one step; everything stays where it is in memory."""
        losses = torch.stack(list(step.losses.values())).double()
        if not self.names:
            self.names = list(step.losses)
            self.losses = torch.zeros_like(losses)
            self.steps = torch.zeros_like(losses)
            self.first_nonfinite_step = torch.full_like(losses, math.inf)
            self.counts = torch.zeros(2, dtype=torch.int64, device=losses.device)  # correct, seen
        self.losses += losses * len(targets)
        self.first_nonfinite_step.copy_(
            torch.where(losses.isfinite(), self.first_nonfinite_step, self.first_nonfinite_step.minimum(self.steps))
        )
        correct = (step.logits.argmax(1) == targets).sum()
        self.counts += torch.stack([correct, torch.full_like(correct, len(targets))])
        self.steps += 1

    def reset(self) -> None:
        """Begin again at zero, in the same places."""
        if self.names:
            for total in (self.losses, self.steps, self.counts):
                total.zero_()
            self.first_nonfinite_step.fill_(math.inf)

    def check(self, epoch: int) -> None:
        """Raises:
        TrainingError: a loss was not finite, in whichever process.
        """
        if self.runtime.distributed:
            dist.all_reduce(self.first_nonfinite_step, dist.ReduceOp.MIN)
        first_nonfinite_step = self.first_nonfinite_step.tolist()
        if min(first_nonfinite_step) < math.inf:
            step, name = min(zip(first_nonfinite_step, self.names, strict=True))
            raise TrainingError(
                f"loss '{name}' is not finite at step {int(step) + 1} of epoch {epoch + 1}: training stops; the "
                "checkpoints hold the last good epoch (a lower learning rate may help)"
            )

    def compute(self) -> dict[str, float]:
        """Mean over all samples of all ranks of each loss and of their sum, and the accuracy in percent."""
        correct, seen, *totals = reduce_sum(torch.cat([self.counts.double(), self.losses]), self.runtime).tolist()
        parts = {name: total / seen for name, total in zip(self.names, totals, strict=True)}
        return {"loss": sum(parts.values()), **parts, "accuracy": 100 * correct / seen}
