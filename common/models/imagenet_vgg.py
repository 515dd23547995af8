"""VGG in its ImageNet form, with batch norm (Simonyan & Zisserman, 2015, https://arxiv.org/abs/1409.1556).

Keys as in torchvision's `vgg19_bn`.
"""

from __future__ import annotations

from torch import Tensor, nn

from common.models.network import Features, Network
from common.models.stage import run_pooled_stages


class VGG(Network):
    """Five stages of 3x3 convolutions, each ending with 2x2 max pooling, and three linear layers.

    Features: the feature maps ahead of each pooling. The adaptive 7x7 pooling takes any image size; at 32x32 it
    repeats the single position 49 times.

    Args:
        depths: convolutions in each of the five stages.
        num_classes: K of the logits [N, K].
    """

    def __init__(self, depths: tuple[int, int, int, int, int], num_classes: int = 100) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width, depth in zip((64, 128, 256, 512, 512), depths, strict=True):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, num_classes),
        )
        self.apply(_initialize)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        x, stages, preacts = run_pooled_stages(self.features, images)
        *hidden, classifier = self.classifier
        pooled = self.avgpool(x).flatten(1)
        for layer in hidden:
            pooled = layer(pooled)
        return classifier(pooled), Features(stages, preacts, pooled)


def _initialize(module: nn.Module) -> None:
    """torchvision's initialization of this network; batch norm keeps the framework's default."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def vgg19(num_classes: int = 100) -> VGG:
    """[N, 3, H, W] -> [N, num_classes]; 2 + 2 + 4 + 4 + 4 convolutions."""
    return VGG((2, 2, 4, 4, 4), num_classes)
