"""Where trained teachers are looked for: the published files, runs made here, teachers of `mtkd_rl`."""

from __future__ import annotations

import dataclasses
import glob
import hashlib
import json
from pathlib import Path

import torch

from common.command_line import REPOSITORY, find_path
from common.data import Dataset
from common.data.datasets import GENERATED
from common.errors import UserError
from common.models import Network
from common.training.checkpoints import apply_weights, load_checkpoint, model_weights
from edkd.engine.experiment import PAPER
from edkd.engine.node import Node

RELEASE = "https://github.com/megvii-research/mdistiller/releases/tag/checkpoints"
# data set -> where the published code has its teachers
PUBLISHED = {
    "cifar100": "download_ckpts/cifar_teachers/{name}_vanilla/ckpt_epoch_240.pth",
    "tiny_imagenet": "download_ckpts/tiny_imagenet_teachers/{name}_vanilla/ti_res18",
    "imagenet": "download_ckpts/imagenet_teachers/{name}.pth",
}
# ImageNet's teachers are torchvision's (its first set of weights), which it keeps in its own cache
TORCHVISION = {
    "ResNet18": "resnet18-f37072fd.pth",
    "ResNet34": "resnet34-b627a593.pth",
    "ResNet50": "resnet50-0676ba61.pth",
    "ResNet101": "resnet101-63fe2227.pth",
}
# the same word is another net in the MTKD-RL family
NOT_IN_MTKD_RL = ("MobileNetV2",)


@dataclasses.dataclass(frozen=True)
class TeacherFile:
    """A checkpoint found for a teacher.

    Attributes:
        path: of the file.
        origin: who made it, in words.
        trained_on: fingerprint of the data that it was trained on, where that is known.
    """

    path: Path
    origin: str
    trained_on: str | None = None

    def digest(self) -> str:
        """By which a record knows the teacher, wherever the file lies."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]


def training_command(name: str, dataset: str) -> str:
    """The command that trains a teacher here."""
    return f"python tools/train.py --cfg configs/{dataset}/vanilla.yaml DISTILLER.STUDENT {name}"


def teacher_names(cfg: Node) -> list[str]:
    """The configured teachers; none for `NONE`."""
    names = cfg.DISTILLER.TEACHER
    if cfg.DISTILLER.TYPE == "NONE":
        return []
    return names if isinstance(names, list) else [names]


def teacher_files(cfg: Node, data: Dataset) -> list[TeacherFile]:
    """The checkpoints of the configured teachers, in their order; an empty `TEACHER_CKPT` is looked for.

    A released one is none for a generated set, of which it knows nothing.

    Raises:
        UserError: one is missing, or there are not as many files as teachers.
    """
    names, given = teacher_names(cfg), cfg.DISTILLER.TEACHER_CKPT or ""
    files = given if isinstance(given, list) else [given] if given else [""] * len(names)
    if len(files) != len(names):
        raise UserError(f"DISTILLER.TEACHER_CKPT has {len(files)} files for the {len(names)} of DISTILLER.TEACHER")
    released = not data.content.startswith(GENERATED)
    return [_teacher_file(name, file, cfg, released) for name, file in zip(names, files, strict=True)]


def _teacher_file(name: str, given: str, cfg: Node, released: bool) -> TeacherFile:
    if not given:
        return find_teacher(name, cfg.DATASET.TYPE, Path(cfg.LOG.PREFIX), released=released)
    path = find_path(given, PAPER)
    if not path.is_file():
        raise UserError(f"DISTILLER.TEACHER_CKPT: no file {given} here, in {PAPER}/ or in the repository")
    return TeacherFile(path, "given")


def describe_teachers(files: list[TeacherFile]) -> dict | list[dict] | None:
    """What a run's record says about its teachers."""
    described = [{"path": str(file.path), "origin": file.origin} for file in files]
    return described if len(described) > 1 else next(iter(described), None)


def find_teacher(name: str, dataset: str, outputs: Path, *, released: bool = True) -> TeacherFile:
    """The checkpoint of a teacher.

    Args:
        name: published name.
        dataset: `DATASET.TYPE`.
        outputs: where runs are written; searched for finished `NONE` runs of that network, besides `edkd/output`.
        released: whether to take the published file, where it is.

    Raises:
        UserError: there is none; says where it was looked for, where to get it and how to train it.
    """
    published = PUBLISHED[dataset].format(name=name)
    if released and (path := find_path(published, PAPER)).is_file():
        return TeacherFile(path, "released with mdistiller")
    if found := _own_run(name, dataset, {outputs.resolve(), REPOSITORY / PAPER / "output"}):
        return found
    if dataset == "cifar100" and name not in NOT_IN_MTKD_RL:
        pattern = f"**/teachers/models/{glob.escape(name)}_{dataset}_*/{glob.escape(name)}_best.pth"
        if files := sorted((REPOSITORY / "mtkd_rl").glob(pattern)):
            return TeacherFile(files[0], "mtkd_rl/train_baseline.py")
    if dataset == "imagenet":
        cached = Path(torch.hub.get_dir(), "checkpoints", TORCHVISION.get(name, ""))
        if cached.is_file():
            return TeacherFile(cached, "torchvision")
        raise UserError(
            f"no trained teacher {name}: neither {published} nor {cached} exists; fetch torchvision's weights with "
            f"`python -c \"import torchvision; torchvision.models.{name.lower()}(weights='IMAGENET1K_V1')\"`, "
            "or give DISTILLER.TEACHER_CKPT FILE"
        )
    use = "" if released else ", for the real data alone"
    raise UserError(
        f"no trained teacher {name}: there is no {published} (published at {RELEASE}{use}) and no finished run "
        f"of it below {outputs}; train one with `{training_command(name, dataset)}` in edkd/, "
        "or give DISTILLER.TEACHER_CKPT FILE"
    )


def _own_run(name: str, dataset: str, places: set[Path]) -> TeacherFile | None:
    """The longest finished `NONE` run of a network, the better of equals; its last epoch, which no test set chose."""
    wanted = {"DISTILLER.TYPE": "NONE", "DISTILLER.STUDENT": name, "DATASET.TYPE": dataset}
    found = []
    for file in sorted(file for place in places for file in place.glob("**/run.json")):
        try:
            record = json.loads(file.read_text())
            settings, weights = record["settings"], file.with_name("student_latest")
            if record["status"] == "done" and wanted.items() <= settings.items() and weights.is_file():
                epochs, accuracy = record["budget"]["epochs"], record["accuracy"]["last"]
                found.append((epochs, accuracy, weights, settings["data"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a run's record
    if not found:
        return None
    epochs, accuracy, weights, data = max(found)
    return TeacherFile(weights, f"trained here for {epochs} epochs, test accuracy {accuracy:.2f}", data)


def load_network(network: Network, path: Path, name: str, dataset: str) -> dict:
    """Load a checkpoint file into a network; of a whole distiller's checkpoint, the student.

    Returns:
        The whole checkpoint.

    Raises:
        UserError: unreadable, or of another architecture or class count; names the command that trains a right one.
    """
    content = load_checkpoint(path)
    weights = model_weights(content, path)
    if any(key.startswith("student.") for key in weights):
        weights = {k.removeprefix("student."): v for k, v in weights.items() if k.startswith("student.")}
    try:
        apply_weights(network, weights, path, name)
    except UserError as error:
        raise UserError(f"{error}; a right one comes from `{training_command(name, dataset)}` in edkd/") from error
    return content
