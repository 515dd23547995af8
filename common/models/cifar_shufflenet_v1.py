"""ShuffleNet for small images (Zhang et al., 2018, https://arxiv.org/abs/1707.01083)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.models.network import Features, Network
from common.models.stage import Stage, global_pool

WIDTHS = (24, 240, 480, 960)
UNITS = (4, 8, 4)
GROUPS = 3


class Unit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1. Returns the feature map before its ReLU, the network's.

    A stride-2 unit concatenates its branch and the average-pooled input; another one adds its input.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        branch = channels if stride == 1 else channels - in_channels
        inner = branch // 4
        # The stem's few channels are not split into groups.
        self.groups = 1 if in_channels == WIDTHS[0] else GROUPS
        self.conv1 = nn.Conv2d(in_channels, inner, 1, groups=self.groups, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, branch, 1, groups=GROUPS, bias=False)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.channel_shuffle(out, self.groups)
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self.stride == 1:
            return out + x
        return torch.cat([out, F.avg_pool2d(x, 3, stride=2, padding=1)], dim=1)


class ShuffleNet(Network):
    """ShuffleNet with 3 groups: [N, 3, H, W] -> [N, num_classes]; a 1x1 stem, three stages of 4, 8, 4 units.

    Framework-default initialization, as published. Features: the stem and the three stages; `preact` is before the last
    ReLU of each stage, its stem entry activated, as published. The published network pools with a fixed 4x4 window and
    accepts 32x32 images only; this one pools globally.
    """

    feat_modules = ("conv1", "bn1", "layer1", "layer2", "layer3")

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.stage_channels = list(WIDTHS)  # mdistiller's own answer fails on a missing attribute
        self.in_planes = WIDTHS[3]
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = self._stage(WIDTHS[0], WIDTHS[1], UNITS[0])
        self.layer2 = self._stage(WIDTHS[1], WIDTHS[2], UNITS[1])
        self.layer3 = self._stage(WIDTHS[2], WIDTHS[3], UNITS[2])
        self.linear = nn.Linear(WIDTHS[3], num_classes)

    @staticmethod
    def _stage(in_channels: int, channels: int, units: int) -> Stage:
        first = Unit(in_channels, channels, stride=2)
        return Stage(first, *(Unit(channels, channels, stride=1) for _ in range(units - 1)))

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        x = F.relu(self.bn1(self.conv1(images)))
        stages, preact = [x], [x]
        for stage in (self.layer1, self.layer2, self.layer3):
            x, before_relu = stage(x)
            stages.append(x)
            preact.append(before_relu)
        pooled = global_pool(x)
        return self.linear(pooled), Features(stages, preact, pooled)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """Undefined, as published."""
        raise NotImplementedError("ShuffleV1 names no batch norm before the ReLU of its stages (OFD needs them)")
