"""How well a teacher does, as far as that is known: by the run that left it, or measured once and remembered.

A teacher that no run here has left is evaluated the first time that it teaches on a dataset. Its accuracy is kept
beside its checkpoint, in `<checkpoint>.accuracy.json`, for as long as checkpoint and data stay what they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from common.data import Dataset
from common.errors import TrainingError, UserError
from common.safe_json import read_json_file
from common.training.evaluation import evaluate
from common.training.runs import write_json
from common.training.runtime import Runtime
from common.training.teachers import TeacherCheckpoint

SUFFIX = ".accuracy.json"

LoadTeacher = Callable[[TeacherCheckpoint], nn.Module]
"""Gives a network with a teacher's weights, which nothing has folded: the run's own where it stays as it is."""


def accuracy_of(
    teacher: TeacherCheckpoint,
    load: LoadTeacher,
    data: Dataset,
    split: str,
    batches: Any,
    runtime: Runtime,
    report: Callable[[str], None] = lambda message: None,
) -> float:
    """Accuracy of a teacher in percent, without measuring where it is known; called on all ranks.

    Args:
        teacher: whose.
        load: gives its network.
        data, split, batches: on which; the split is "test" or "validation".
        runtime: where.
        report: told in one line what begins, where it is measured.
    """
    key = f"{data.fingerprint}, {batches.samples} {split} images"
    known = _agreed(_known(teacher, data, split, key) if runtime.is_main else None, runtime)
    if known is not None:
        return known
    report(f"evaluating teacher {teacher.name} on {batches.samples} {split} images (remembered afterwards)")
    with torch.random.fork_rng(devices=[]):
        network = load(teacher).to(runtime.device)
    accuracy = evaluate(network, batches, runtime, title=f"evaluating teacher {teacher.name}")["accuracy"]
    if runtime.is_main:
        content = {"digest": teacher.digest, "accuracies": {**_remembered(teacher), key: accuracy}}
        # where its directory cannot be written, the next run measures again
        with contextlib.suppress(UserError, TrainingError):
            write_json(_file(teacher), content)
    return accuracy


def _known(teacher: TeacherCheckpoint, data: Dataset, split: str, key: str) -> float | None:
    if split == "test" and teacher.accuracy is not None and teacher.trained_on == data.fingerprint:
        return teacher.accuracy
    return _remembered(teacher).get(key)


def _agreed(value: float | None, runtime: Runtime) -> float | None:
    """The main process's value, on all ranks."""
    if not runtime.distributed:
        return value
    values = [value]
    dist.broadcast_object_list(values, 0)
    return values[0]


def _file(teacher: TeacherCheckpoint) -> Path:
    return teacher.path.with_name(teacher.path.name + SUFFIX)


def _remembered(teacher: TeacherCheckpoint) -> dict[str, float]:
    """What the file beside a checkpoint says; nothing where there is none, or one of another checkpoint or content."""
    try:
        content = read_json_file(_file(teacher))
        accuracies = content["accuracies"] if content["digest"] == teacher.digest else {}
        return {key: value for key, value in accuracies.items() if type(value) in (int, float) and 0 <= value <= 100}
    except (UserError, KeyError, TypeError, AttributeError):
        return {}
