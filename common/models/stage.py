"""How features are gathered: what the networks that show feature maps before and after their activation share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

Block = TypeVar("Block", bound=nn.Module)


class Blocks(nn.Sequential, Generic[Block]):
    """A sequence of blocks of one kind."""

    if TYPE_CHECKING:

        def __getitem__(self, idx: int) -> Block: ...
        def __iter__(self) -> Iterator[Block]: ...


def run_stage(blocks: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    """Blocks that return their feature map before its ReLU, each feeding the next through one.

    Returns:
        The last block's feature map after ReLU and before it, both [N, C, H, W].
    """
    for block in blocks:
        preact = block(x)
        x = F.relu(preact)
    return x, preact


class Stage(Blocks[Block]):
    """`run_stage` over its children."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return run_stage(self, x)


def run_pooled_stages(layers: Iterable[nn.Module], x: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A plain sequence of layers in which each stage ends with a ReLU and then max pooling.

    Returns:
        The final feature map, and each stage's after its last ReLU and before it (that is, ahead of the pooling).
    """
    stages, preacts = [], []
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            preact = x
        elif isinstance(layer, nn.MaxPool2d):
            stages.append(x)
            preacts.append(preact)
        x = layer(x)
    return x, stages, preacts


def last_norm(module: nn.Module) -> nn.BatchNorm2d:
    """The last batch norm in a module."""
    return [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)][-1]


def global_pool(x: Tensor) -> Tensor:
    """Average over all positions: [N, C, H, W] -> [N, C]."""
    return F.adaptive_avg_pool2d(x, 1).flatten(1)
