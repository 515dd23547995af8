"""ShuffleNetV2 for small images, the design of Tf-KD (after Ma et al., 2018, https://arxiv.org/abs/1807.11164).

All convolutions are biased and the initialization is the framework's, as published. `ShuffleV2` of the other papers
is another network.
"""

from __future__ import annotations

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.network import Features, Network
from common.models.stage import Stage, global_pool


@torch.fx.wrap
def _interleave(a: Tensor, b: Tensor) -> Tensor:
    """Concatenation and 2-group channel shuffle in one copy, channels a0, b0, a1, ...; keeps the layout of `b`."""
    if b.is_contiguous(memory_format=torch.channels_last):
        return torch.stack((a.movedim(1, -1), b.movedim(1, -1)), dim=-1).flatten(-2).movedim(-1, 1)
    return torch.stack((a, b), dim=2).flatten(1, 2)


class ShuffleUnit(nn.Module):
    """Two branches, concatenated and shuffled: [N, C, H, W] -> [N, width, H / stride, W / stride], before its ReLU.

    At stride 2 both branches read the whole input; at stride 1 the first half of the channels passes through. That
    half went through a ReLU before, so one ReLU over the whole output is that of the residual branch alone.
    """

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        half = width // 2
        self.downsample = stride > 1
        inner = in_channels if self.downsample else half
        self.residual = nn.Sequential(
            nn.Conv2d(inner, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner),
            nn.BatchNorm2d(inner),
            nn.Conv2d(inner, half, 1),
            nn.BatchNorm2d(half),
        )
        self.shortcut = nn.Sequential()
        if self.downsample:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels),
                nn.BatchNorm2d(in_channels),
                nn.Conv2d(in_channels, half, 1),
                nn.BatchNorm2d(half),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut, residual = (x, x) if self.downsample else x.chunk(2, dim=1)
        return _interleave(self.shortcut(shortcut), self.residual(residual))


def _stage(in_channels: int, width: int, repeats: int) -> Stage:
    """One unit that halves the feature map, then units that keep it."""
    later = [ShuffleUnit(width, width, stride=1) for _ in range(repeats - 1)]
    return Stage(ShuffleUnit(in_channels, width, stride=2), *later)


class ShuffleNetV2(Network):
    """[N, 3, H, W] -> [N, num_classes], at any image size; the published width 1.0.

    Features: the stem (no activation, as published), the three stages and the last convolution of 1024 channels.
    """

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.pre = nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), nn.BatchNorm2d(24))
        self.stage2 = _stage(24, 116, repeats=4)
        self.stage3 = _stage(116, 232, repeats=8)
        self.stage4 = _stage(232, 464, repeats=4)
        self.conv5 = nn.Sequential(nn.Conv2d(464, 1024, 1), nn.BatchNorm2d(1024))
        self.fc = nn.Linear(1024, num_classes)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        stem = self.pre(images)
        stage2, preact2 = self.stage2(stem)
        stage3, preact3 = self.stage3(stage2)
        stage4, preact4 = self.stage4(stage3)
        head = self.conv5(stage4)
        last = F.relu(head)
        pooled = global_pool(last)
        stages, preacts = [stem, stage2, stage3, stage4, last], [stem, preact2, preact3, preact4, head]
        return self.fc(pooled), Features(stages, preacts, pooled)
