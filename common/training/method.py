"""What differs between papers, as the training loop sees it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.models.folding import fold_batch_norm


class Step(NamedTuple):
    """What a method says about one batch.

    Attributes:
        logits: the student's, [N, K].
        losses: named scalars that add up to what is minimised.
    """

    logits: Tensor
    losses: dict[str, Tensor]


class Method(nn.Module):
    """A way of training `student`: `method(images, targets, indices, epoch)` gives a `Step`.

    Every parameter of the method that wants a gradient is trained; only the student is evaluated and saved as the
    result.

    Attributes:
        student: the network that is trained.
    """

    student: nn.Module

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> Step:
        """Losses of one batch.

        Args:
            images: [N, 3, H, W].
            targets: class indices, [N].
            indices: position of each sample in the training set, [N].
            epoch: counted from 0.
        """
        raise NotImplementedError

    def backward(self, losses: dict[str, Tensor], optimizer: torch.optim.Optimizer) -> None:
        """Put gradients where `optimizer.step()`, which the loop calls next, will find them.

        Methods whose optimiser wants the gradients of single losses say so here.

        Args:
            losses: those of `forward`, scaled where mixed precision or shares of unequal size want it.
            optimizer: the run's; its gradients are clear.
        """
        sum(losses.values()).backward()


class FrozenTeacher(nn.Module):
    """A teacher: always in evaluation mode, without gradient, its batch norm folded into its convolutions.

    Args:
        network: a trained network.
        fold: False keeps `network` itself, for subclasses that show more of it than its logits.
    """

    def __init__(self, network: nn.Module, *, fold: bool = True) -> None:
        super().__init__()
        self.network = (fold_batch_norm(network.eval()) if fold else network.eval()).requires_grad_(False)

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stays in evaluation mode, also when the method that owns it goes into training mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def load_method(source: str) -> type[Method]:
    """A person's own method, given as `FILE.py:CLASS`.

    Raises:
        UserError: no such file or class, or a class that is not a `Method`.
    """
    file, _, name = source.rpartition(":")
    if not Path(file).is_file():
        raise UserError(f"--method {source}: give FILE.py:CLASS; there is no file '{file}'")
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    method = getattr(module, name, None)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise UserError(f"--method {source}: {file} defines no class {name} derived from common.training.method.Method")
    return method
