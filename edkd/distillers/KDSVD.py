"""KDSVD: "Self-supervised Knowledge Distillation Using Singular Value Decomposition" (Lee, Kim, Song, ECCV 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import add_up

from ._base import Distiller

SPARE = 3  # the student shows so many more vectors than the teacher, to choose from


def singular_vectors(feat: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k singular values of each feature map and their right vectors.

    As in the published code a feature map is a matrix of C H rows and W columns, not of C and H W: the figures say so.
    It is decomposed in float32 whatever comes in. The vectors' signs are those that the decomposition returns.

    Args:
        feat: [N, C, H, W].

    Returns:
        Values scaled to length 1, [N, k], and vectors, [N, W, k].
    """
    with torch.autocast(feat.device.type, enabled=False):
        matrices = feat.flatten(1, 2).float()
        s, v = decompose_by_gram(matrices) if feat.is_cuda else decompose(matrices)
    return F.normalize(s[:, :k], dim=1), v[:, :, :k]


def decompose(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Singular values in descending order, [N, W], and right vectors, [N, W, W], of matrices [N, M, W]."""
    _, s, v_t = torch.linalg.svd(matrices, full_matrices=False)
    return s, v_t.transpose(1, 2)


def decompose_by_gram(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """`decompose` by the eigenvectors of A^T A, for GPUs.

    There a decomposition of matrices of more than 32 rows is a loop over them, while W x W ones are decomposed at once.
    Squares would halve the digits, hence double precision.
    """
    doubled = matrices.double()
    eigenvalues, v = torch.linalg.eigh(doubled.transpose(1, 2) @ doubled)
    s = eigenvalues.clamp_min(0).sqrt()
    return s.flip(1).to(matrices.dtype), v.flip(2).to(matrices.dtype)


def align(v_s: Tensor, v_t: Tensor) -> Tensor:
    """To each teacher vector the student vector that is most like it, its sign made to agree.

    Args:
        v_s, v_t: [N, W, k + spare] and [N, W, k].

    Returns:
        [N, W, k].
    """
    cosine = v_s.transpose(1, 2) @ v_t
    best = cosine.abs() == cosine.abs().amax(dim=1, keepdim=True)
    return v_s @ torch.where(best, cosine.sign(), torch.zeros_like(cosine))


def kdsvd_loss(feats_student: Sequence[Tensor], feats_teacher: Sequence[Tensor], k: int) -> Tensor:
    """Squared difference of both networks' radial-basis correlations between consecutive stages, summed, per sample.

    Args:
        feats_student, feats_teacher: feature maps [N, C, H, W], paired from the front, of equal width.
        k: singular vectors a stage.
    """
    differences, before = [], None
    for f_s, f_t in zip(feats_student, feats_teacher, strict=False):
        s_t, v_t = singular_vectors(f_t, k)
        _, v_s = singular_vectors(f_s, k + SPARE)
        v_s, v_t = align(v_s, v_t) * s_t[:, None, :], v_t * s_t[:, None, :]
        if before is not None:
            rbf_s, rbf_t = (
                (-(v[:, :, None, :] - v_before[:, None, :, :]).pow(2) / 8).exp()
                for v, v_before in zip((v_s, v_t), before, strict=True)
            )
            difference = (rbf_s - rbf_t.detach()).pow(2)
            differences.append(torch.where(difference.isfinite(), difference, torch.zeros_like(difference)).sum())
        before = v_s, v_t
    return add_up(differences) / len(feats_student[0])


class KDSVD(Distiller):
    """Cross-entropy and `kdsvd_loss` on all stages but the stem."""

    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.k = cfg.KDSVD.K
        self.ce_loss_weight = cfg.KDSVD.LOSS.CE_WEIGHT
        self.feat_loss_weight = cfg.KDSVD.LOSS.FEAT_WEIGHT

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        loss = kdsvd_loss(feature_student["feats"][1:], feature_teacher["feats"][1:], self.k)
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.feat_loss_weight * loss,
        }
