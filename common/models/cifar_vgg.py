"""VGG with batch norm for small images (Simonyan and Zisserman, 2015, https://arxiv.org/abs/1409.1556)."""

from __future__ import annotations

from functools import partial

import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

from common.models.initialization import init_convs_by_fan_out
from common.models.network import Features, Network
from common.models.stage import global_pool

WIDTHS = (64, 128, 256, 512, 512)


@torch.fx.wrap  # a leaf to torch.fx, which cannot follow the branch
def pool_before_last_block(x: Tensor, image_height: int) -> Tensor:
    """2x2 max pooling for images of height 64 exactly, as published, so that the last block works at 4x4 there too."""
    return F.max_pool2d(x, 2) if image_height == 64 else x


class CifarVGG(Network):
    """VGG: [N, 3, H, W] -> [N, num_classes]; five blocks of 3x3 convolutions, global pooling, one linear layer.

    Features: the blocks' outputs before pooling. `preact` is before their last ReLU, but for the first block, where it
    is the activated map, as mdistiller has it (MTKD-RL shows no separate pre-activations of VGG).

    Args:
        convs: convolutions of each block.
        num_classes: width of the classifier.
    """

    def __init__(self, convs: tuple[int, ...], num_classes: int = 100) -> None:
        super().__init__()
        self.block0 = self._block(3, WIDTHS[0], convs[0])
        self.block1 = self._block(WIDTHS[0], WIDTHS[1], convs[1])
        self.block2 = self._block(WIDTHS[1], WIDTHS[2], convs[2])
        self.block3 = self._block(WIDTHS[2], WIDTHS[3], convs[3])
        self.block4 = self._block(WIDTHS[3], WIDTHS[4], convs[4])
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

    def forward_features(self, images: Tensor) -> tuple[Tensor, Features]:
        first = F.relu(self.block0(images))
        stages, preact = [first], [first]
        for block in (self.block1, self.block2, self.block3, self.block4):
            x = stages[-1]
            x = pool_before_last_block(x, images.shape[2]) if block is self.block4 else F.max_pool2d(x, 2)
            preact.append(block(x))
            stages.append(F.relu(preact[-1]))
        pooled = global_pool(stages[-1])
        return self.classifier(pooled), Features(stages, preact, pooled)

    def get_stage_channels(self) -> list[int]:
        """Channels of the entries of `Features.stages`."""
        return list(WIDTHS)

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of every block but the first."""
        return [block[-1] for block in (self.block1, self.block2, self.block3, self.block4)]


vgg8 = partial(CifarVGG, (1, 1, 1, 1, 1))
vgg11 = partial(CifarVGG, (1, 1, 2, 2, 2))
vgg13 = partial(CifarVGG, (2, 2, 2, 2, 2))
vgg16 = partial(CifarVGG, (2, 2, 3, 3, 3))
vgg19 = partial(CifarVGG, (2, 2, 4, 4, 4))
