"""EDKD: exponential dynamic knowledge distillation (github.com/wencchang/EDKD); DKD, weighed by the teacher."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError

from ._base import Distiller
from .DKD import binary_and_nontarget_log_probs, decoupled_kl, warmup_factor

FORMS = ("code", "per_sample", "config")


def dynamic_beta(logits_teacher: Tensor, target: Tensor, temperature: float) -> Tensor:
    """beta_n = 8 exp(-(1 - max(q_target, q_rest))) from the softened teacher: 8 where it is sure, 4.85 at even odds.

    Args:
        logits_teacher: [N, K].
        target: class indices, [N].

    Returns:
        [N].
    """
    log_b, _ = binary_and_nontarget_log_probs(logits_teacher, target, temperature)
    return 8.0 * (log_b.amax(dim=1).exp() - 1.0).exp()


def edkd_loss(
    logits_student: Tensor,
    logits_teacher: Tensor,
    target: Tensor,
    temperature: float,
    form: str = "code",
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Tensor:
    """TCKD + beta NCKD with a dynamic beta.

    Args:
        logits_student, logits_teacher: [N, K].
        target: class indices, [N].
        form: "code", as published: mean(TCKD) + mean(beta) mean(NCKD), in which no sample has a weight of its own;
            "per_sample", as the idea reads: mean_n(TCKD_n + beta_n NCKD_n); "config": `alpha` and `beta` as given,
            which the published code reads and then overwrites (it is DKD then).
    """
    tckd, nckd = decoupled_kl(logits_student, logits_teacher, target, temperature)
    if form == "config":
        return alpha * tckd.mean() + beta * nckd.mean()
    weight = dynamic_beta(logits_teacher, target, temperature)
    if form == "per_sample":
        return (tckd + weight * nckd).mean()
    return tckd.mean() + weight.mean() * nckd.mean()


class EDKD(Distiller):
    """Cross-entropy and `edkd_loss`, which is warmed up."""

    teacher_features = False
    graph_capturable = True
    channels_last = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.ce_loss_weight = cfg.EDKD.CE_WEIGHT
        self.temperature = cfg.EDKD.T
        self.warmup = self.epoch_dependent_until = cfg.EDKD.WARMUP
        self.form = {"form": cfg.EDKD.FORM, "alpha": cfg.EDKD.ALPHA, "beta": cfg.EDKD.BETA}
        if cfg.EDKD.FORM not in FORMS:
            raise UserError(f"EDKD.FORM is '{cfg.EDKD.FORM}': one of {', '.join(FORMS)}")

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, _ = self.student(image)
        logits_teacher, _ = self.teacher(image)
        loss = edkd_loss(logits_student, logits_teacher, target, self.temperature, **self.form)
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": warmup_factor(kwargs["epoch"], self.warmup) * loss,
        }
