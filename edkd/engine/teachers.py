"""Where trained teachers are looked for: the published files, runs made here, teachers of `mtkd_rl`."""

from __future__ import annotations

import glob
import shlex
from pathlib import Path

import torch

from common.command_line import REPOSITORY, resolve_path
from common.data import Dataset
from common.data.datasets import GENERATED
from common.errors import UserError
from common.run_record import find_records
from common.training.teachers import TeacherCheckpoint, run_beside
from edkd.engine.experiment import PAPER
from edkd.engine.node import Node
from edkd.engine.registry import distiller_class
from edkd.engine.signatures import takes_teacher

RELEASE = "https://github.com/megvii-research/mdistiller/releases/tag/checkpoints"
# dataset -> where the published code has its teachers
PUBLISHED = {
    "cifar100": "download_ckpts/cifar_teachers/{name}_vanilla/ckpt_epoch_240.pth",
    "tiny_imagenet": "download_ckpts/tiny_imagenet_teachers/{name}_vanilla/ti_res18",
    "imagenet": "download_ckpts/imagenet_teachers/{name}.pth",
}
# the origin of a file there: whose it is its place does not tell, its digest does
IN_PUBLISHED_PLACE = "in the place of mdistiller's released teachers"
# ImageNet's teachers are torchvision's (its first set of weights), which it keeps in its own cache
TORCHVISION = {
    "ResNet18": "resnet18-f37072fd.pth",
    "ResNet34": "resnet34-b627a593.pth",
    "ResNet50": "resnet50-0676ba61.pth",
    "ResNet101": "resnet101-63fe2227.pth",
}
# the same word is another net in the MTKD-RL family
NOT_IN_MTKD_RL = ("MobileNetV2",)


def training_command(name: str, dataset: str) -> str:
    """The command that trains a teacher here, and where to call it."""
    own = [] if dataset in PUBLISHED else ["DATASET.TYPE", shlex.quote(dataset)]
    words = ["--cfg", f"configs/{'cifar100' if own else dataset}/vanilla.yaml", *own, "DISTILLER.STUDENT", name]
    return f"`python tools/train.py {' '.join(words)}` in edkd/"


def teacher_names(cfg: Node) -> list[str]:
    """The configured teachers; none for `NONE`, and for distillers that take none."""
    names = cfg.DISTILLER.TEACHER
    if cfg.DISTILLER.TYPE == "NONE" or not takes_teacher(distiller_class(cfg.DISTILLER.TYPE)):
        return []
    return names if isinstance(names, list) else [names]


def given_files(cfg: Node) -> list[str]:
    """What `DISTILLER.TEACHER_CKPT` says for each of the configured teachers; an empty one is looked for.

    Raises:
        UserError: there are not as many files as teachers.
    """
    names, given = teacher_names(cfg), cfg.DISTILLER.TEACHER_CKPT or ""
    files = given if isinstance(given, list) else [given] if given else [""] * len(names)
    if files and not names:
        raise UserError(
            f"DISTILLER.TEACHER_CKPT is {given!r:.80}, but DISTILLER.TYPE {cfg.DISTILLER.TYPE} takes no teacher: leave "
            "the file out, or name a distiller that takes one"
        )
    if len(files) != len(names):
        raise UserError(
            f"DISTILLER.TEACHER_CKPT names {len(files)} for {len(names)} in DISTILLER.TEACHER ({', '.join(names)}): "
            "give a file for each, with commas between them"
        )
    return files


def teacher_files(cfg: Node, data: Dataset) -> list[TeacherCheckpoint]:
    """The checkpoints of the configured teachers, in their order.

    A released one is none for a synthetic dataset, of which it knows nothing.

    Raises:
        UserError: one is missing, or as of `given_files`.
    """
    released = not data.content.startswith(GENERATED)
    pairs = zip(teacher_names(cfg), given_files(cfg), strict=True)
    return [_teacher_file(name, file, cfg, released) for name, file in pairs]


