"""VGG with batch norm for small images (Simonyan and Zisserman, 2015, https://arxiv.org/abs/1409.1556)."""

from __future__ import annotations

from functools import partial

import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from common.models.initialization import init_convs_by_fan_out
from common.models.network import Features, Network
from common.models.stage import last_norm

WIDTHS = (64, 128, 256, 512, 512)


@torch.fx.wrap  # a leaf to torch.fx, which cannot follow the branch
def pool_before_last_block(x: Tensor, image_height: int) -> Tensor:
    """2x2 max pooling for images of height 64 exactly, as published, so that the last block works at 4x4 there too."""
    return F.max_pool2d(x, 2) if image_height == 64 else x


class VGG(Network):
    """VGG: [N, 3, H, W] -> [N, num_classes]; five blocks of 3x3 convolutions, global pooling, one linear layer.

    Features: the blocks' outputs before pooling. `preact` is before their last ReLU, but for the first block, where it
    is the activated feature map, as mdistiller has it (MTKD-RL shows no separate pre-activations of VGG).

    Args:
        convs: convolutions of each block.
        num_classes: width of the classifier.
    """

    feat_modules = tuple(f"{kind}{i}" for i in range(len(WIDTHS)) for kind in ("block", "pool"))

    def __init__(self, convs: tuple[int, ...], num_classes: int = 100) -> None:
        super().__init__()
        self.stage_channels = list(WIDTHS)
        self.block0 = self._block(3, WIDTHS[0], convs[0])
        self.block1 = self._block(WIDTHS[0], WIDTHS[1], convs[1])
        self.block2 = self._block(WIDTHS[1], WIDTHS[2], convs[2])
        self.block3 = self._block(WIDTHS[2], WIDTHS[3], convs[3])
        self.block4 = self._block(WIDTHS[3], WIDTHS[4], convs[4])
        self.pool0, self.pool1, self.pool2, self.pool3 = (nn.MaxPool2d(2) for _ in range(4))
        self.pool4 = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(WIDTHS[4], num_classes)
        init_convs_by_fan_out(self)
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    @staticmethod
    def _block(in_channels: int, channels: int, convs: int) -> nn.Sequential:
        """Convolution, norm, ReLU, ... without the last ReLU, which the network applies."""
        layers: list[nn.Module] = []
        for _ in range(convs):
            layers += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            in_channels = channels
        return nn.Sequential(*layers[:-1])

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        first = F.relu(self.block0(images))
        stages, preact = [first], [first]
        pools = (self.pool0, self.pool1, self.pool2, None)
        for pool, block in zip(pools, (self.block1, self.block2, self.block3, self.block4), strict=True):
            x = pool_before_last_block(stages[-1], images.shape[2]) if pool is None else pool(stages[-1])
            preact.append(block(x))
            stages.append(F.relu(preact[-1]))
        pooled = self.pool4(stages[-1]).flatten(1)
        return self.classifier(pooled), Features(stages, preact, pooled)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of every block but the first."""
        return [last_norm(block) for block in (self.block1, self.block2, self.block3, self.block4)]


vgg8 = partial(VGG, (1, 1, 1, 1, 1))
vgg11 = partial(VGG, (1, 1, 2, 2, 2))
vgg13 = partial(VGG, (2, 2, 2, 2, 2))
vgg16 = partial(VGG, (2, 2, 3, 3, 3))
vgg19 = partial(VGG, (2, 2, 4, 4, 4))
