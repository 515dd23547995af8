"""SP: "Similarity-Preserving Knowledge Distillation" (Tung, Mori, ICCV 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import add_up

from ._base import Distiller


def similarity(feat: Tensor) -> Tensor:
    """G with rows of length 1, G = A A^T, A the feature maps as rows: [N, ...] -> [N, N] (eq. 1 and 2)."""
    rows = feat.flatten(1)
    return F.normalize(rows @ rows.T, dim=1)


def sp_loss(feats_student: Sequence[Tensor], feats_teacher: Sequence[Tensor]) -> Tensor:
    """Sum over stages of ||G_t - G_s||_F^2 / N^2 (eq. 4).

    Args:
        feats_student, feats_teacher: feature maps [N, C, H, W]; their sizes need not agree.
    """
    pairs = zip(feats_student, feats_teacher, strict=True)
    return add_up((similarity(f_t) - similarity(f_s)).pow(2).mean() for f_s, f_t in pairs)


class SP(Distiller):
    """Cross-entropy and `sp_loss` on the last stage."""

    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.ce_loss_weight = cfg.SP.LOSS.CE_WEIGHT
        self.feat_loss_weight = cfg.SP.LOSS.FEAT_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        loss = sp_loss(feature_student["feats"][-1:], feature_teacher["feats"][-1:])
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.feat_loss_weight * loss,
        }
