"""NST: "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer" (Huang, Wang, 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import add_up

from ._base import Distiller
from ._common import match_size


def kernel_mean(a: Tensor, b: Tensor) -> Tensor:
    """Mean over samples and channel pairs of the kernel k(x, y) = (x . y)^2.

    Args:
        a, b: channels as rows, [N, C, H W] and [N, D, H W].
    """
    return torch.bmm(a, b.transpose(1, 2)).pow(2).mean()


def nst_loss(feats_student: Sequence[Tensor], feats_teacher: Sequence[Tensor]) -> Tensor:
    """Sum over stages of the squared maximum mean discrepancy between both sets of normalized channels (eq. 4).

    Args:
        feats_student, feats_teacher: feature maps [N, C, H, W], paired from the front and pooled to the smaller one.
    """
    terms = []
    for f_s, f_t in zip(feats_student, feats_teacher, strict=False):
        s, t = (F.normalize(f.flatten(2), dim=2) for f in match_size(f_s, f_t))
        terms += [kernel_mean(t, t).detach(), kernel_mean(s, s), -2 * kernel_mean(s, t)]
    return add_up(terms)


class NST(Distiller):
    """Cross-entropy and `nst_loss` on all stages but the stem."""

    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.ce_loss_weight = cfg.NST.LOSS.CE_WEIGHT
        self.feat_loss_weight = cfg.NST.LOSS.FEAT_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        loss = nst_loss(feature_student["feats"][1:], feature_teacher["feats"][1:])
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.feat_loss_weight * loss,
        }
