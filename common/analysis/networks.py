"""All metrics of a network beside its teachers, as `run.json` and `python -m common.analyze` have them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from common.analysis import MEAN
from common.analysis.metrics import (
    BINS,
    accuracy,
    accuracy_by_group,
    agreement,
    agreement_by_class,
    agreement_where_wrong,
    calibration_bins,
    expected_calibration_error,
    mean_kl,
    mean_network,
    nll,
)
from common.analysis.superclasses import SUPERCLASSES, superclasses_of


def with_mean(teachers: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Teachers by name, and where there are several their mean as one more."""
    return {**teachers, MEAN: mean_network(list(teachers.values()))} if len(teachers) > 1 else dict(teachers)


def analyze_predictions(
    logits: Tensor,
    targets: Tensor,
    teachers: Mapping[str, Tensor],
    classes: Sequence[str],
    *,
    temperature: float | None = None,
    validation_temperature: float | None = None,
) -> dict[str, Any]:
    """Everything that is said of a network on a test set.

    Args:
        logits, targets: of the set, [N, K] and [N].
        teachers: name -> logits; several with their mean.
        classes: names of the classes.
        temperature: the method's own, for a second divergence; None where it has none.
        validation_temperature: `optimal_temperature` on other images; None where there are none.

    Returns:
        `accuracy`, `nll`, `ece`, `bins` (of the reliability diagram), `optimal_temperature` and
        `ece_at_optimal_temperature`, `accuracy_by_class`, `accuracy_by_superclass` (CIFAR-100 alone), and in `fidelity`
        for each teacher `agreement`, `agreement_where_teacher_wrong`, `kl`, `kl_at_temperature`, and where there are
        several `agreement_by_class`. What has no value is None.
    """
    bins = calibration_bins(logits, targets)
    scaled = None
    if validation_temperature is not None:
        scaled = expected_calibration_error(calibration_bins(logits.double() / validation_temperature, targets))
    result = {
        "accuracy": accuracy(logits, targets),
        "nll": nll(logits, targets),
        "ece": expected_calibration_error(bins),
        "optimal_temperature": validation_temperature,
        "ece_at_optimal_temperature": scaled,
        "fidelity": {
            name: _fidelity(logits, teacher, targets, temperature, len(classes) if len(teachers) > 1 else None)
            for name, teacher in teachers.items()
        },
        "bins": [each._asdict() for each in bins],
        "accuracy_by_class": _named(classes, accuracy_by_group(logits, targets, torch.arange(len(classes)))),
        "accuracy_by_superclass": None,
    }
    if (groups := superclasses_of(classes)) is not None:
        by_group = accuracy_by_group(logits, targets, torch.tensor(groups))
        result["accuracy_by_superclass"] = _named(SUPERCLASSES, by_group)
    return finite(result)


def analyze_teacher(logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """What is said of a teacher by itself: `accuracy`, `nll`, `ece`, `bins`."""
    bins = calibration_bins(logits, targets)
    return finite(
        {
            "accuracy": accuracy(logits, targets),
            "nll": nll(logits, targets),
            "ece": expected_calibration_error(bins),
            "bins": [each._asdict() for each in bins],
        }
    )


def _fidelity(
    student: Tensor, teacher: Tensor, targets: Tensor, temperature: float | None, classes: int | None
) -> dict[str, Any]:
    return {
        "agreement": agreement(student, teacher),
        "agreement_where_teacher_wrong": agreement_where_wrong(student, teacher, targets),
        "kl": mean_kl(teacher, student),
        "kl_at_temperature": None if temperature is None else mean_kl(teacher, student, temperature),
        **({} if classes is None else {"agreement_by_class": agreement_by_class(student, teacher, targets, classes)}),
    }


def _named(names: Sequence[str], values: Sequence[float | None]) -> dict[str, float | None]:
    return dict(zip(names, values, strict=True))


def finite(content: Any) -> Any:
    """The same with None for numbers that are not finite, which JSON has no word for; rounded to six digits."""
    if isinstance(content, Mapping):
        return {key: finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [finite(value) for value in content]
    if isinstance(content, float):
        return float(f"{content:.6g}") if math.isfinite(content) else None
    return content


__all__ = ["BINS", "MEAN", "analyze_predictions", "analyze_teacher", "finite", "with_mean"]
