"""ResNet for ImageNet (He et al., 2016, https://arxiv.org/abs/1512.03385): torchvision's layout and logits."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from common.models.cifar_resnet import BasicBlock, projection
from common.models.initialization import init_convs_by_fan_out
from common.models.network import Features, Network
from common.models.stage import Stage

WIDTHS = (64, 128, 256, 512)


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width. Returns the residual sum; the stage applies its ReLU."""

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = projection(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        return shortcut + self.bn3(self.conv3(out))


class ResNet(Network):
    """ResNet with a 7x7 stem, max pooling and four stages: [N, 3, 224, 224] -> [N, num_classes].

    Features: the stem before max pooling and the four stages; `preact` holds the residual sums, its stem entry is
    activated, as published. The published networks pool with a fixed 7x7 window; this one pools globally.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: blocks in each stage.
        num_classes: width of the classifier.
    """

    feat_modules = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, block: type[BasicBlock | Bottleneck], depths: tuple[int, ...], num_classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        expansion = 4 if block is Bottleneck else 1
        stages = []
        in_channels = 64
        for index, (depth, width) in enumerate(zip(depths, WIDTHS, strict=True)):
            first = block(in_channels, width, stride=1 if index == 0 else 2)
            in_channels = width * expansion
            stages.append(Stage(first, *(block(in_channels, width) for _ in range(depth - 1))))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        # mdistiller's answer for every depth: the widths of bottleneck stages, without the stem
        self.stage_channels = [4 * width for width in WIDTHS]
        self.inplanes = in_channels
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_channels, num_classes)
        init_convs_by_fan_out(self)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        stem = self.relu(self.bn1(self.conv1(images)))
        stages, preact = [stem], [stem]
        x = self.maxpool(stem)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x, residual_sum = stage(x)
            stages.append(x)
            preact.append(residual_sum)
        pooled = self.avgpool(x).flatten(1)
        return self.fc(pooled), Features(stages, preact, pooled)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of every stage."""
        last_blocks = [stage[-1] for stage in (self.layer1, self.layer2, self.layer3, self.layer4)]
        return [block.bn3 if isinstance(block, Bottleneck) else block.bn2 for block in last_blocks]


ResNet18 = partial(ResNet, BasicBlock, (2, 2, 2, 2))
ResNet34 = partial(ResNet, BasicBlock, (3, 4, 6, 3))
ResNet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3))
ResNet101 = partial(ResNet, Bottleneck, (3, 4, 23, 3))
