"""MobileNetV2 for small images, the design of Tf-KD (after Sandler et al., 2018, https://arxiv.org/abs/1801.04381).

All convolutions are biased and the initialization is the framework's, as published. The other two designs that carry
this name, by mtkd_rl and mdistiller, are another network.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from common.models.network import Features, Network
from common.models.stage import global_pool


class LinearBottleneck(nn.Module):
    """Expand, filter by channel, project without activation: [N, C, H, W] -> [N, width, H / stride, W / stride]."""

    def __init__(self, in_channels: int, width: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = in_channels * expansion
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, inner, 1),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, padding=1, groups=inner),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, width, 1),
            nn.BatchNorm2d(width),
        )
        self.has_shortcut = stride == 1 and in_channels == width

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + x if self.has_shortcut else self.residual(x)


def _stage(in_channels: int, width: int, repeats: int, stride: int) -> nn.Sequential:
    """Bottlenecks of expansion 6; the first one changes width and size."""
    first = LinearBottleneck(in_channels, width, stride, expansion=6)
    return nn.Sequential(first, *(LinearBottleneck(width, width, 1, expansion=6) for _ in range(repeats - 1)))


class MobileNetV2(Network):
    """[N, 3, H, W] -> [N, num_classes], at any image size.

    Features: the stem, `stage2`, `stage3`, `stage4` (linear, hence the same before activation) and the last
    convolution of 1280 channels.
    """

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        # A 1x1 convolution with padding: the feature map grows by a border of the bias, 32x32 to 34x34. As published.
        self.pre = nn.Sequential(nn.Conv2d(3, 32, 1, padding=1), nn.BatchNorm2d(32))
        self.stage1 = LinearBottleneck(32, 16, stride=1, expansion=1)
        self.stage2 = _stage(16, 24, repeats=2, stride=2)
        self.stage3 = _stage(24, 32, repeats=3, stride=2)
        self.stage4 = _stage(32, 64, repeats=4, stride=2)
        self.stage5 = _stage(64, 96, repeats=3, stride=1)
        self.stage6 = _stage(96, 160, repeats=3, stride=1)
        self.stage7 = LinearBottleneck(160, 320, stride=1, expansion=6)
        self.conv1 = nn.Sequential(nn.Conv2d(320, 1280, 1), nn.BatchNorm2d(1280))
        self.conv2 = nn.Conv2d(1280, num_classes, 1)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        stem = self.pre(images)
        first = F.relu6(stem)
        stage2 = self.stage2(self.stage1(first))
        stage3 = self.stage3(stage2)
        stage4 = self.stage4(stage3)
        head = self.conv1(self.stage7(self.stage6(self.stage5(stage4))))
        last = F.relu6(head)
        pooled = global_pool(last)
        logits = self.conv2(pooled[:, :, None, None]).flatten(1)
        linear = [stage2, stage3, stage4]
        return logits, Features([first, *linear, last], [stem, *linear, head], pooled)
