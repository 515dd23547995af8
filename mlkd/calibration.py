"""Learning the weights of an ensemble from its members' logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Form = Literal["sum", "mean"]


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


def calibrate(
    batches: Sequence[tuple[Tensor, Tensor]],
    weights: Tensor,
    *,
    epochs: int,
    accumulation_steps: int,
    form: Form = "sum",
) -> tuple[Tensor, list[float]]:
    """Weights of least cross-entropy: AdamW as PyTorch has it, gradients summed over `accumulation_steps` batches.

    The last batch of an epoch updates with whatever has come together.

    Args:
        batches: the members' logits, [M, N, K], and class indices, [N].
        weights: to begin with, [M].
        epochs: how many.
        accumulation_steps: batches an update.
        form: what the weights are weights of.

    Returns:
        The weights, and the loss of each batch in each epoch.
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
    return weights.detach(), torch.stack(losses).tolist()
