"""AlexNet for small images (after Krizhevsky et al., 2012): five convolutions and one linear layer."""

from __future__ import annotations

from torch import Tensor, nn

from common.models.network import Features, Network
from common.models.stage import global_pool, run_pooled_stages


class AlexNet(Network):
    """[N, 3, H, W] -> [N, num_classes]; no normalization, framework-default initialization, as published.

    Features: the feature maps ahead of each of the three poolings.
    """

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 11, stride=4, padding=5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 192, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(192, 384, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(384, 256, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(256, 256, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(256, num_classes)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        x, stages, preacts = run_pooled_stages(self.features, images)
        pooled = global_pool(x)  # 1x1 already at 32x32, the published size
        return self.classifier(pooled), Features(stages, preacts, pooled)
