"""Losses that several papers share."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor


def add_up(losses: Iterable[Tensor]) -> Tensor:
    """The sum of at least one loss."""
    return functools.reduce(operator.add, losses)


def softened_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """D_KL(p_tau^t, p_tau) of each sample, both distributions softened by the temperature (Hinton et al., 2015).

    Args:
        student_logits, teacher_logits: [N, K].
        temperature: tau.

    Returns:
        [N], without the factor tau^2.
    """
    log_p = F.log_softmax(student_logits / temperature, dim=1)
    log_q = F.log_softmax(teacher_logits / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)
