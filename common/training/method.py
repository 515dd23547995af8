"""What differs between papers, as the training loop sees it."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from common.errors import UserError
from common.models.folding import fold_batch_norm
from common.training.evaluation import cross_entropy


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

    Where the training batches have strong views as well (`common.data.Batch`), `forward` gets them as a fifth argument.

    Every parameter of the method that wants a gradient is trained, unless `trainable_parameters` says otherwise; only
    the student is evaluated and saved as the result. What the method learns by itself and is no parameter or buffer
    goes into checkpoints through `get_extra_state` and `set_extra_state` of `nn.Module`.

    Attributes:
        student: the network that is trained.
        graph_capturable: True says that within an epoch `forward`, `backward` and `after_update` do the same to every
            batch, on the device alone, so that on a GPU they may be captured once as a CUDA graph and replayed: what
            Python does in them, such as counting steps or drawing numbers on the host, is not repeated then.
        epoch_dependent_until: from this epoch on, counted from 0, steps no longer depend on the epoch, and one capture
            serves for all that follow. 0 says that they never do; by default they always may.
        channels_last: False says that images, networks and own modules have to be contiguous in memory.
    """

    student: nn.Module
    graph_capturable = False
    epoch_dependent_until: float = math.inf
    channels_last = True

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

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that the run's optimiser trains; a method that trains some by itself leaves those out."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def after_update(self) -> None:
        """What the method does on the device after each batch, when the run's optimiser has had its turn.

        It belongs to the step and is captured with it.
        """

    @property
    def evaluated(self) -> nn.Module:
        """What gives the logits by which the method is judged: the student."""
        return self.student

    def frozen_modules(self) -> list[nn.Module]:
        """What training leaves as it is; checkpoints leave it out."""
        return [module for module in self.modules() if isinstance(module, FrozenTeacher)]

    def after_step(self, epoch: int, iteration: int, iterations: int) -> None:
        """Called after each batch, after `after_update`, with the position: for what the host decides.

        Args:
            epoch: counted from 0.
            iteration: index of the batch within the epoch, of `iterations`.
        """

    def figures(self) -> dict[str, Tensor]:
        """Scalars of the epoch that has just been trained, for its record; the next epoch begins at nought.

        Means over this process's batches; the loop averages them over processes.
        """
        return {}

    def evaluation_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        """What the student's logits for a batch cost when it is evaluated, summed over samples."""
        return cross_entropy(images, logits, targets)


class FrozenTeacher(nn.Module):
    """A teacher: always in evaluation mode and without gradient.

    Args:
        network: a trained network.
        foldable: False keeps its batch norm: for networks that torch.fx cannot trace, and for subclasses that show
            what comes out of a convolution.
    """

    def __init__(self, network: nn.Module, *, foldable: bool = True) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.foldable = foldable

    def fold(self) -> None:
        """Fold the network's batch norm into its convolutions, where it may be."""
        if self.foldable:
            self.network = fold_batch_norm(self.network).eval().requires_grad_(False)

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
