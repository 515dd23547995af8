"""RegNet for small images (Radosavovic et al., 2020, https://arxiv.org/abs/2003.13678), as MTKD-RL has it."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from common.models.cifar_resnet import projection
from common.models.network import Features, Network
from common.models.stage import Stage, global_pool

STEM_WIDTH = 64
STRIDES = (1, 1, 2, 2)


class SqueezeExcitation(nn.Module):
    """A gate in (0, 1) for each channel, from the channel means: [N, C, H, W] -> the same shape."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.se1 = nn.Conv2d(channels, inner, 1)
        self.se2 = nn.Conv2d(inner, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.se2(F.relu(self.se1(F.adaptive_avg_pool2d(x, 1)))).sigmoid()


class Block(nn.Module):
    """1x1, grouped 3x3, 1x1, all of one width. Returns the residual sum; the ReLU after it is applied by the stage."""

    def __init__(self, in_channels: int, channels: int, stride: int, group_width: int, gated: bool) -> None:
        super().__init__()
        groups = channels // group_width
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.se = SqueezeExcitation(channels, in_channels // 4) if gated else None
        self.conv3 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        if self.se is not None:
            out = self.se(out)
        out = self.bn3(self.conv3(out))
        return out + (x if self.shortcut is None else self.shortcut(x))


class RegNet(Network):
    """RegNet: [N, 3, H, W] -> [N, num_classes]; a 3x3 stem of 64 channels, four stages with strides 1, 1, 2, 2.

    Framework-default initialization, as published. Features: the stem and stages 2, 3 and 4. `preact` runs one stage
    behind, as published: the (activated) stem and the residual sums of stages 1, 2 and 3.

    Args:
        depths, widths: blocks and channels of each stage.
        group_width: channels in a group of the 3x3 convolutions.
        gated: squeeze and excitation in every block (RegNetY).
        num_classes: width of the classifier.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        group_width: int,
        gated: bool = False,
        num_classes: int = 100,
    ) -> None:
        super().__init__()
        self.stage_channels = [STEM_WIDTH, *widths[1:]]
        self.conv1 = nn.Conv2d(3, STEM_WIDTH, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_WIDTH)
        stages = []
        in_channels = STEM_WIDTH
        for depth, width, stride in zip(depths, widths, STRIDES, strict=True):
            first = Block(in_channels, width, stride, group_width, gated)
            stages.append(Stage(first, *(Block(width, width, 1, group_width, gated) for _ in range(depth - 1))))
            in_channels = width
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.linear = nn.Linear(in_channels, num_classes)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        stem = F.relu(self.bn1(self.conv1(images)))
        stage1, sum1 = self.layer1(stem)
        stage2, sum2 = self.layer2(stage1)
        stage3, sum3 = self.layer3(stage2)
        stage4, _ = self.layer4(stage3)
        pooled = global_pool(stage4)
        return self.linear(pooled), Features([stem, stage2, stage3, stage4], [stem, sum1, sum2, sum3], pooled)


WIDTHS_200MF = (24, 56, 152, 368)
WIDTHS_400MF = (32, 64, 160, 384)

RegNetX_200MF = partial(RegNet, (1, 1, 4, 7), WIDTHS_200MF, 8)
RegNetX_400MF = partial(RegNet, (1, 2, 7, 12), WIDTHS_400MF, 16)
RegNetY_400MF = partial(RegNet, (1, 2, 7, 12), WIDTHS_400MF, 16, gated=True)
