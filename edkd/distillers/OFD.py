"""OFD: "A Comprehensive Overhaul of Feature Distillation" (Heo et al., ICCV 2019)."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import add_up
from common.models import Network
from common.models.initialization import init_convs_by_fan_out

from ._base import Distiller


def margin(bn: nn.BatchNorm2d) -> Tensor:
    """m_c = E[x | x < 0] for x ~ N(bias_c, |weight_c|), the mean of the teacher's negative responses (eq. 4).

    Where less than a thousandth of the mass is negative, -3 stds.

    Returns:
        [C], computed in float64 and rounded to float32.
    """
    std, mean = bn.weight.detach().double().abs(), bn.bias.detach().double()
    z = -mean / std
    below = torch.special.ndtr(z)
    density = (-0.5 * z**2).exp() / math.sqrt(2 * math.pi)
    expectation = mean - std * density / below.clamp(min=1e-300)
    return torch.where(below > 0.001, expectation, -3 * std).float()


def partial_l2(f_s: Tensor, f_t: Tensor, margins: Tensor) -> Tensor:
    """d_p(max(T, m), S): squared difference, without where the student is below a non-positive target (eq. 2 and 3).

    Args:
        f_s, f_t: feature maps before activation, [N, C, H, W].
        margins: m, [C].

    Returns:
        The sum over all entries, a sample.
    """
    target = torch.maximum(f_t, margins.to(f_t)[:, None, None])
    counted = (f_s > target) | (target > 0)
    return ((f_s - target).pow(2) * counted).sum() / len(f_s)


class Connectors(nn.Module):
    """Per stage a convolution and batch norm from the student's channels to the teacher's."""

    def __init__(self, channels_s: list[int], channels_t: list[int], kernel_size: int) -> None:
        super().__init__()
        self.connectors = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c_s, c_t, kernel_size, padding=(kernel_size - 1) // 2, bias=False), nn.BatchNorm2d(c_t)
            )
            for c_s, c_t in zip(channels_s, channels_t, strict=True)
        )
        init_convs_by_fan_out(self)


class OFD(Distiller):
    """Cross-entropy and `partial_l2` on the stages before activation, each stage counting half of the next.

    In the published code the teacher is in training mode, so that its features are normalized by batch statistics;
    `OFD.TEACHER_IN_TRAIN_MODE False` evaluates it.
    """

    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: Network, teacher: Network, cfg: Any) -> None:
        super().__init__(student, teacher)
        self.ce_loss_weight = cfg.OFD.LOSS.CE_WEIGHT
        self.feat_loss_weight = cfg.OFD.LOSS.FEAT_WEIGHT
        self.teacher_in_train_mode = cfg.OFD.TEACHER_IN_TRAIN_MODE
        channels_s, channels_t = student.get_stage_channels()[1:], teacher.get_stage_channels()[1:]
        norms = teacher.get_bn_before_relu()
        # counted from the deepest stage, as networks differ in how many they show
        self.stages = min(len(channels_s), len(channels_t), len(norms))
        self.connectors = Connectors(
            channels_s[-self.stages :], channels_t[-self.stages :], cfg.OFD.CONNECTOR.KERNEL_SIZE
        )
        for i, norm in enumerate(norms[-self.stages :]):
            self.register_buffer(f"margin{i + 1}", margin(norm))

    def train(self, mode: bool = True) -> OFD:
        super().train(mode)
        self.teacher.train(mode and self.teacher_in_train_mode)
        return self

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        return super().get_learnable_parameters() + list(self.connectors.parameters())

    def get_extra_parameters(self) -> int:
        return sum(p.numel() for p in self.connectors.parameters())

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        losses, last = [], self.stages - 1
        feats = (feature["preact_feats"][-self.stages :] for feature in (feature_student, feature_teacher))
        for i, (f_s, f_t) in enumerate(zip(*feats, strict=True)):
            f_s = self.connectors.connectors[i](f_s)
            losses.append(partial_l2(f_s, f_t, getattr(self, f"margin{i + 1}")) / 2 ** (last - i))
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": self.feat_loss_weight * add_up(losses),
        }
