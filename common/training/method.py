"""What differs between papers, as the training loop sees it."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from common.analysis.metrics import mean_network
from common.losses import add_up
from common.models.folding import fold_batch_norm
from common.own_code import is_ours, load_class
from common.training.evaluation import cross_entropy

if TYPE_CHECKING:
    from common.training.teacher_memory import Memory


PROMISES = ("graph_capturable", "epoch_dependent_until")  # what a method's steps must keep to be captured


class StepOutput(NamedTuple):
    """What a method says about one batch.

    Attributes:
        logits: the student's, [N, K].
        losses: named scalars that add up to what is minimized.
        transition: what `Method.after_update` gets of the batch.
    """

    logits: Tensor
    losses: dict[str, Tensor]
    transition: Any = None


class Method(nn.Module):
    """A way of training `student`: `method(images, targets, indices, epoch)` gives a `StepOutput`.

    Where the training batches have strong views as well (`common.data.Batch`), `forward` gets them as a fifth argument.

    Every parameter of the method that requires grad is trained, unless `trainable_parameters` says otherwise; only
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
        messages: what a person should know about how it works in this run, for the log.
        temperature: by which its loss softens student and teacher; None where it does not.
    """

    student: nn.Module
    graph_capturable = False
    epoch_dependent_until: float = math.inf
    channels_last = True
    messages: Sequence[str] = ()
    temperature: float | None = None

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
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

        Methods whose optimizer wants the gradients of single losses say so here.

        Args:
            losses: those of `forward`, scaled where mixed precision or shares of unequal size want it.
            optimizer: the run's; its gradients are clear.
        """
        add_up(losses.values()).backward()

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The parameters that the run's optimizer trains; a method that trains some by itself leaves those out."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def after_update(self, transition: Any) -> None:
        """What the method does on the device after each batch, when the run's optimizer has had its turn.

        It belongs to the step and is captured with it.

        Args:
            transition: that of the `StepOutput`.
        """

    @property
    def evaluated(self) -> nn.Module:
        """What gives the logits by which the method is judged: the student."""
        return self.student

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Logits by which a trained network is analyzed, by name: those that it is judged by are called "final"."""
        return {"final": self.evaluated(images)}

    def teacher_logits(self, images: Tensor) -> list[Tensor]:
        """Logits of each teacher, in the order of the run's teachers, each [N, K]; none where there is none."""
        return [module.logits(images) for module in self.modules() if isinstance(module, FrozenTeacher)]

    def mean_teacher(self, logits: list[Tensor]) -> Tensor:
        """Several teachers as one, from the logits of each: their mean probabilities, unless the method has its own."""
        return mean_network(logits)

    def others_untouched(self) -> contextlib.AbstractContextManager:
        """Within it a copy of the method may take a step, and change nothing that copies share with it."""
        return contextlib.nullcontext()

    def frozen_modules(self) -> list[nn.Module]:
        """What training leaves as it is; checkpoints leave it out."""
        return [module for module in self.modules() if isinstance(module, FrozenTeacher)]

    def after_step(self, epoch: int, iteration: int, iterations: int) -> None:
        """Called after each batch, after `after_update`, with the position: for what the host decides.

        Args:
            epoch: counted from 0.
            iteration: index of the batch within the epoch, of `iterations`.
        """

    def epoch_metrics(self) -> dict[str, Tensor]:
        """Scalars of the epoch that has just been trained, for its record; the next epoch begins at zero.

        Means over this rank's batches; the loop averages them over ranks.
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

    Attributes:
        memory: answers in the network's place where the logits of the images are known already.
        remembers: False in subclasses of which more than the logits is read.
    """

    memory: Memory | None = None
    remembers = True

    def __init__(self, network: nn.Module, *, foldable: bool = True) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.recipe = getattr(network, "recipe", None)  # folding makes another module of the network
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
        logits = None if self.memory is None else self.memory.recall(images)
        return self.network(images) if logits is None else logits

    def logits(self, images: Tensor) -> Tensor:
        """Logits alone, [N, K], also where `forward` shows more."""
        return self(images)


def load_method(source: str, paper: str) -> type[Method]:
    """A person's own method, given as `--method FILE.py:CLASS`.

    What a method of this repository promises about its steps does not hold for a class that somebody derived from it:
    that makes its own promises.

    Raises:
        UserError: no such file or class, a class that is not a `Method`, or a file that cannot be imported.
    """
    kind = load_class(source, "--method", Method, paper)
    theirs = list(itertools.takewhile(lambda base: not is_ours(base), kind.__mro__))
    for promise in PROMISES:
        if not any(promise in vars(base) for base in theirs):
            setattr(kind, promise, getattr(Method, promise))
    return kind
