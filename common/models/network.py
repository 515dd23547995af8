"""The contract of every network here: logits, and on request the features that a distiller may look at."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Features(NamedTuple):
    """What a network shows of its inside.

    Attributes:
        stages: one map a stage after activation, shallow to deep, each [N, C, H, W].
        preact: the same maps before activation (the identical tensor where a stage ends without one).
        pooled: the embedding that enters the classifier, [N, D].
    """

    stages: list[Tensor]
    preact: list[Tensor]
    pooled: Tensor


class Network(nn.Module):
    """A classifier: `model(images)` gives logits [N, K], `model.forward_features(images)` logits and `Features`."""

    def forward_features(self, images: Tensor) -> tuple[Tensor, Features]:
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_features(images)[0]
