"""The ways of training of this paper, as the training loop takes them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import add_up
from common.training.method import FrozenTeacher, Method, StepOutput
from mlkd.ensemble import Ensemble
from mlkd.losses import kd_loss, mlkd_loss
from mlkd.mixup_cutmix import MixupCutmix
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
    student: MultiResNetV2
    exit_losses: Tensor
    batches: Tensor

    def __init__(
        self,
        student: MultiResNetV2,
        teacher: nn.Module,
        mixing: MixupCutmix,
        alpha: float,
        temperature: float,
        validation_batch: float | None = None,
    ) -> None:
        super().__init__()
        self.student, self.teacher, self.mixing = student, FrozenTeacher(teacher, foldable=False), mixing
        self.options = {"alpha": alpha, "temperature": temperature}
        self.temperature = temperature
        self.validation_batch = validation_batch
        self.register_buffer("exit_losses", torch.zeros(len(EXITS), dtype=torch.float64), persistent=False)
        self.register_buffer("batches", torch.zeros((), dtype=torch.float64), persistent=False)

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        images, soft_targets = self.mixing(images, targets)
        heads, teacher_logits = self.student.heads(images), self.teacher(images)
        losses = mlkd_loss(heads, teacher_logits, soft_targets, **self.options)
        self.exit_losses += torch.stack([loss.detach() for loss in losses.values()])
        self.batches += 1
        return StepOutput(heads["final"], losses)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of every exit."""
        return self.student.heads(images)

    def teacher_logits(self, images: Tensor) -> list[Tensor]:
        network = self.teacher.network
        members = network.members if isinstance(network, Ensemble) else [network]
        return [member(images) for member in members]

    def mean_teacher(self, logits: list[Tensor]) -> Tensor:
        """The ensemble, by which the student is taught; one teacher is its own mean."""
        network = self.teacher.network
        return network.combine(logits) if isinstance(network, Ensemble) else logits[0]

    def epoch_metrics(self) -> dict[str, Tensor]:
        """`sd_loss`, the published figure: the mean over batches, whatever their size."""
        sd_loss = add_up((self.exit_losses / self.batches).unbind())
        self.exit_losses.zero_()
        self.batches.zero_()
        return {"sd_loss": sd_loss}

    def evaluation_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """The same loss of the final exit alone, with labels as they are; over an epoch the mean over batches."""
        loss = kd_loss(logits, self.teacher(images), targets, **self.options)
        return loss * (self.validation_batch or len(targets))


class FineTuning(Method):
    """Cross-entropy with smoothed labels of mixed images: how a teacher is made."""

    epoch_dependent_until = 0

    def __init__(self, network: nn.Module, mixing: MixupCutmix) -> None:
        super().__init__()
        self.student, self.mixing = network, mixing

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        images, soft_targets = self.mixing(images, targets)
        logits = self.student(images)
        return StepOutput(logits, {"cross_entropy": F.cross_entropy(logits, soft_targets)})
