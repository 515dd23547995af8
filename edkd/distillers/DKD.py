"""DKD: "Decoupled Knowledge Distillation" (Zhao et al., CVPR 2022)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Distiller


def binary_and_nontarget_log_probs(logits: Tensor, target: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The two parts into which DKD splits a softened distribution.

    Args:
        logits: [N, K].
        target: class indices, [N].

    Returns:
        log b, the log-probabilities of the target class and of all others together, [N, 2]; and log p-hat, the
        log-distribution over the non-target classes, [N, K - 1]. Both stay finite for every finite input.
    """
    K = logits.shape[1]
    log_p = F.log_softmax(logits / temperature, dim=1)
    others = torch.arange(K - 1, device=logits.device)
    others = others + (others >= target[:, None])  # [N, K - 1]: all classes but the target
    rest = log_p.gather(1, others)
    log_rest = rest.logsumexp(dim=1, keepdim=True)
    return torch.cat([log_p.gather(1, target[:, None]), log_rest], dim=1), rest - log_rest


def decoupled_kl(
    logits_student: Tensor, logits_teacher: Tensor, target: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """TCKD and NCKD of each sample (eq. 6): T^2 D_KL(b^t, b) and T^2 D_KL(p-hat^t, p-hat).

    NCKD is 0 when there are two classes, as then only one is not the target.

    Args:
        logits_student, logits_teacher: [N, K].
        target: class indices, [N].

    Returns:
        [N] and [N].
    """
    log_b, log_p = binary_and_nontarget_log_probs(logits_student, target, temperature)
    log_b_t, log_p_t = binary_and_nontarget_log_probs(logits_teacher, target, temperature)
    tckd = F.kl_div(log_b, log_b_t, reduction="none", log_target=True).sum(1)
    nckd = F.kl_div(log_p, log_p_t, reduction="none", log_target=True).sum(1)
    return temperature**2 * tckd, temperature**2 * nckd


def dkd_loss(
    logits_student: Tensor, logits_teacher: Tensor, target: Tensor, alpha: float, beta: float, temperature: float
) -> Tensor:
    """alpha TCKD + beta NCKD, averaged over the batch (eq. 7)."""
    tckd, nckd = decoupled_kl(logits_student, logits_teacher, target, temperature)
    return alpha * tckd.mean() + beta * nckd.mean()


def warmup_factor(epoch: int, warmup: int) -> float:
    """min(epoch / warmup, 1), epochs from 1: what the distillation loss of DKD, EDKD and ReviewKD is scaled by."""
    return min(epoch / warmup, 1.0) if warmup else 1.0


class DKD(Distiller):
    """Cross-entropy and `dkd_loss`, which is warmed up."""

    teacher_features = False
    graph_capturable = True
    channels_last = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.ce_loss_weight = cfg.DKD.CE_WEIGHT
        self.alpha = cfg.DKD.ALPHA
        self.beta = cfg.DKD.BETA
        self.temperature = cfg.DKD.T
        self.warmup = self.epoch_dependent_until = cfg.DKD.WARMUP

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, _ = self.student(image)
        logits_teacher, _ = self.teacher(image)
        loss = dkd_loss(logits_student, logits_teacher, target, self.alpha, self.beta, self.temperature)
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": warmup_factor(kwargs["epoch"], self.warmup) * loss,
        }
