"""The ways of training of this paper, as the training loop takes them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.training.method import FrozenTeacher, Method, Step
from mlkd.losses import mlkd_loss, teach_loss
from mlkd.mixing import Mixing
from mlkd.student import EXITS, MultiResNetV2


class MultiLevel(Method):
    """Multi-level distillation: the teacher sees the mixed images too, and teaches every exit.

    Args:
        student: network with `heads`.
        teacher: gives logits, [N, K].
        mixing: of images and labels.
        alpha, temperature: of the loss.
        validation_batch: images of a validation batch, on average; each batch counts as many in `evaluation_loss`.
            None counts images.
    """

    epoch_dependent_until = 0

    def __init__(
        self,
        student: MultiResNetV2,
        teacher: nn.Module,
        mixing: Mixing,
        alpha: float,
        temperature: float,
        validation_batch: float | None = None,
    ) -> None:
        super().__init__()
        self.student, self.teacher, self.mixing = student, FrozenTeacher(teacher, foldable=False), mixing
        self.options = {"alpha": alpha, "temperature": temperature}
        self.validation_batch = validation_batch
        self.register_buffer("exit_losses", torch.zeros(len(EXITS), dtype=torch.float64), persistent=False)
        self.register_buffer("batches", torch.zeros((), dtype=torch.float64), persistent=False)

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> Step:
        images, soft_targets = self.mixing(images, targets)
        heads, teacher_logits = self.student.heads(images), self.teacher(images)
        losses = mlkd_loss(heads, teacher_logits, soft_targets, **self.options)
        self.exit_losses += torch.stack([loss.detach() for loss in losses.values()])
        self.batches += 1
        return Step(heads["final"], losses)

    def figures(self) -> dict[str, Tensor]:
        """`sd_loss`, the published figure: the mean over batches, whatever their size."""
        sd_loss = sum((self.exit_losses / self.batches).unbind())
        self.exit_losses.zero_()
        self.batches.zero_()
        return {"sd_loss": sd_loss}

    def evaluation_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """The same loss of the final exit alone, with labels as they are; over an epoch the mean over batches."""
        loss = teach_loss(logits, self.teacher(images), targets, **self.options)
        return loss * (self.validation_batch or len(targets))


class FineTuning(Method):
    """Cross-entropy with smoothed labels of mixed images: how a teacher is made."""

    epoch_dependent_until = 0

    def __init__(self, network: nn.Module, mixing: Mixing) -> None:
        super().__init__()
        self.student, self.mixing = network, mixing

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> Step:
        images, soft_targets = self.mixing(images, targets)
        logits = self.student(images)
        return Step(logits, {"cross_entropy": F.cross_entropy(logits, soft_targets)})
