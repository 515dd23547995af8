"""ResNet for small images: 3x3 stem without pooling, four stages (He et al., 2016, https://arxiv.org/abs/1512.03385).

One network in two papers: `resnet18` ... `resnet152` of Tf-KD, `ResNet18` and `ResNet50` of mdistiller.
Framework-default initialization, as published. The published fixed pooling equals the global one here, which takes any
image size.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from common.models.network import Features, Network
from common.models.stage import Stage


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """A projection where the shape changes, else empty, which is the identity."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: [N, C, H, W] -> the residual sum before its ReLU, [N, width, H / stride, W / stride]."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(out)) + self.shortcut(x)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1: [N, C, H, W] -> the residual sum before its ReLU, [N, 4 * width, H / stride, W / stride]."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return self.bn3(self.conv3(out)) + self.shortcut(x)


def _stage(
    block: type[BasicBlock | Bottleneck], in_channels: int, width: int, depth: int, stride: int
) -> Stage[BasicBlock | Bottleneck]:
    """`depth` blocks; the first one changes width and size."""
    later = [block(width * block.expansion, width, stride=1) for _ in range(depth - 1)]
    return Stage(block(in_channels, width, stride), *later)


class ResNet(Network):
    """Stem and four stages of widths 64 to 512 (times the block's expansion), strides 1, 2, 2, 2.

    Features: the stem and the four stages; before activation the stem's batch norm and the residual sums.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks in each of the four stages.
        num_classes: K of the logits [N, K].
    """

    def __init__(
        self, block: type[BasicBlock | Bottleneck], depths: tuple[int, int, int, int], num_classes: int = 100
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(block, 64, 64, depths[0], stride=1)
        self.layer2 = _stage(block, 64 * block.expansion, 128, depths[1], stride=2)
        self.layer3 = _stage(block, 128 * block.expansion, 256, depths[2], stride=2)
        self.layer4 = _stage(block, 256 * block.expansion, 512, depths[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(512 * block.expansion, num_classes)

    def pool(self, x: Tensor) -> Tensor:
        """The embedding from the last feature map."""
        return self.avgpool(x).flatten(1)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        preact = self.bn1(self.conv1(images))
        x = F.relu(preact)
        stages, preacts = [x], [preact]
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x, preact = layer(x)
            stages.append(x)
            preacts.append(preact)
        pooled = self.pool(x)
        return self.linear(pooled), Features(stages, preacts, pooled)


def resnet18(num_classes: int = 100) -> ResNet:
    """[N, 3, H, W] -> [N, num_classes]; 2 + 2 + 2 + 2 basic blocks."""
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes)


def resnet50(num_classes: int = 100) -> ResNet:
    """[N, 3, H, W] -> [N, num_classes]; 3 + 4 + 6 + 3 bottlenecks."""
    return ResNet(Bottleneck, (3, 4, 6, 3), num_classes)


def resnet101(num_classes: int = 100) -> ResNet:
    """[N, 3, H, W] -> [N, num_classes]; 3 + 4 + 23 + 3 bottlenecks."""
    return ResNet(Bottleneck, (3, 4, 23, 3), num_classes)


def resnet152(num_classes: int = 100) -> ResNet:
    """[N, 3, H, W] -> [N, num_classes]; 3 + 8 + 36 + 3 bottlenecks."""
    return ResNet(Bottleneck, (3, 8, 36, 3), num_classes)
