"""ShuffleNetV2 for small images (Ma et al., 2018, https://arxiv.org/abs/1807.11164).

mdistiller and MTKD-RL compute the same logits and show different feature maps as the last stage. Another network than
Tf-KD's `shufflenet_v2`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.models.network import Features, Network
from common.models.stage import global_pool

UNITS = (4, 8, 4)


class DownUnit(nn.Module):
    """Two branches over all channels, concatenated: half the size, other width. No ReLU at its end, no shuffle."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, stride=2, padding=1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn1(self.conv1(x))
        left = self.bn2(self.conv2(left))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = self.bn5(self.conv5(right))
        return torch.cat([left, right], dim=1)


class BasicUnit(nn.Module):
    """Transforms the second half of the channels and passes the first; no ReLU at its end, no shuffle."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        passed, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)))
        out = self.bn2(self.conv2(out))
        return torch.cat([passed, self.bn3(self.conv3(out))], dim=1)


class ShuffleStage(nn.Sequential):
    """Units, a ReLU and a shuffle of two groups after each; returns the last feature map, and it before these two.

    The half that a unit passes on is activated already, so one ReLU over all channels is that of the other half.
    """

    def __init__(self, in_channels: int, channels: int, units: int) -> None:
        super().__init__(DownUnit(in_channels, channels), *(BasicUnit(channels) for _ in range(units - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for unit in self:
            preact = unit(x)
            x = F.channel_shuffle(F.relu(preact), 2)
        return x, preact


class ShuffleNetV2(Network):
    """ShuffleNetV2: [N, 3, H, W] -> [N, num_classes]; a 1x1 stem, stages of 4, 8, 4 units, a 1x1 to 1024 channels.

    Framework-default initialization, as published. Features: the stem and the three stages after the shuffle; `preact`
    before shuffle and ReLU, its stem entry activated, as published. The published network pools with a fixed 4x4 window
    and so fails at 64x64, where mdistiller registers it for Tiny-ImageNet; this one pools globally, which is the same
    at 32x32 and works there.

    Args:
        widths: channels of the stem and of the three stages.
        last_stage_is_embedding: show the 1024-channel feature map for the third stage (not so in `preact`), as
            MTKD-RL does.
        num_classes: width of the classifier.
    """

    feat_modules = ("conv1", "bn1", "layer1", "layer2", "layer3")

    def __init__(
        self,
        widths: tuple[int, ...] = (24, 116, 232, 464),
        last_stage_is_embedding: bool = False,
        num_classes: int = 100,
    ) -> None:
        super().__init__()
        self.last_stage_is_embedding = last_stage_is_embedding
        self.stage_channels = [*widths[:3], 1024 if last_stage_is_embedding else widths[3]]
        self.in_channels = widths[3]
        self.conv1 = nn.Conv2d(3, widths[0], 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = ShuffleStage(widths[0], widths[1], UNITS[0])
        self.layer2 = ShuffleStage(widths[1], widths[2], UNITS[1])
        self.layer3 = ShuffleStage(widths[2], widths[3], UNITS[2])
        self.conv2 = nn.Conv2d(widths[3], 1024, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        x = F.relu(self.bn1(self.conv1(images)))
        stages, preact = [x], [x]
        for stage in (self.layer1, self.layer2, self.layer3):
            x, before_relu = stage(x)
            stages.append(x)
            preact.append(before_relu)
        embedding = F.relu(self.bn2(self.conv2(x)))
        if self.last_stage_is_embedding:
            stages[-1] = embedding
        pooled = global_pool(embedding)
        return self.linear(pooled), Features(stages, preact, pooled)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """Undefined, as published."""
        raise NotImplementedError("ShuffleV2 names no batch norm before the ReLU of its stages (OFD needs them)")


mdistiller_shuffle_v2 = ShuffleNetV2
mtkd_rl_shuffle_v2 = partial(ShuffleNetV2, last_stage_is_embedding=True)
mtkd_rl_shuffle_v2_half = partial(ShuffleNetV2, (24, 48, 96, 192), last_stage_is_embedding=True)
