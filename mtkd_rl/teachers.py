"""Trained teachers: where they are, and what they show the student."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from common.command_line import find_path
from common.errors import UserError
from common.models import Network
from common.training.checkpoints import load_weights
from common.training.method import FrozenTeacher
from mtkd_rl.experiment import PAPER, build_network
from mtkd_rl.setting import teacher_model_path_dict


class Shown(NamedTuple):
    """What is read of a network.

    Attributes:
        logits: z, [N, K].
        map: F, the last stage's after activation, [N, C, H, W].
        embedding: e, what enters the classifier, [N, D].
    """

    logits: Tensor
    map: Tensor
    embedding: Tensor


def show(network: Network, images: Tensor) -> Shown:
    """Logits, last map and embedding of `network`."""
    logits, features = network.forward_features(images)
    return Shown(logits, features.stages[-1], features.pooled)


class _Showing(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(show(self.network, images))


class FeatureTeacher(FrozenTeacher):
    """A teacher that shows logits, last map and embedding; each batch norm that follows a convolution is folded.

    Args:
        network: a trained network.
    """

    def __init__(self, network: Network) -> None:
        super().__init__(_Showing(network))

    def forward(self, images: Tensor) -> Shown:
        return Shown(*super().forward(images))


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained teacher.

    Attributes:
        name: published name.
        network: with its weights.
        path: of its checkpoint.
        trained_on: fingerprint of the data that it was trained on, where its run says so.
    """

    name: str
    network: Network
    path: Path
    trained_on: str | None

    def digest(self) -> str:
        """By which a record knows the checkpoint, wherever the file lies."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]


def load_teacher(name: str, dataset: str, num_classes: int, checkpoint_dir: str) -> Teacher:
    """The teacher `name` from where `setting.py` says, below `checkpoint_dir` or by itself.

    Raises:
        UserError: there is none, or one of another architecture or class count; names the command that trains one.
    """
    network = build_network(name, num_classes, "--teacher-name-list")
    command = f"python train_baseline.py --model {name}"
    command += f" --dataset {dataset}" if dataset != "cifar100" else ""
    if name not in teacher_model_path_dict:
        raise UserError(f"setting.py has no path for the teacher {name}: add one to teacher_model_path_dict")
    path = teacher_model_path_dict[name].replace("{dataset}", dataset)
    places = [find_path(Path(checkpoint_dir, path), PAPER), find_path(path, PAPER)]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(
            f"no trained teacher {name}: setting.py names {path}, which is neither here nor below {checkpoint_dir}; "
            f"train it with `{command}` in mtkd_rl/, or edit setting.py"
        )
    try:
        load_weights(network, file, name)
    except UserError as error:
        raise UserError(f"{error}; a right one comes from `{command}` in mtkd_rl/") from error
    return Teacher(name, network, file, _trained_on(file))


def _trained_on(file: Path) -> str | None:
    try:
        return json.loads((file.parent / "run.json").read_text())["data"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None  # no run of ours
