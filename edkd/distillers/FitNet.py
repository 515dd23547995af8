"""FitNet: "FitNets: Hints for Thin Deep Nets" (Romero et al., ICLR 2015), trained in one stage."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError

from ._base import Distiller
from ._common import ConvReg, get_feat_shapes


def hint_loss(regressed: Tensor, f_t: Tensor) -> Tensor:
    """Mean squared difference between the student's regressed feature map and the hint, both [N, C, H, W] (eq. 3)."""
    return F.mse_loss(regressed, f_t)


class FitNet(Distiller):
    """Cross-entropy and `hint_loss` on one stage, with a regressor that is trained along."""

    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.ce_loss_weight = cfg.FITNET.LOSS.CE_WEIGHT
        self.feat_loss_weight = cfg.FITNET.LOSS.FEAT_WEIGHT
        self.hint_layer = cfg.FITNET.HINT_LAYER
        shapes_s, shapes_t = get_feat_shapes(student, teacher, cfg.FITNET.INPUT_SIZE, cfg.FITNET.PROBE_IN_TRAIN_MODE)
        stages = min(len(shapes_s), len(shapes_t))
        if not -stages <= self.hint_layer < stages:
            raise UserError(f"FITNET.HINT_LAYER is {self.hint_layer}, but both networks have stages 0 to {stages - 1}")
        self.conv_reg = ConvReg(shapes_s[self.hint_layer], shapes_t[self.hint_layer])

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        return super().get_learnable_parameters() + list(self.conv_reg.parameters())

    def get_extra_parameters(self) -> int:
        return sum(p.numel() for p in self.conv_reg.parameters())

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        regressed = self.conv_reg(feature_student["feats"][self.hint_layer])
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.feat_loss_weight * hint_loss(regressed, feature_teacher["feats"][self.hint_layer]),
        }
