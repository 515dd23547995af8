"""Where trained teachers are looked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from common.command_line import REPOSITORY
from common.errors import UserError
from common.models import Network
from common.training.checkpoints import load_weights

# --pt_teacher: the checkpoint of a poorly trained teacher
POORLY_TRAINED = {"resnet18": "0.pth.tar", "resnet50": "50.pth.tar", "resnext29": "50.pth.tar"}


@dataclasses.dataclass(frozen=True)
class TeacherFile:
    """A checkpoint found for a teacher, and the command that would train one."""

    path: Path
    command: str


def experiments_tree(model_dir: Path) -> Path:
    """The tree of experiments that `model_dir` lies in; the repository's own where it lies in none."""
    for ancestor in model_dir.resolve().parents:
        if ancestor.name in ("base_experiments", "kd_experiments"):
            return ancestor.parent
    return REPOSITORY / "experiments"


def find_teacher(name: str, model_dir: Path, poorly_trained: bool = False) -> TeacherFile:
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
    command = f"python main.py --model_dir experiments/{baseline}/"
    for path in places:
        if path.is_file():
            return TeacherFile(path, command)
    raise UserError(
        f"no trained teacher {name}: neither {places[0]} nor {places[1]} exists; train one with `{command}` in tfkd/"
    )


def load_teacher(network: Network, file: TeacherFile, name: str) -> dict:
    """Load the found checkpoint into `network`.

    Returns:
        The whole checkpoint.

    Raises:
        UserError: damaged, or of another architecture or class count; names the command that trains a right one.
    """
    try:
        return load_weights(network, file.path, name)
    except UserError as error:
        raise UserError(f"{error}; a right one comes from `{file.command}` in tfkd/") from error
