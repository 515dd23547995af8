"""DOT: "DOT: A Distillation-Oriented Trainer" (Zhao, Cui, Song, Liang, ICCV 2023)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn


class DOT(torch.optim.Optimizer):
    """SGD with a momentum of its own for each of two gradients, the task's and the distillation's.

    v_task = m_task v_task + g_task + w p, v_kd = m_kd v_kd + g_kd, p -= lr (v_task + v_kd), both v starting as their
    first gradient. A parameter that only one of both losses reaches has one v, with the mean of both momenta.

    The distillation's gradients are handed over by `take_distillation_gradients`; `step` finds the task's in place.

    Args:
        params: to optimise.
        lr: learning rate.
        momentum, momentum_kd: m_task and m_kd.
        weight_decay: w; it comes with the task's gradient. A parameter that the task does not reach is decayed too,
            but, as published, not in its first step.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        momentum_kd: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            params, {"lr": lr, "momentum": momentum, "momentum_kd": momentum_kd, "weight_decay": weight_decay}
        )
        self._distillation: dict[Tensor, Tensor] = {}

    def take_distillation_gradients(self) -> None:
        """Keep the gradients that are there now for the next `step`, and clear them."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._distillation[p], p.grad = p.grad, None

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """One step with the gradients in place as the task's."""
        for group in self.param_groups:
            task, kd, decay = group["momentum"], group["momentum_kd"], group["weight_decay"]
            for p in group["params"]:
                g_task, g_kd = p.grad, self._distillation.pop(p, None)
                if g_task is not None and g_kd is not None:
                    velocity = self._advance(p, "task", g_task + decay * p, task) + self._advance(p, "kd", g_kd, kd)
                elif g_task is not None:
                    velocity = self._advance(p, "task", g_task + decay * p, (task + kd) / 2)
                elif g_kd is not None:
                    first = "kd" not in self.state[p]
                    velocity = self._advance(p, "kd", g_kd if first else g_kd + decay * p, (task + kd) / 2)
                else:
                    continue
                p.sub_(velocity, alpha=group["lr"])

    def _advance(self, p: Tensor, name: str, gradient: Tensor, momentum: float) -> Tensor:
        """v = m v + g in the state of `p`; the first v is a copy of g."""
        state = self.state[p]
        if name in state:
            state[name].mul_(momentum).add_(gradient)
        else:
            state[name] = gradient.clone()
        return state[name]
