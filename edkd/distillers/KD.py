"""KD: "Distilling the Knowledge in a Neural Network" (Hinton, Vinyals, Dean, 2015)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import softened_kl

from ._base import Distiller


def kd_loss(logits_student: Tensor, logits_teacher: Tensor, temperature: float) -> Tensor:
    """T^2 mean_n D_KL(q_n, p_n); q is the teacher's distribution and p the student's, both softened by T.

    Args:
        logits_student, logits_teacher: [N, K].
    """
    return temperature**2 * softened_kl(logits_student, logits_teacher, temperature).mean()


class KD(Distiller):
    """Cross-entropy and `kd_loss`, weighted."""

    teacher_features = False
    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.temperature = cfg.KD.TEMPERATURE
        self.ce_loss_weight = cfg.KD.LOSS.CE_WEIGHT
        self.kd_loss_weight = cfg.KD.LOSS.KD_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, _ = self.student(image)
        logits_teacher, _ = self.teacher(image)
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.kd_loss_weight * kd_loss(logits_student, logits_teacher, self.temperature),
        }
