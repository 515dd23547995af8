"""RKD: "Relational Knowledge Distillation" (Park et al., CVPR 2019)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Distiller


def pairwise_distances(x: Tensor, squared: bool, eps: float) -> Tensor:
    """Euclidean distances between all rows, clamped at `eps` ahead of the root, 0 on the diagonal: [N, D] -> [N, N]."""
    norms = x.pow(2).sum(dim=1)
    distances = (norms[:, None] + norms[None, :] - 2 * x @ x.T).clamp(min=eps)
    if not squared:
        distances = distances.sqrt()
    return distances * (1 - torch.eye(len(x), device=x.device, dtype=x.dtype))


def normalized_distances(x: Tensor, squared: bool, eps: float) -> Tensor:
    """psi_D: distances divided by the mean of the positive ones (eq. 4 and 5); 0 of one row, which has none."""
    distances = pairwise_distances(x, squared, eps)
    positive = distances > 0
    total = (distances * positive).sum()
    return distances * positive.sum() / torch.where(total > 0, total, 1)


def triplet_cosines(x: Tensor) -> Tensor:
    """psi_A: the cosine at the first of three rows, for all triples: [N, D] -> [N, N, N] (eq. 7)."""
    directions = F.normalize(x[None, :, :] - x[:, None, :], dim=2)
    return torch.bmm(directions, directions.transpose(1, 2))


def rkd_loss(
    f_s: Tensor,
    f_t: Tensor,
    squared: bool = False,
    eps: float = 1e-12,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
) -> Tensor:
    """Huber loss between both networks' distances, and between their angles, weighted (eq. 6 and 8).

    Args:
        f_s, f_t: embeddings, [N, D] and [N, E].
        squared: compare squared distances.
        eps: least squared distance.
        distance_weight, angle_weight: of the two.
    """
    with torch.no_grad():
        distances_t, angles_t = normalized_distances(f_t, squared, eps), triplet_cosines(f_t)
    distance = F.smooth_l1_loss(normalized_distances(f_s, squared, eps), distances_t)
    angle = F.smooth_l1_loss(triplet_cosines(f_s), angles_t)
    return distance_weight * distance + angle_weight * angle


class RKD(Distiller):
    """Cross-entropy and `rkd_loss` on the pooled features."""

    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.options = {
            "distance_weight": cfg.RKD.DISTANCE_WEIGHT,
            "angle_weight": cfg.RKD.ANGLE_WEIGHT,
            "squared": cfg.RKD.PDIST.SQUARED,
            "eps": cfg.RKD.PDIST.EPSILON,
        }
        self.ce_loss_weight = cfg.RKD.LOSS.CE_WEIGHT
        self.feat_loss_weight = cfg.RKD.LOSS.FEAT_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        loss = rkd_loss(feature_student["pooled_feat"], feature_teacher["pooled_feat"], **self.options)
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.feat_loss_weight * loss,
        }
