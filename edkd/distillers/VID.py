"""VID: "Variational Information Distillation for Knowledge Transfer" (Ahn et al., CVPR 2019)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import Distiller
from ._common import get_feat_shapes, match_size


def initial_log_scale(init_pred_var: float, eps: float) -> float:
    """The log-scale at which `variance` is `init_pred_var`."""
    return math.log(math.exp(init_pred_var - eps) - 1.0)


def variance(log_scale: Tensor, eps: float) -> Tensor:
    """sigma_c^2 = log(1 + exp(alpha_c)) + eps (eq. 6); [C]."""
    return F.softplus(log_scale) + eps


def vid_loss(regressor: nn.Module, log_scale: Tensor, f_s: Tensor, f_t: Tensor, eps: float = 1e-5) -> Tensor:
    """-log q(t | s) up to a constant: mean of ((t - mu(s))^2 / sigma^2 + log sigma^2) / 2 (eq. 5).

    Args:
        regressor: mu, from the student's channels to the teacher's.
        log_scale: alpha, one entry per teacher channel.
        f_s, f_t: feature maps [N, C, H, W], the larger is pooled to the size of the smaller.
        eps: least variance.
    """
    f_s, f_t = match_size(f_s, f_t)
    sigma2 = variance(log_scale, eps)[None, :, None, None]
    return 0.5 * ((f_t - regressor(f_s)).pow(2) / sigma2 + sigma2.log()).mean()


def make_regressor(channels_s: int, channels_t: int) -> nn.Sequential:
    """Three 1x1 convolutions without bias, ReLU between them."""
    return nn.Sequential(
        nn.Conv2d(channels_s, channels_t, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels_t, channels_t, 1, bias=False),
        nn.ReLU(),
        nn.Conv2d(channels_t, channels_t, 1, bias=False),
    )


class VID(Distiller):
    """Cross-entropy and the sum of `vid_loss` over all stages but the stem.

    The published code keeps its log-scales where no optimizer finds them; `VID.LEARN_SCALES` trains them.
    """

    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.ce_loss_weight = cfg.VID.LOSS.CE_WEIGHT
        self.feat_loss_weight = cfg.VID.LOSS.FEAT_WEIGHT
        self.eps = cfg.VID.EPS
        self.learn_scales = cfg.VID.LEARN_SCALES
        shapes = get_feat_shapes(student, teacher, cfg.VID.INPUT_SIZE, cfg.VID.PROBE_IN_TRAIN_MODE)
        channels = [(s[1], t[1]) for s, t in zip(shapes[0][1:], shapes[1][1:], strict=False)]
        self.regressors = nn.ModuleList(make_regressor(c_s, c_t) for c_s, c_t in channels)
        start = initial_log_scale(cfg.VID.INIT_PRED_VAR, cfg.VID.EPS)
        self.log_scales = nn.ParameterList(torch.full((c_t,), start) for _, c_t in channels)
        self.log_scales.requires_grad_(self.learn_scales)

    def _own_parameters(self) -> list[nn.Parameter]:
        return [*self.regressors.parameters(), *(self.log_scales if self.learn_scales else [])]

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        return super().get_learnable_parameters() + self._own_parameters()

    def get_extra_parameters(self) -> int:
        return sum(p.numel() for p in self._own_parameters())

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        stages = zip(
            self.regressors, self.log_scales, feature_student["feats"][1:], feature_teacher["feats"][1:], strict=False
        )
        loss = sum(vid_loss(*stage, self.eps) for stage in stages)
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.feat_loss_weight * loss,
        }
