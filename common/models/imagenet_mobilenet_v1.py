"""MobileNet for ImageNet (Howard et al., 2017, https://arxiv.org/abs/1704.04861), as mdistiller has it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from common.models.network import Features, Network
from common.models.stage import last_norm

STEM_WIDTH = 32
# (channels, stride) of the 13 depthwise-separable units, which are counted from 1: the stem is unit 0.
UNITS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
SHOWN_UNITS = (3, 5, 11, 13)


def separable(in_channels: int, channels: int, stride: int) -> nn.Sequential:
    """Depthwise 3x3, then 1x1; the last ReLU is left to the network."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


class MobileNetV1(Network):
    """MobileNet of width 1: [N, 3, 224, 224] -> [N, num_classes]. Framework-default initialization, as published.

    Features: units 3, 5, 11 and 13, the last of each size, before and after their last ReLU; no stem. The published
    network has 1000 classes whatever it is asked for, and pools with a fixed 7x7 window; this one honors `num_classes`
    and pools globally.
    """

    feat_modules = ("model",)

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self.stage_channels = [UNITS[unit - 1][0] for unit in SHOWN_UNITS]
        stem = nn.Sequential(
            nn.Conv2d(3, STEM_WIDTH, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(STEM_WIDTH),
        )
        widths = [STEM_WIDTH, *(channels for channels, _ in UNITS)]
        units = [separable(widths[i], channels, stride) for i, (channels, stride) in enumerate(UNITS)]
        self.model = nn.Sequential(stem, *units)
        self.avg = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(widths[-1], num_classes)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        x, stages, preact = images, [], []
        for index, unit in enumerate(self.model):
            before_relu = unit(x)
            x = F.relu(before_relu)
            if index in SHOWN_UNITS:
                stages.append(x)
                preact.append(before_relu)
        pooled = self.avg(x).flatten(1)
        return self.fc(pooled), Features(stages, preact, pooled)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of every unit shown."""
        return [last_norm(self.model[unit]) for unit in SHOWN_UNITS]
