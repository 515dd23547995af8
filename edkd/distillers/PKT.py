"""PKT: "Learning Deep Representations with Probabilistic Knowledge Transfer" (Passalis, Tefas, ECCV 2018)."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Distiller


def neighbor_probabilities(embeddings: Tensor, eps: float) -> Tensor:
    """p_ij = K(x_i, x_j) / sum_j K(x_i, x_j) with the cosine kernel K = (cos + 1) / 2: [N, D] -> [N, N] (eq. 5)."""
    unit = embeddings / (embeddings.norm(dim=1, keepdim=True) + eps)
    kernel = (unit @ unit.T + 1.0) / 2.0
    return kernel / kernel.sum(dim=1, keepdim=True)


def pkt_loss(f_s: Tensor, f_t: Tensor, eps: float = 1e-7) -> Tensor:
    """Mean over all pairs of p_t log(p_t / p_s); the published figures go with this mean, hence the weight of 30000.

    Args:
        f_s, f_t: embeddings, [N, D] and [N, E].
        eps: keeps norms and probabilities from 0.
    """
    p_s, p_t = neighbor_probabilities(f_s, eps), neighbor_probabilities(f_t, eps)
    return (p_t * ((p_t + eps) / (p_s + eps)).log()).mean()


class PKT(Distiller):
    """Cross-entropy and `pkt_loss` on the pooled features."""

    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.ce_loss_weight = cfg.PKT.LOSS.CE_WEIGHT
        self.feat_loss_weight = cfg.PKT.LOSS.FEAT_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        loss = pkt_loss(feature_student["pooled_feat"], feature_teacher["pooled_feat"])
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.feat_loss_weight * loss,
        }
