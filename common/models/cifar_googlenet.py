"""GoogLeNet for small images, with batch norm (after Szegedy et al., 2015, https://arxiv.org/abs/1409.4842).

3x3 stem at full resolution, no auxiliary classifiers, all convolutions biased; framework-default initialization, as
published with Tf-KD.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.models.network import Features, Network
from common.models.stage import global_pool, run_stage


def _conv(in_channels: int, width: int, kernel: int, eps: float = 1e-5) -> list[nn.Module]:
    return [nn.Conv2d(in_channels, width, kernel, padding=kernel // 2), nn.BatchNorm2d(width, eps=eps)]


class Inception(nn.Module):
    """Four parallel branches: [N, C, H, W] -> their concatenation before its ReLU, [N, out_channels, H, W].

    Args:
        in_channels: C.
        width1: branch 1, 1x1.
        reduce3, width3: branch 2, 1x1 and 3x3.
        reduce5, width5: branch 3, 1x1 and, in place of a 5x5, two 3x3.
        width_pool: branch 4, 3x3 max pooling and 1x1.
    """

    def __init__(
        self, in_channels: int, width1: int, reduce3: int, width3: int, reduce5: int, width5: int, width_pool: int
    ) -> None:
        super().__init__()
        self.b1 = nn.Sequential(*_conv(in_channels, width1, 1))
        self.b2 = nn.Sequential(
            *_conv(in_channels, reduce3, 1),
            nn.ReLU(inplace=True),
            *_conv(reduce3, width3, 3),
        )
        self.b3 = nn.Sequential(
            *_conv(in_channels, reduce5, 1),
            nn.ReLU(inplace=True),
            # The published code passes the width a second time, where batch norm expects eps; the published
            # figures were reached with it.
            *_conv(reduce5, width5, 3, eps=width5),
            nn.ReLU(inplace=True),
            *_conv(width5, width5, 3),
        )
        self.b4 = nn.Sequential(
            nn.MaxPool2d(3, stride=1, padding=1),
            *_conv(in_channels, width_pool, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.b1(x), self.b2(x), self.b3(x), self.b4(x)), dim=1)


class GoogLeNet(Network):
    """[N, 3, H, W] -> [N, num_classes], at any image size.

    Features: the stem and the last units of the three resolutions (`b3`, `e4`, `b5`).
    """

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.prelayer = nn.Sequential(*_conv(3, 192, 3))
        self.a3 = Inception(192, 64, 96, 128, 16, 32, 32)
        self.b3 = Inception(256, 128, 128, 192, 32, 96, 64)
        self.a4 = Inception(480, 192, 96, 208, 16, 48, 64)
        self.b4 = Inception(512, 160, 112, 224, 24, 64, 64)
        self.c4 = Inception(512, 128, 128, 256, 24, 64, 64)
        self.d4 = Inception(512, 112, 144, 288, 32, 64, 64)
        self.e4 = Inception(528, 256, 160, 320, 32, 128, 128)
        self.a5 = Inception(832, 256, 160, 320, 32, 128, 128)
        self.b5 = Inception(832, 384, 192, 384, 48, 128, 128)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.dropout = nn.Dropout(0.4)  # on the pooled vector this is the published channel dropout
        self.linear = nn.Linear(1024, num_classes)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        stem, preact_stem = run_stage((self.prelayer,), images)
        stage3, preact3 = run_stage((self.a3, self.b3), stem)
        stage4, preact4 = run_stage((self.a4, self.b4, self.c4, self.d4, self.e4), self.maxpool(stage3))
        stage5, preact5 = run_stage((self.a5, self.b5), self.maxpool(stage4))
        pooled = self.dropout(global_pool(stage5))
        stages, preacts = [stem, stage3, stage4, stage5], [preact_stem, preact3, preact4, preact5]
        return self.linear(pooled), Features(stages, preacts, pooled)
