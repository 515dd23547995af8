"""The ways of training of the Tf-KD paper, as the training loop takes them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import add_up
from common.training.method import FrozenTeacher, Method, StepOutput
from tfkd.losses import Form, Parts, kd_loss, label_smoothing_loss, regularization_loss


class Baseline(Method):
    """Cross-entropy with the labels."""

    graph_capturable = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        return StepOutput(logits, {"cross_entropy": F.cross_entropy(logits, targets)})


class LabelSmoothing(Method):
    """Cross-entropy with smoothed labels."""

    graph_capturable = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, form: Form = "code", scale: float = 1.0) -> None:
        super().__init__()
        self.student, self.scale = student, scale
        self.form: Form = form

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        return StepOutput(logits, self.losses(logits, targets))

    def losses(self, logits: Tensor, targets: Tensor) -> Parts:
        parts = label_smoothing_loss(logits, targets, form=self.form)
        return {name: self.scale * part for name, part in parts.items()}

    def evaluation_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        return len(targets) * add_up(self.losses(logits, targets).values())  # the method's own, as published


class Regularization(Method):
    """Tf-KD_reg: taught by the manually designed virtual teacher."""

    graph_capturable = True
    epoch_dependent_until = 0

    def __init__(
        self, student: nn.Module, alpha: float, temperature: float, multiplier: float, form: Form = "code"
    ) -> None:
        super().__init__()
        self.student = student
        self.options = {"alpha": alpha, "temperature": temperature, "multiplier": multiplier, "form": form}

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        return StepOutput(logits, regularization_loss(logits, targets, **self.options))

    def evaluation_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        parts = regularization_loss(logits, targets, **self.options)
        return len(targets) * add_up(parts.values())  # the method's own, as published


class Distillation(Method):
    """Taught by a network: KD, Re-KD, De-KD and (with `multiplier`) Tf-KD_self differ in the teacher alone."""

    graph_capturable = True
    epoch_dependent_until = 0

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        alpha: float,
        temperature: float,
        multiplier: float = 1.0,
        form: Form = "code",
    ) -> None:
        super().__init__()
        self.student, self.teacher, self.temperature = student, FrozenTeacher(teacher), temperature
        self.options = {"alpha": alpha, "temperature": temperature, "multiplier": multiplier, "form": form}

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits, teacher_logits = self.student(images), self.teacher(images)
        return StepOutput(logits, kd_loss(logits, teacher_logits, targets, **self.options))
