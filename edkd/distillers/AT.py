"""AT: "Paying More Attention to Attention" (Zagoruyko, Komodakis, ICLR 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import add_up

from ._base import Distiller
from ._common import match_size


def attention(feat: Tensor, p: int) -> Tensor:
    """Q / ||Q||_2 with Q = mean over channels of feat^p: [N, C, H, W] -> [N, H W]."""
    return F.normalize(feat.pow(p).mean(1).flatten(1))


def at_loss(feats_student: Sequence[Tensor], feats_teacher: Sequence[Tensor], p: int) -> Tensor:
    """Sum over stages of the squared difference of both attention maps, averaged over all its entries.

    Args:
        feats_student, feats_teacher: feature maps [N, C, H, W], paired from the front and pooled to the smaller one.
    """
    pairs = [match_size(f_s, f_t) for f_s, f_t in zip(feats_student, feats_teacher, strict=False)]
    return add_up((attention(f_s, p) - attention(f_t, p)).pow(2).mean() for f_s, f_t in pairs)


class AT(Distiller):
    """Cross-entropy and `at_loss` on all stages but the stem."""

    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.p = cfg.AT.P
        self.ce_loss_weight = cfg.AT.LOSS.CE_WEIGHT
        self.feat_loss_weight = cfg.AT.LOSS.FEAT_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        loss = at_loss(feature_student["feats"][1:], feature_teacher["feats"][1:], self.p)
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.feat_loss_weight * loss,
        }
