"""DenseNet for small images (Huang et al., 2017, https://arxiv.org/abs/1608.06993), the design of Tf-KD.

Unlike the paper's: a stem without norm, transitions without ReLU. Framework-default initialization, as published.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models.network import Features, Network
from common.models.stage import global_pool


class DenseLayer(nn.Module):
    """[N, C, H, W] -> [N, C + growth, H, W]: the input and, after it, what was made of it."""

    def __init__(self, in_channels: int, growth: int) -> None:
        super().__init__()
        self.bottle_neck = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(in_channels, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.bottle_neck(x)), dim=1)


class Transition(nn.Module):
    """[N, C, H, W] -> [N, width, H / 2, W / 2]."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.down_sample = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, width, 1, bias=False),
            nn.AvgPool2d(2),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down_sample(x)


def _dense_block(depth: int, in_channels: int, growth: int) -> nn.Sequential:
    layers = (DenseLayer(in_channels + i * growth, growth) for i in range(depth))
    return nn.Sequential(OrderedDict((f"bottle_neck_layer_{i}", layer) for i, layer in enumerate(layers)))


class DenseNet(Network):
    """Stem, dense blocks with transitions between them, classifier: [N, 3, H, W] -> [N, num_classes].

    Features: the stem, the dense blocks (concatenations without activation) and, of the last one, the feature map after
    batch norm.

    Args:
        depths: layers in each dense block.
        num_classes: width of the classifier.
        growth: channels that a layer adds.
        compression: share of the channels that a transition keeps.
    """

    def __init__(
        self, depths: tuple[int, ...], num_classes: int = 100, growth: int = 32, compression: float = 0.5
    ) -> None:
        super().__init__()
        channels = 2 * growth
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.features = nn.Sequential()
        for index, depth in enumerate(depths):
            last = index == len(depths) - 1
            # The published names are uneven: the last block goes without `_layer_`.
            name = f"dense_block{index}" if last else f"dense_block_layer_{index}"
            self.features.add_module(name, _dense_block(depth, channels, growth))
            channels += depth * growth
            if not last:
                width = int(compression * channels)
                self.features.add_module(f"transition_layer_{index}", Transition(channels, width))
                channels = width
        self.features.add_module("bn", nn.BatchNorm2d(channels))
        self.linear = nn.Linear(channels, num_classes)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        x = self.conv1(images)
        maps = [x]
        for layer in self.features:
            if isinstance(layer, Transition):
                maps.append(x)
            x = layer(x)
        last = F.relu(x)
        pooled = global_pool(last)
        return self.linear(pooled), Features([*maps, last], [*maps, x], pooled)


def densenet121(num_classes: int = 100) -> DenseNet:
    """[N, 3, H, W] -> [N, num_classes]; 6 + 12 + 24 + 16 layers, growth 32."""
    return DenseNet((6, 12, 24, 16), num_classes)
