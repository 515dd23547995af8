"""ResNeXt for small images (Xie et al., 2017, https://arxiv.org/abs/1611.05431), `resnext29` of Tf-KD."""

from __future__ import annotations

from collections import OrderedDict

import torch.nn.functional as F
from torch import Tensor, nn

from common.models.network import Features, Network
from common.models.stage import Stage, global_pool


class ResNeXtBottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1: [N, C, H, W] -> the residual sum before its ReLU, [N, width, H / stride, W / stride].

    Args:
        in_channels: C; a projection joins the shortcut only where it differs from `width`.
        width: output channels.
        inner: channels of the grouped convolution.
        stride: of the grouped convolution.
        cardinality: number of groups.
    """

    def __init__(self, in_channels: int, width: int, inner: int, stride: int, cardinality: int) -> None:
        super().__init__()
        self.conv_reduce = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.bn_reduce = nn.BatchNorm2d(inner)
        self.conv_conv = nn.Conv2d(inner, inner, 3, stride, padding=1, groups=cardinality, bias=False)
        self.bn = nn.BatchNorm2d(inner)
        self.conv_expand = nn.Conv2d(inner, width, 1, bias=False)
        self.bn_expand = nn.BatchNorm2d(width)
        self.shortcut = nn.Sequential()
        if in_channels != width:
            self.shortcut.add_module("shortcut_conv", nn.Conv2d(in_channels, width, 1, stride, bias=False))
            self.shortcut.add_module("shortcut_bn", nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn_reduce(self.conv_reduce(x)))
        out = F.relu(self.bn(self.conv_conv(out)))
        return self.bn_expand(self.conv_expand(out)) + self.shortcut(x)


class ResNeXt(Network):
    """Stem and three stages of widths 256, 512, 1024, strides 1, 2, 2: [N, 3, H, W] -> [N, num_classes].

    Features: the stem and the three stages; before activation the stem's batch norm and the residual sums.

    Args:
        depth: convolutions along the network, 9 for each block of every stage and 2 besides.
        num_classes: width of the classifier.
        cardinality: groups of the 3x3 convolutions.
        base_width: channels of a group in the first stage.
    """

    def __init__(self, depth: int, num_classes: int = 100, cardinality: int = 8, base_width: int = 64) -> None:
        super().__init__()
        self.conv_1_3x3 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn_1 = nn.BatchNorm2d(64)
        inner = cardinality * base_width
        self.stage_1 = _stage("stage_1", depth, 64, 256, inner, 1, cardinality)
        self.stage_2 = _stage("stage_2", depth, 256, 512, 2 * inner, 2, cardinality)
        self.stage_3 = _stage("stage_3", depth, 512, 1024, 4 * inner, 2, cardinality)
        self.classifier = nn.Linear(1024, num_classes)
        self.apply(_initialize)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        preact = self.bn_1(self.conv_1_3x3(images))
        x = F.relu(preact)
        stages, preacts = [x], [preact]
        for stage in (self.stage_1, self.stage_2, self.stage_3):
            x, preact = stage(x)
            stages.append(x)
            preacts.append(preact)
        pooled = global_pool(x)
        return self.classifier(pooled), Features(stages, preacts, pooled)


def _stage(name: str, depth: int, in_channels: int, width: int, inner: int, stride: int, cardinality: int) -> Stage:
    blocks = [ResNeXtBottleneck(in_channels, width, inner, stride, cardinality)]
    blocks += [ResNeXtBottleneck(width, width, inner, 1, cardinality) for _ in range((depth - 2) // 9 - 1)]
    return Stage(OrderedDict((f"{name}_bottleneck_{i}", block) for i, block in enumerate(blocks)))


def _initialize(module: nn.Module) -> None:
    """The published initialization; batch norm starts at weight 1, bias 0, which is the framework's default too."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(module.bias)


def resnext29(num_classes: int = 100) -> ResNeXt:
    """[N, 3, H, W] -> [N, num_classes]; three blocks a stage, 8 groups of 64 channels in the first."""
    return ResNeXt(29, num_classes)
