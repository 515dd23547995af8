"""The contract of every network here: logits, and on request the features that a distiller may look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

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
    """A classifier: `model(images)` gives logits [N, K], `model.forward_with_features(images)` logits and `Features`.

    Networks that mdistiller has carry the attributes that distillers find there, under its names.

    Attributes:
        stage_channels: channels of the entries of `Features.stages`, where the published network says nothing else.
        feat_modules: names of the modules that features come from, shallow to deep, as mdistiller lists them.
        recipe: arguments of the `create_model` that gave this network; None where another function did.
        get_bn_before_relu: gives the batch norm before each stage's last ReLU.
    """

    stage_channels: list[int]
    feat_modules: tuple[str, ...]
    recipe: dict[str, Any] | None = None
    get_bn_before_relu: Callable[[], list[nn.BatchNorm2d]]

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_with_features(images)[0]

    def get_stage_channels(self) -> list[int]:
        """A list of one's own of `stage_channels`."""
        return list(self.stage_channels)

    def get_feat_modules(self) -> nn.ModuleList:
        """The modules that `feat_modules` names."""
        return nn.ModuleList(getattr(self, name) for name in self.feat_modules)
