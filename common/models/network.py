"""The contract of every network here: logits, and on request the features that a distiller may look at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from common.errors import UserError, first_line, is_out_of_memory


class Features(NamedTuple):
    """What a network shows of its inside.

    Attributes:
        stages: one feature map a stage after activation, shallow to deep, each [N, C, H, W].
        preact: the same feature maps before activation (the identical tensor where a stage ends without one).
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


N = TypeVar("N", bound=nn.Module)
T = TypeVar("T")


@torch.no_grad()
def shown_of_black_image(network: N, name: str, height: int, width: int, show: Callable[[N, Tensor], T]) -> T:
    """What a network shows of a black image, so that what does not fit is known before anything is written.

    Args:
        network: left in the mode that it was in.
        name: what it is called.
        height, width: of the image, in pixels.
        show: calls the network.

    Raises:
        UserError: it does not take such images.
    """
    parameter, training = next(network.parameters()), network.training
    image = torch.zeros(1, 3, height, width, dtype=parameter.dtype, device=parameter.device)
    try:
        return show(network.eval(), image)
    except (RuntimeError, AssertionError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{name} does not take images of {height} x {width} pixels: {first_line(error)}") from error
    finally:
        network.train(training)


def require_takes(network: nn.Module, name: str, height: int, width: int, classes: int) -> None:
    """Check that any classifier takes such images; arguments as of `shown_of_black_image`, and K.

    Raises:
        UserError: it does not, or gives no logits of K classes for them.
    """
    logits = shown_of_black_image(network, name, height, width, nn.Module.__call__)
    if tuple(logits.shape) != (1, classes):
        raise UserError(f"{name} gives {list(logits.shape)} for one image and not {classes} logits")
