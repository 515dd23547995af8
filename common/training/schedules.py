"""Learning rates as pure functions of the position in training, so that a resumed run needs no scheduler state."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Schedule = Callable[[int, int, int], float]
"""(epoch from 0, iteration from 0, iterations per epoch) -> learning rate."""


def step_decay(base_lr: float, milestones: Sequence[float], gamma: float, warmup_epochs: float = 0.0) -> Schedule:
    """Linear warm-up within epoch 0, then `base_lr * gamma ** (milestones reached)`.

    Args:
        base_lr: the learning rate after warm-up.
        milestones: epochs, from 0, that are the first at a lower one.
        gamma: factor of each drop.
        warmup_epochs: iteration i of epoch 0 runs at `base_lr * i / (warmup_epochs * iterations)`; the warm-up ends
            with epoch 0 however long it was meant to be. 0 starts at `base_lr`.
    """

    def lr_at(epoch: int, iteration: int, iterations: int) -> float:
        if epoch == 0 and warmup_epochs:
            return base_lr * (iteration + 1) / (iterations * warmup_epochs + 1e-8)
        return base_lr * gamma ** sum(epoch >= m for m in milestones)

    return lr_at
