"""Trained teachers: where they are, and what they show the student."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from common.command_line import resolve_path
from common.errors import UserError
from common.models import Network
from common.training.method import FrozenTeacher
from common.training.teachers import TeacherCheckpoint, first_file, run_beside
from mtkd_rl.experiment import PAPER, build_network
from mtkd_rl.setting import teacher_model_path_dict


class NetworkOutputs(NamedTuple):
    """What is read of a network.

    Attributes:
        logits: z, [N, K].
        feature_map: F, the last stage's after activation, [N, C, H, W].
        embedding: e, what enters the classifier, [N, D].
    """

    logits: Tensor
    feature_map: Tensor
    embedding: Tensor


class NetworkShapes(NamedTuple):
    """Shapes of `NetworkOutputs`, without the batch.

    Attributes:
        logits: (K,).
        feature_map: (C, H, W).
        embedding: (D,).
    """

    logits: tuple[int, ...]
    feature_map: tuple[int, ...]
    embedding: tuple[int, ...]


def show(network: Network, images: Tensor) -> NetworkOutputs:
    """Logits, last feature map and embedding of `network`."""
    logits, features = network.forward_with_features(images)
    return NetworkOutputs(logits, features.stages[-1], features.pooled)


class _Showing(nn.Module):
    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, feature_map, embedding = show(self.network, images)
        return logits, feature_map, embedding


class FeatureTeacher(FrozenTeacher):
    """A teacher that shows logits, last feature map and embedding; batch norms that follow a convolution are folded.

    Args:
        network: a trained network.
    """

    remembers = False

    def __init__(self, network: Network) -> None:
        super().__init__(_Showing(network))

    def forward(self, images: Tensor) -> NetworkOutputs:
        return NetworkOutputs(*super().forward(images))

    def logits(self, images: Tensor) -> Tensor:
        return self(images).logits


def find_teacher(name: str, dataset: str, checkpoint_dir: str) -> TeacherCheckpoint:
    """The teacher `name` from where `setting.py` says, below `checkpoint_dir` or by itself.

    Raises:
        UserError: there is none; names the command that trains one.
    """
    command = f"`python train_baseline.py --model {name}"
    command += f" --dataset {dataset}` in mtkd_rl/" if dataset != "cifar100" else "` in mtkd_rl/"
    if name not in teacher_model_path_dict:
        raise UserError(f"setting.py has no path for the teacher {name}: add one to teacher_model_path_dict")
    path = teacher_model_path_dict[name].replace("{dataset}", dataset)
    file = first_file([resolve_path(Path(checkpoint_dir, path), PAPER), resolve_path(path, PAPER)])
    if file is None:
        raise UserError(
            f"no trained teacher {name}: setting.py names {path}, which is neither here nor below {checkpoint_dir}; "
            f"train it with {command}, or edit setting.py"
        )
    return TeacherCheckpoint.of(name, file, command, run_beside(file))


def load_teacher(teacher: TeacherCheckpoint, num_classes: int) -> Network:
    """The network of a teacher, with its weights."""
    network = build_network(teacher.name, num_classes, "--teacher-name-list")
    teacher.load_into(network)
    return network
