"""Learning the weights of an ensemble from its members' logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import TrainingError

Form = Literal["sum", "mean"]


class LogitBatches(Protocol):
    """Batches of the members' logits, [M, N, K], with class indices, [N]. A list of them is one."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


def combine(logits: Tensor, weights: Tensor, form: Form) -> Tensor:
    """The sum over members of weight_k * logits_k, as published, or their mean, as the ensemble has it.

    Args:
        logits: [M, N, K].
        weights: [M].

    Returns:
        [N, K].
    """
    total = torch.einsum("m,mnk->nk", weights, logits)
    return total if form == "sum" else total / len(weights)


def initial_weights(members: int, seed: int) -> Tensor:
    """Where the published fit begins, [M]: as PyTorch's linear layer over the members does, within 1 / sqrt(M) of 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(members, 1, bias=False).weight.detach()[0]


def calibrate(
    batches: LogitBatches,
    weights: Tensor,
    *,
    epochs: int,
    accumulation_steps: int,
    form: Form = "sum",
) -> tuple[Tensor, list[float]]:
    """Weights of least cross-entropy: AdamW as PyTorch has it, gradients summed over `accumulation_steps` batches.

    The last batch of an epoch updates with whatever has come together.

    Args:
        batches: to fit on; gone through once per epoch.
        weights: to begin with, [M].
        epochs: how many.
        accumulation_steps: batches an update.
        form: what the weights are weights of.

    Returns:
        The weights, and the loss of each batch in each epoch.

    Raises:
        TrainingError: weights that are not finite.
    """
    weights = weights.clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([weights])
    losses = []
    for _ in range(epochs):
        for number, (logits, targets) in enumerate(batches, start=1):
            loss = F.cross_entropy(combine(logits, weights, form), targets)
            loss.backward()
            losses.append(loss.detach())
            if number % accumulation_steps == 0 or number == len(batches):
                optimizer.step()
                optimizer.zero_grad()
    if not bool(weights.isfinite().all()):
        raise TrainingError("the weights are not finite after fitting, maybe because the logits of a member are not")
    return weights.detach(), torch.stack(losses).tolist()
