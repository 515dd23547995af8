"""The loss of multi-level knowledge distillation: every exit of the student is taught by the same teacher.

p is the student's distribution, p^t the teacher's, q the target's, K the number of classes, H the cross-entropy; a
subscript tau is softening by temperature. The published page has no formulas; these are of its code.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from common.losses import softened_kl


def kd_loss(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor, *, alpha: float, temperature: float
) -> Tensor:
    """alpha tau^2 D_KL(p^t_tau, p_tau) / K + (1 - alpha) H(q, p).

    The divergence is averaged over samples and classes, hence the division by K (docs/divergences.md).

    Args:
        student_logits, teacher_logits: [N, K].
        target: class indices, [N], or a mixture of them, [N, K].
        alpha: 1, the published default, leaves the target out.
        temperature: tau.
    """
    K = student_logits.shape[1]
    divergence = softened_kl(student_logits, teacher_logits, temperature).mean() / K
    return alpha * temperature**2 * divergence + (1 - alpha) * F.cross_entropy(student_logits, target)


def mlkd_loss(
    heads: Mapping[str, Tensor], teacher_logits: Tensor, target: Tensor, *, alpha: float, temperature: float
) -> dict[str, Tensor]:
    """`kd_loss` of every exit; what is minimized is their sum.

    Args:
        heads: exit -> its logits, [N, K].
        teacher_logits, target, alpha, temperature: as in `kd_loss`.
    """
    options = {"alpha": alpha, "temperature": temperature}
    return {name: kd_loss(logits, teacher_logits, target, **options) for name, logits in heads.items()}
