"""The losses of "Revisiting Knowledge Distillation via Label Smoothing Regularization" (Yuan et al., CVPR 2020).

q is the label's distribution, p the student's, p^t a teacher's, u the uniform one, K the number of classes, H the
cross-entropy; a subscript tau is softening by temperature. Each loss has two forms: "code", the published
implementation, which made the published figures and is the default here, and "paper", the formula as printed
(docs/divergences.md says where they part). Each returns named parts that add up to the loss.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from common.losses import softened_kl

Form = Literal["code", "paper"]
Parts = dict[str, Tensor]

CORRECT_PROBABILITY = 0.99  # a of the manually designed virtual teacher; a literal of the published code
SMOOTHING = 0.1  # alpha of label smoothing; likewise


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    targets: Tensor,
    *,
    alpha: float,
    temperature: float,
    multiplier: float = 1.0,
    form: Form = "code",
) -> Parts:
    """(1 - alpha) H(q, p) + alpha D_KL(p^t_tau, p_tau): normal KD (eq. 3), and Tf-KD_self (eq. 6) when the teacher is
    the student's own trained self.

    The published code averages the divergence over samples and classes, which makes it K times smaller, and scales it
    by tau^2 and, in self-training only, by `multiplier`.

    Args:
        student_logits, teacher_logits: [N, K].
        targets: class indices, [N].
        temperature: tau.
    """
    K = student_logits.shape[1]
    kl = softened_kl(student_logits, teacher_logits, temperature).mean()
    soft = kl if form == "paper" else multiplier * temperature**2 * kl / K
    return {"cross_entropy": (1 - alpha) * F.cross_entropy(student_logits, targets), "soft": alpha * soft}


def regularization_loss(
    student_logits: Tensor,
    targets: Tensor,
    *,
    alpha: float,
    temperature: float,
    multiplier: float = 1.0,
    form: Form = "code",
) -> Parts:
    """Tf-KD_reg, (1 - alpha) H(q, p) + alpha D_KL(p^d_tau, p_tau), with the virtual teacher p^d (eq. 8).

    The published code takes the probabilities p^d for logits, leaves the student unsoftened, and averages over samples
    and classes.

    Args:
        student_logits: [N, K].
        targets: class indices, [N].
        temperature: tau.
    """
    K = student_logits.shape[1]
    p_d = virtual_teacher(targets, K, student_logits.dtype)
    if form == "paper":
        soft = softened_kl(student_logits, p_d.log(), temperature).mean()
    else:
        soft = multiplier * softened_kl(student_logits, p_d / temperature, 1.0).mean() / K
    return {"cross_entropy": (1 - alpha) * F.cross_entropy(student_logits, targets), "soft": alpha * soft}


def regularization_scale(alpha: float, multiplier: float, K: int, *, form: Form = "code") -> float:
    """What the weights of Tf-KD_reg's two terms add up to: 1 as printed, (1 - alpha) + alpha multiplier / K in code.

    Beside a weight decay, a loss of another scale is trained at another learning rate: with alpha = 0.95 and multiplier
    = 1 the published code trains at 0.0595 of it. Label smoothing scaled by this differs from Tf-KD_reg in the targets
    alone.
    """
    return 1.0 if form == "paper" else (1 - alpha) + alpha * multiplier / K


def virtual_teacher(targets: Tensor, K: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """p^d(k) = a for the correct class, (1 - a) / (K - 1) for the others, a = 0.99 (eq. 7); [N, K]."""
    p_d = torch.full((len(targets), K), (1 - CORRECT_PROBABILITY) / (K - 1), dtype=dtype, device=targets.device)
    return p_d.scatter_(1, targets[:, None], CORRECT_PROBABILITY)


def label_smoothing_loss(student_logits: Tensor, targets: Tensor, *, form: Form = "code") -> Parts:
    """H(q', p) with q' = (1 - alpha) q + alpha u (eq. 1 and 2), alpha = 0.1.

    The published code spreads alpha over the K - 1 wrong classes only.

    Args:
        student_logits: [N, K].
        targets: class indices, [N].
    """
    K = student_logits.shape[1]
    alpha = SMOOTHING if form == "paper" else SMOOTHING * K / (K - 1)
    return {"cross_entropy": F.cross_entropy(student_logits, targets, label_smoothing=alpha)}
