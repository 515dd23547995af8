"""DOT: "DOT: A Distillation-Oriented Trainer" (Zhao, Cui, Song, Liang, ICCV 2023)."""

# `torch._foreach_*`, from which PyTorch builds its own optimizers, are not exported by its stubs
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class DOT(torch.optim.Optimizer):
    """SGD with a momentum of its own for each of two gradients, the task's and the distillation's.

    v_task = m_task v_task + g_task + w p, v_kd = m_kd v_kd + g_kd, p -= lr (v_task + v_kd), both v starting as their
    first gradient. A parameter that only one of both losses reaches has one v, with the mean of both momenta.

    The distillation's gradients are handed over by `take_distillation_gradients`; `step` finds the task's in place.

    Args:
        params: to optimize.
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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises:
        ValueError: state that is not of this optimizer, which would start again instead.
        """
        if any(not set(state) <= {"task", "kd"} for state in state_dict["state"].values()):
            raise ValueError("not the state of DOT")
        super().load_state_dict(state_dict)

    @torch.no_grad()
    def step(self, closure: Callable | None = None) -> None:
        """One step with the gradients in place as the task's."""
        for group in self.param_groups:
            m_task, m_kd, decay, lr = (group[key] for key in ("momentum", "momentum_kd", "weight_decay", "lr"))
            mean = (m_task + m_kd) / 2
            kd = {p: self._distillation.pop(p) for p in group["params"] if p in self._distillation}
            task = {p: p.grad for p in group["params"] if p.grad is not None}

            both = [p for p in task if p in kd]
            v_task = self._advance("task", both, _decayed(task, both, decay), m_task)
            v_kd = self._advance("kd", both, [kd[p] for p in both], m_kd)
            _descend(both, torch._foreach_add(v_task, v_kd) if both else [], lr)

            task_only = [p for p in task if p not in kd]
            _descend(task_only, self._advance("task", task_only, _decayed(task, task_only, decay), mean), lr)

            kd_only = [p for p in kd if p not in task]
            first = [p for p in kd_only if "kd" not in self.state[p]]
            later = [p for p in kd_only if "kd" in self.state[p]]
            _descend(first, self._advance("kd", first, [kd[p] for p in first], mean), lr)
            _descend(later, self._advance("kd", later, _decayed(kd, later, decay), mean), lr)

    def _advance(self, name: str, params: list[Tensor], gradients: list[Tensor], momentum: float) -> list[Tensor]:
        """v = m v + g in the state of each parameter; the first v is a copy of g."""
        states = [self.state[p] for p in params]
        moving = [(state[name], g) for state, g in zip(states, gradients, strict=True) if name in state]
        if moving:
            velocities, their_gradients = zip(*moving, strict=True)
            torch._foreach_mul_(velocities, momentum)
            torch._foreach_add_(velocities, their_gradients)
        for state, g in zip(states, gradients, strict=True):
            if name not in state:
                state[name] = g.clone()
        return [state[name] for state in states]


def _decayed(gradients: dict[Tensor, Tensor], params: list[Tensor], decay: float) -> list[Tensor]:
    """g + w p of each parameter."""
    if not params:
        return []
    decayed = torch._foreach_mul(params, decay)
    torch._foreach_add_(decayed, [gradients[p] for p in params])
    return list(decayed)


def _descend(params: list[Tensor], velocities: list[Tensor] | tuple[Tensor, ...], lr: float) -> None:
    """p -= lr v."""
    if params:
        torch._foreach_sub_(params, velocities, alpha=lr)
