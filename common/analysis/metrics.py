"""Fidelity and calibration, as pure functions of logits. docs/metrics.md has the same definitions with their sources.

Logits are [N, K], targets [N]; everything is computed in float64 on the CPU. Shares are in percent, divergences and
likelihoods in nats.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 15  # of equal width (Guo et al., 2017)
TEMPERATURES = (1e-2, 1e2)  # between which the best one is looked for


def accuracy(logits: Tensor, targets: Tensor) -> float:
    """Top-1 accuracy."""
    return _percent(logits.argmax(1) == targets)


def agreement(a: Tensor, b: Tensor) -> float:
    """Share of samples to which both networks give the same class (Stanton et al., 2021, eq. 3)."""
    return _percent(a.argmax(1) == b.argmax(1))


def agreement_where_wrong(student: Tensor, teacher: Tensor, targets: Tensor) -> float | None:
    """The same of those samples alone that the teacher gets wrong; None where there are none."""
    wrong = teacher.argmax(1) != targets
    return agreement(student[wrong], teacher[wrong]) if bool(wrong.any()) else None


def mean_kl(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> float:
    """Mean of D_KL(p_teacher || p_student), both softened by `temperature` (Stanton et al., 2021, eq. 4, at 1).

    Without the factor of the squared temperature that losses have (Hinton et al., 2015).
    """
    p, q = (F.log_softmax(logits.double() / temperature, dim=1) for logits in (teacher, student))
    # an entry that underflows to 0 adds nothing
    return float(torch.where(p.exp() > 0, p.exp() * (p - q), 0.0).sum(1).mean().clamp(min=0))


def mean_network(logits: Sequence[Tensor]) -> Tensor:
    """Several networks as one: logits whose softmax is the mean of their probabilities (Lakshminarayanan et al., 2017).

    Returns:
        [N, K], float64.
    """
    logs = torch.stack([F.log_softmax(each.double(), dim=1) for each in logits])
    return logs.logsumexp(0) - math.log(len(logits))


def nll(logits: Tensor, targets: Tensor, temperature: float = 1.0) -> float:
    """Mean negative log-likelihood of the labels."""
    return float(F.cross_entropy(logits.double() / temperature, targets))


class CalibrationBin(NamedTuple):
    """The samples whose confidence, the largest probability, lies in one interval.

    Attributes:
        count: how many.
        confidence, accuracy: their means in percent; None of no sample.
    """

    count: int
    confidence: float | None
    accuracy: float | None


def calibration_bins(logits: Tensor, targets: Tensor, bins: int = BINS) -> list[CalibrationBin]:
    """Confidence and accuracy in `bins` intervals of equal width, ((m - 1)/M, m/M] (Guo et al., 2017, sec. 2).

    What a reliability diagram shows.
    """
    confidence, predicted = logits.double().softmax(1).max(1)
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    number = torch.bucketize(confidence, edges)  # an upper edge belongs to the interval that ends there
    correct = (predicted == targets).double()
    count, confidences, hits = (
        torch.zeros(bins, dtype=torch.float64).index_add_(0, number, values).tolist()
        for values in (torch.ones_like(confidence), confidence, correct)
    )
    return [
        CalibrationBin(int(n), 100 * c / n if n else None, 100 * h / n if n else None)
        for n, c, h in zip(count, confidences, hits, strict=True)
    ]


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """ECE: mean over samples of |accuracy - confidence| of their bin (Naeini et al., 2015; Guo et al., 2017, eq. 3)."""
    total = sum(each.count for each in bins)
    gaps = (
        each.count * abs(each.accuracy - each.confidence)
        for each in bins
        if each.accuracy is not None and each.confidence is not None
    )
    return sum(gaps) / total


def optimal_temperature(logits: Tensor, targets: Tensor) -> float | None:
    """The temperature that minimizes the NLL (temperature scaling; Guo et al., 2017, sec. 4.2).

    The NLL is convex in 1/T, so that its slope has one root. None where that is not between 0.01 and 100, as for
    logits that are all right, or no better than chance.
    """
    from scipy.optimize import root_scalar  # slow to import

    z = logits.double() - logits.double().amax(1, keepdim=True)
    label = z.gather(1, targets[:, None])[:, 0]

    def slope(log_inverse: float) -> float:
        inverse = math.exp(log_inverse)
        return float(((inverse * z).softmax(1).mul(z).sum(1) - label).mean())

    low, high = (-math.log(temperature) for temperature in reversed(TEMPERATURES))
    if not slope(low) < 0 < slope(high):
        return None
    return math.exp(-root_scalar(slope, bracket=(low, high), method="brentq", xtol=1e-10).root)


def accuracy_by_group(logits: Tensor, targets: Tensor, groups: Tensor) -> list[float | None]:
    """Top-1 accuracy of the samples of each group of classes; None of a group without samples.

    Args:
        groups: group of each class, from 0, [K]; `torch.arange(K)` for the classes themselves.
    """
    return _share_by_group(logits.argmax(1) == targets, groups[targets], int(groups.max()) + 1)


def agreement_by_class(a: Tensor, b: Tensor, targets: Tensor, classes: int) -> list[float | None]:
    """Agreement on the samples of each class; None of a class without samples."""
    return _share_by_group(a.argmax(1) == b.argmax(1), targets, classes)


def _share_by_group(hits: Tensor, group: Tensor, groups: int) -> list[float | None]:
    count = torch.bincount(group, minlength=groups).tolist()
    hit = torch.bincount(group[hits], minlength=groups).tolist()
    return [100 * h / n if n else None for h, n in zip(hit, count, strict=True)]


def _percent(hits: Tensor) -> float:
    return 100 * float(hits.double().mean())
