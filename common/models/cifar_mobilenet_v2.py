"""MobileNetV2 for small images (Sandler et al., 2018, https://arxiv.org/abs/1801.04381).

The design of MTKD-RL and mdistiller; that of Tf-KD is another network.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from common.models.initialization import init_convs_by_fan_out
from common.models.network import Features, Network
from common.models.stage import last_norm

# (expansion, channels, blocks, stride) of each group; a stride applies to the group's first block.
GROUPS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
SHOWN_GROUPS = (1, 2, 4, 6)
LAST_CHANNEL = 1280


def conv_bn(in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size (but for its stride) and its norm."""
    conv = nn.Conv2d(in_channels, channels, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(channels)]


class InvertedResidual(nn.Module):
    """Expand, filter by depth, project linearly; identity shortcut where the shape stays."""

    def __init__(self, in_channels: int, channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.has_shortcut = stride == 1 and in_channels == channels
        self.conv = nn.Sequential(
            *conv_bn(in_channels, hidden, 1),
            nn.ReLU(),
            *conv_bn(hidden, hidden, 3, stride, groups=hidden),
            nn.ReLU(),
            *conv_bn(hidden, channels, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(Network):
    """MobileNetV2: [N, 3, H, W] -> [N, num_classes]; stride-2 stem, plain ReLU, 1280 channels before the classifier.

    Features: the stem after ReLU and the outputs of groups 1, 2, 4 and 6, which are linear bottlenecks; `preact` is the
    same list. The published networks pool with a fixed 2x2 window and accept 32x32 images only; this one pools
    globally.

    Args:
        width: multiplier of all channels but the last 1280 (1.0 in MTKD-RL, 0.5 in mdistiller).
        num_classes: width of the classifier.

    Attributes:
        remove_avg: True, set from outside, hands the last feature map flattened instead of pooled to the classifier,
            which then must be one that takes it.
    """

    feat_modules = ("conv1", "blocks")
    remove_avg = False

    def __init__(self, width: float, num_classes: int = 100) -> None:
        super().__init__()
        channels = int(32 * width)
        self.conv1 = nn.Sequential(*conv_bn(3, channels, 3, stride=2), nn.ReLU())
        self.stage_channels = [channels]
        self.blocks = nn.ModuleList()
        for group, (expansion, full_width, blocks, stride) in enumerate(GROUPS):
            in_channels, channels = channels, int(full_width * width)
            first = InvertedResidual(in_channels, channels, stride, expansion)
            others = (InvertedResidual(channels, channels, 1, expansion) for _ in range(blocks - 1))
            self.blocks.append(nn.Sequential(first, *others))
            if group in SHOWN_GROUPS:
                self.stage_channels.append(channels)
        self.last_channel = LAST_CHANNEL
        self.conv2 = nn.Sequential(*conv_bn(channels, LAST_CHANNEL, 1), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        linear = nn.Linear(LAST_CHANNEL, num_classes)
        self.classifier = nn.Sequential(linear)
        init_convs_by_fan_out(self)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        x = self.conv1(images)
        stages = [x]
        for index, group in enumerate(self.blocks):
            x = group(x)
            if index in SHOWN_GROUPS:
                stages.append(x)
        x = self.conv2(x)
        pooled = (x if self.remove_avg else self.avgpool(x)).flatten(1)
        return self.classifier(pooled), Features(stages, list(stages), pooled)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of every group shown."""
        return [last_norm(self.blocks[group]) for group in SHOWN_GROUPS]


mobilenet_v2_full = partial(MobileNetV2, 1.0)
mobilenet_v2_half = partial(MobileNetV2, 0.5)