def _teacher_file(name: str, given: str, cfg: Node, released: bool) -> TeacherCheckpoint:
    if not given:
        return find_teacher(name, cfg.DATASET.TYPE, Path(cfg.LOG.PREFIX), released=released)
    path = resolve_path(given, PAPER)
    if not path.is_file():
        raise UserError(f"DISTILLER.TEACHER_CKPT: no file {given} here, in {PAPER}/ or in the repository")
    return TeacherCheckpoint(name, path, training_command(name, cfg.DATASET.TYPE))


def find_teacher(
    name: str, dataset: str, outputs: Path, *, released: bool = True, given_by: str = "DISTILLER.TEACHER_CKPT FILE"
) -> TeacherCheckpoint:
    """The checkpoint of a teacher.

    Args:
        name: published name.
        dataset: `DATASET.TYPE`.
        outputs: where runs are written; searched for finished `NONE` runs of that network, besides `edkd/output`.
        released: whether to take the published file, where it is.
        given_by: how a file of one's own is named, for the error.

    Raises:
        UserError: there is none; says where it was looked for, where to get it and how to train it.
    """
    published, command = PUBLISHED.get(dataset, "").format(name=name), training_command(name, dataset)
    if dataset not in PUBLISHED:  # an image folder of one's own
        if found := _own_run(name, Path(dataset).name, {outputs.resolve(), REPOSITORY / PAPER / "output"}):
            return found
        raise UserError(
            f"no trained teacher {name}: there is no finished run of it on {dataset} below {outputs}; train one with "
            f"{command}, or give {given_by}"
        )
    if released and (path := resolve_path(published, PAPER)).is_file():
        return TeacherCheckpoint(name, path, command, IN_PUBLISHED_PLACE)
    if found := _own_run(name, dataset, {outputs.resolve(), REPOSITORY / PAPER / "output"}):
        return found
    if dataset == "cifar100" and name not in NOT_IN_MTKD_RL:
        pattern = f"**/teachers/models/{glob.escape(name)}_{dataset}_*/{glob.escape(name)}_best.pth"
        if files := sorted((REPOSITORY / "mtkd_rl").glob(pattern)):
            return TeacherCheckpoint.of(name, files[0], command, run_beside(files[0]))
    if dataset == "imagenet":
        cached = Path(torch.hub.get_dir(), "checkpoints", TORCHVISION.get(name, ""))
        if cached.is_file():
            return TeacherCheckpoint(name, cached, command, "torchvision")
        raise UserError(
            f"no trained teacher {name}: neither {published} nor {cached} exists; fetch torchvision's weights with "
            f"`python -c \"import torchvision; torchvision.models.{name.lower()}(weights='IMAGENET1K_V1')\"`, "
            f"or give {given_by}"
        )
    use = "" if released else ", for the real data alone"
    raise UserError(
        f"no trained teacher {name}: there is no {published} (published at {RELEASE}{use}) and no finished run "
        f"of it below {outputs}; train one with {command}, "
        f"or give {given_by}"
    )


def _own_run(name: str, dataset: str, places: set[Path]) -> TeacherCheckpoint | None:
    """The longest finished `NONE` run of a network, the better of equals; its last epoch, which no test set chose."""
    found = []
    for directory, record in (found for place in sorted(places) for found in find_records(place)):
        weights = directory / "student_latest"
        is_wanted = (record.method, record.student, record.data.get("name")) == ("NONE", name, dataset)
        if record.done and is_wanted and weights.is_file():
            accuracy = (record.accuracy or {}).get("last") or 0.0
            found.append((record.budget.get("epochs", 0), accuracy, str(weights), record))
    if not found:
        return None
    *_, weights, record = max(found, key=lambda one: one[:3])
    return TeacherCheckpoint.of(name, Path(weights), training_command(name, dataset), record, "last")
