"""ReviewKD: "Distilling Knowledge via Knowledge Review" (Chen et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import add_up

from ._base import Distiller
from .DKD import warmup_factor

MAX_MID_CHANNEL = 512  # a literal of the published code
PYRAMID = (4, 2, 1)


def hcl_loss(feats_student: Sequence[Tensor], feats_teacher: Sequence[Tensor]) -> Tensor:
    """Hierarchical context loss: per stage the mean squared differences of the feature maps and of their 4, 2 and 1
    pyramid levels, weighted 1, 1/2, 1/4, 1/8 and divided by the weights used; levels not smaller than the feature map
    are left out.

    Args:
        feats_student, feats_teacher: feature maps [N, C, H, W] of pairwise equal shapes.
    """
    losses = []
    for f_s, f_t in zip(feats_student, feats_teacher, strict=True):
        loss, weights, weight = F.mse_loss(f_s, f_t), 1.0, 1.0
        for level in PYRAMID:
            if level < f_s.shape[2]:
                weight /= 2.0
                pooled_s, pooled_t = (F.adaptive_avg_pool2d(f, level) for f in (f_s, f_t))
                loss, weights = loss + weight * F.mse_loss(pooled_s, pooled_t), weights + weight
        losses.append(loss / weights)
    return add_up(losses)


class ABF(nn.Module):
    """Attention-based fusion of a stage with what the deeper stages gave (fig. 4a).

    Args:
        in_channel, mid_channel, out_channel: widths of the stage, inside, and of the teacher's stage.
        fuse: whether there is a deeper stage.
    """

    def __init__(self, in_channel: int, mid_channel: int, out_channel: int, fuse: bool) -> None:
        super().__init__()
        narrow = nn.Conv2d(in_channel, mid_channel, 1, bias=False)
        widen = nn.Conv2d(mid_channel, out_channel, 3, padding=1, bias=False)
        self.conv1 = nn.Sequential(narrow, nn.BatchNorm2d(mid_channel))
        self.conv2 = nn.Sequential(widen, nn.BatchNorm2d(out_channel))
        self.att_conv = nn.Sequential(nn.Conv2d(2 * mid_channel, 2, 1), nn.Sigmoid()) if fuse else None
        for conv in (narrow, widen):
            nn.init.kaiming_uniform_(conv.weight, a=1)

    def forward(self, x: Tensor, deeper: Tensor | None, shape: int, out_shape: int) -> tuple[Tensor, Tensor]:
        """Fuse.

        Args:
            x: the stage's feature map, [N, in_channel, H, W].
            deeper: second result of the next deeper stage; None for the deepest.
            shape: side of this stage's feature maps, to which `deeper` is resized.
            out_shape: side of the teacher's feature maps.

        Returns:
            The feature map to compare with the teacher's, [N, out_channel, out_shape, out_shape], and what the next
            shallower stage fuses, [N, mid_channel, out_shape, out_shape].
        """
        x = self.conv1(x)
        if self.att_conv is not None and deeper is not None:
            deeper = F.interpolate(deeper, (shape, shape), mode="nearest")
            weights = self.att_conv(torch.cat([x, deeper], dim=1))
            x = x * weights[:, 0:1] + deeper * weights[:, 1:2]
        if x.shape[-1] != out_shape:
            x = F.interpolate(x, (out_shape, out_shape), mode="nearest")
        return self.conv2(x), x


class ReviewKD(Distiller):
    """Cross-entropy and `hcl_loss`, which is warmed up; the pooled features are the deepest stage."""

    graph_capturable = True
    channels_last = True

    def __init__(self, student: nn.Module, teacher: nn.Module, cfg: Any) -> None:
        super().__init__(student, teacher)
        section = cfg.REVIEWKD
        self.ce_loss_weight = section.CE_WEIGHT
        self.reviewkd_loss_weight = section.REVIEWKD_WEIGHT
        self.warmup_epochs = self.epoch_dependent_until = section.WARMUP_EPOCHS
        self.stu_preact = section.STU_PREACT
        self.shapes, self.out_shapes = section.SHAPES, section.OUT_SHAPES
        widest = section.MAX_MID_CHANNEL if section.LIMIT_MID_CHANNEL else MAX_MID_CHANNEL
        mid_channel = min(widest, section.IN_CHANNELS[-1])
        channels = list(zip(section.IN_CHANNELS, section.OUT_CHANNELS, strict=True))
        self.abfs = nn.ModuleList(
            ABF(c_in, mid_channel, c_out, fuse=depth > 0) for depth, (c_in, c_out) in enumerate(reversed(channels))
        )

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        return super().get_learnable_parameters() + list(self.abfs.parameters())

    def get_extra_parameters(self) -> int:
        return sum(p.numel() for p in self.abfs.parameters())

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, feature_student = self.student(image)
        _, feature_teacher = self.teacher(image)
        maps_s = self._maps(feature_student, "preact_feats" if self.stu_preact else "feats")
        maps_t = self._maps(feature_teacher, "preact_feats")
        fused, deeper = [], None
        for abf, x, shape, out_shape in zip(self.abfs, maps_s, self.shapes, self.out_shapes, strict=True):
            out, deeper = abf(x, deeper, shape, out_shape)
            fused.append(out)
        weight = warmup_factor(kwargs["epoch"], self.warmup_epochs) * self.reviewkd_loss_weight
        return logits_student, {
            "loss_ce": self.ce_loss_weight * F.cross_entropy(logits_student, target),
            "loss_kd": weight * hcl_loss(fused, maps_t),
        }

    def _maps(self, feature: dict[str, Any], key: str) -> list[Tensor]:
        """The pooled features as a feature map of one position, then the deepest stages from deep to shallow."""
        stages = len(self.abfs) - 1
        return [feature["pooled_feat"].flatten(1)[:, :, None, None], *reversed(feature[key][-stages:])]
