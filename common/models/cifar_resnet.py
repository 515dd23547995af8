"""ResNet with three stages for small images (He et al., 2016, https://arxiv.org/abs/1512.03385)."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from common.models.initialization import init_convs_by_fan_out
from common.models.network import Features, Network
from common.models.stage import Stage


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    """The shortcut of a block that changes the shape: 1x1 convolution and batch norm. None where the input fits."""
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut. Returns the residual sum; the network applies the ReLU after it."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return shortcut + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))


class ResNet(Network):
    """ResNet of depth 6n + 2: [N, 3, H, W] -> [N, num_classes]; a 3x3 stem, three stages with strides 1, 2, 2.

    Features: the stem and the three stages. `preact` has the residual sums; its stem entry is activated, as published.
    The published networks pool with a fixed 8x8 window and accept 32x32 images only; this one pools globally, which is
    the same there and works at any size.

    Args:
        depth: 6n + 2.
        widths: channels of the stem and of the three stages.
        num_classes: width of the classifier.
    """

    feat_modules = ("conv1", "bn1", "relu", "layer1", "layer2", "layer3")

    def __init__(self, depth: int, widths: tuple[int, ...] = (16, 16, 32, 64), num_classes: int = 100) -> None:
        super().__init__()
        if depth < 8 or depth % 6 != 2:
            raise ValueError(f"depth must be 6n + 2, got {depth}")
        self.stage_channels = list(widths)
        self.inplanes = widths[3]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        blocks = (depth - 2) // 6
        self.layer1 = self._stage(widths[0], widths[1], blocks, stride=1)
        self.layer2 = self._stage(widths[1], widths[2], blocks, stride=2)
        self.layer3 = self._stage(widths[2], widths[3], blocks, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[3], num_classes)
        init_convs_by_fan_out(self)

    @staticmethod
    def _stage(in_channels: int, channels: int, blocks: int, stride: int) -> Stage[BasicBlock]:
        first = BasicBlock(in_channels, channels, stride)
        return Stage(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1)))

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        x = self.relu(self.bn1(self.conv1(images)))
        stages, preact = [x], [x]
        for stage in (self.layer1, self.layer2, self.layer3):
            x, residual_sum = stage(x)
            stages.append(x)
            preact.append(residual_sum)
        pooled = self.avgpool(x).flatten(1)
        return self.fc(pooled), Features(stages, preact, pooled)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of every stage."""
        return [stage[-1].bn2 for stage in (self.layer1, self.layer2, self.layer3)]


X2 = (16, 32, 64, 128)
X4 = (32, 64, 128, 256)

resnet8 = partial(ResNet, 8)
resnet14 = partial(ResNet, 14)
resnet20 = partial(ResNet, 20)
resnet32 = partial(ResNet, 32)
resnet44 = partial(ResNet, 44)
resnet56 = partial(ResNet, 56)
resnet110 = partial(ResNet, 110)
resnet110x2 = partial(ResNet, 110, X2)
resnet8x4 = partial(ResNet, 8, X4)
resnet20x4 = partial(ResNet, 20, X4)
resnet32x4 = partial(ResNet, 32, X4)
resnet8x4_double = partial(ResNet, 8, (64, 128, 256, 512))
