"""Where trained teachers are looked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from common.command_line import REPOSITORY
from common.errors import UserError
from common.training.teachers import TeacherCheckpoint, first_file, run_beside

# --pt_teacher: the checkpoint of a poorly trained teacher
POORLY_TRAINED = {"resnet18": "0.pth.tar", "resnet50": "50.pth.tar", "resnext29": "50.pth.tar"}


def experiments_tree(model_dir: Path) -> Path:
    """The tree of experiments that `model_dir` lies in; the repository's own where it lies in none."""
    for ancestor in model_dir.resolve().parents:
        if ancestor.name in ("base_experiments", "kd_experiments"):
            return ancestor.parent
    return REPOSITORY / "experiments"


def find_teacher(name: str, model_dir: Path, poorly_trained: bool = False) -> TeacherCheckpoint:
    """The checkpoint of teacher `name`, where the paper keeps it or where a baseline run here left it.

    Args:
        name: model name.
        model_dir: of the student; its tree of experiments is searched.
        poorly_trained: an early checkpoint (De-KD) instead of the best.

    Raises:
        UserError: there is none; says where it was looked for and how to train it.
    """
    if poorly_trained and name not in POORLY_TRAINED:
        raise UserError(
            f"--pt_teacher is defined for the teachers {', '.join(POORLY_TRAINED)}, not {name}: leave the flag out"
        )
    file = POORLY_TRAINED[name] if poorly_trained else "best.pth.tar"
    tree = experiments_tree(model_dir)
    baseline = f"base_experiments/base_{name.replace('_v2', 'v2')}"
    places = [tree / "pretrained_teacher_models" / f"base_{name}" / file, tree / baseline / file]
    command = f"`python main.py --model_dir experiments/{baseline}/` in tfkd/"
    if (path := first_file(places)) is None:
        raise UserError(
            f"no trained teacher {name}: neither {places[0]} nor {places[1]} exists; train one with {command}"
        )
    record = run_beside(path)
    if poorly_trained and record is not None:
        found = TeacherCheckpoint.of(name, path, command, record)
        return dataclasses.replace(found, origin=f"snapshot {file} of a run here", accuracy=None, budget=None)
    return TeacherCheckpoint.of(name, path, command, record)
