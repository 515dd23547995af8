"""Distances between the student and its teachers: one number for each sample and teacher, not yet weighted.

N samples, K classes, M teachers.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from common.losses import softened_kl


def logit_losses(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """tau^2 D_KL(p_tau^t, p_tau) between the student and each teacher.

    Args:
        student_logits: [N, K].
        teacher_logits: [N, K, M].
        temperature: tau.

    Returns:
        [N, M].
    """
    return temperature**2 * softened_kl(student_logits[:, :, None], teacher_logits, temperature)


def feature_mse(student_map: Tensor, teacher_map: Tensor, temperature: float) -> Tensor:
    """Squared difference of two feature maps [N, C, H, W], averaged over each sample's entries: [N].

    `temperature` is there for the interface that it shares with `feature_kl`.
    """
    return F.mse_loss(student_map, teacher_map, reduction="none").flatten(1).mean(1)


def feature_kl(student_map: Tensor, teacher_map: Tensor, temperature: float) -> Tensor:
    """tau^2 D_KL between two feature maps, each channel a softened distribution over positions; averaged over channels.

    Args:
        student_map, teacher_map: [N, C, H, W].
        temperature: tau.

    Returns:
        [N].
    """
    log_p, log_q = (F.log_softmax(m.flatten(2) / temperature, dim=2) for m in (student_map, teacher_map))
    return temperature**2 * F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(2).mean(1)


FEATURE_LOSSES = {"mse": feature_mse, "kl": feature_kl}
