"""The plain five-layer CNN of Tf-KD (Yuan et al., 2020, https://arxiv.org/abs/1909.11723), `cnn` there."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from common.models.network import Features, Network


class PlainCNN(Network):
    """Three convolutions with pooling, two linear layers: [N, 3, H, W] -> [N, num_classes].

    Features: the three convolutional stages, after their pooling. Framework-default initialization, as published.

    Args:
        num_classes: width of the classifier.
        num_channels: width of the first convolution; later ones have two and four times as many.
        dropout_rate: dropout ahead of the classifier.
    """

    def __init__(self, num_classes: int = 100, num_channels: int = 32, dropout_rate: float = 0.5) -> None:
        super().__init__()
        width = num_channels
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.conv3 = nn.Conv2d(2 * width, 4 * width, 3, padding=1)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.fc1 = nn.Linear(4 * width * 4 * 4, 4 * width)
        self.fcbn1 = nn.BatchNorm1d(4 * width)
        self.dropout = nn.Dropout(dropout_rate)
        self.fc2 = nn.Linear(4 * width, num_classes)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        x = images
        stages, preacts = [], []
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            preact = F.max_pool2d(norm(conv(x)), 2)
            x = F.relu(preact)
            stages.append(x)
            preacts.append(preact)
        x = F.adaptive_avg_pool2d(x, 4).flatten(1)  # changes nothing at 32x32, where the feature map is 4x4 already
        pooled = self.dropout(F.relu(self.fcbn1(self.fc1(x))))
        return self.fc2(pooled), Features(stages, preacts, pooled)
