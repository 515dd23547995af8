"""Teachers: any network of timm's, from a checkpoint, checked against the data before training begins."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import timm
from torch import nn

from common.command_line import nearest, resolve_path
from common.data import Normalization
from common.errors import UserError, first_line, is_out_of_memory
from common.models.network import require_takes
from common.run_record import read_record
from common.training.teachers import TeacherCheckpoint

PAPER = "mlkd"
SUFFIXES = (".pth", ".pt", ".tar")  # of checkpoints


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """What a network is given.

    Attributes:
        size: of the images, in pixels.
        classes: K.
        normalization: of the images.
        flags: of the scripts here, that give a network the same.
    """

    size: int
    classes: int
    normalization: Normalization
    flags: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A loaded network.

    Attributes:
        checkpoint: its file.
        network: with the weights of that.
        messages: what a person should know about it.
    """

    checkpoint: TeacherCheckpoint
    network: nn.Module
    messages: tuple[str, ...]


def is_architecture(name: str) -> bool:
    """Whether timm knows a network of that name; tags (`resnet18.a1_in1k`) and names since changed count."""
    return "/" not in name and timm.is_model(name)


def require_architecture(name: str) -> None:
    """Raises:
    UserError: timm knows no network of that name.
    """
    if not is_architecture(name):
        hint = nearest(name, timm.list_models(), "python -c 'import timm; print(*timm.list_models())'")
        raise UserError(f"timm {timm.__version__} has no model '{name}': {hint}")


def create_network(name: str, given: InputSpec, *, pretrained: bool = False) -> nn.Module:
    """A network of timm's for these images.

    Args:
        name: timm's, today's or a former one, with or without a tag.
        given: what it will be given.
        pretrained: with timm's weights, which are fetched unless they are in its cache.

    Raises:
        UserError: unknown name, weights that cannot be had, or a network that does not take such images.
    """
    require_architecture(name)
    if pretrained:
        print(f"fetching timm's weights of {name} unless they are in its cache", flush=True)
    try:
        with _quiet():
            network = timm.create_model(name, pretrained=pretrained, num_classes=given.classes)
    except Exception as error:  # whatever timm, a network or what it fetches weights with may raise
        if is_out_of_memory(error):
            raise
        if not pretrained:
            raise UserError(f"timm cannot build {name} for {given.classes} classes ({first_line(error)})") from error
        raise UserError(
            f"the pretrained weights of {name} could not be had from timm ({first_line(error)}): go online, put them "
            "into its cache, or train from scratch with --no-pretrained"
        ) from error
    require_takes(network, name, given.size, given.size, given.classes)
    return network.eval()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within it, nothing is said of names since changed, nor of attempts to fetch weights: their outcome is enough."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        logger.setLevel(before)


def load_teachers(wanted: Sequence[tuple[str, str]], given: InputSpec) -> list[Teacher]:
    """Teachers with the weights of their checkpoints.

    Args:
        wanted: of each teacher timm's name and its checkpoint, as `find_checkpoint` takes it.
        given: what they will be given.

    Raises:
        UserError: unknown names; absent checkpoints, all of them with the commands that make them; weights of another
            architecture or number of classes; a network that does not take such images.
    """
    for name, _ in wanted:
        require_architecture(name)
    found, missing = [], []
    for name, written in wanted:
        path = find_checkpoint(written)
        if path is None:
            missing.append((name, written))
        else:
            found.append((name, path))
    if missing:
        raise UserError(_how_to_make(missing, given))
    return [_load_teacher(name, path, given) for name, path in found]


def find_checkpoint(written: str) -> Path | None:
    """The file of a checkpoint: a path, or the name by which `train_teacher.py -n` made `models/<name>.pth`.

    It is looked for in the working directory, in `mlkd/` and in the repository; None where it is in none of them.
    """
    places = (written,) if "/" in written else (written, f"models/{written}.pth", f"models/{written}")
    return next((path for place in places if os.path.isfile(path := resolve_path(place, PAPER))), None)


def _how_to_make(missing: Sequence[tuple[str, str]], given: InputSpec) -> str:
    """What to do about absent checkpoints, in one line."""
    absent = [written if is_path(written) else f"models/{written}.pth" for _, written in missing]
    commands = [f"`{_training_command(name, _stem(written), given)}`" for name, written in missing]
    made = [f"models/{_stem(written)}.pth" for _, written in missing]
    elsewhere = any("/" in written and written != file for (_, written), file in zip(missing, made, strict=True))
    s = "s" if len(missing) > 1 else ""
    of = "" if s else f" of {missing[0][0]}"
    return (
        f"no checkpoint{s} {', '.join(absent)}{of} here, in mlkd/ or in the repository: "
        f"{', '.join(commands)} in mlkd/ make{'' if s else 's'} {', '.join(made)}"
        f"{', which is to be given then' if elsewhere else ''}"
    )


def is_path(written: str) -> bool:
    """Whether a checkpoint is given as a path and not by a name."""
    return "/" in written or written.endswith(SUFFIXES)


def _stem(written: str) -> str:
    """The name for `train_teacher.py -n`."""
    return Path(written).stem if is_path(written) else written


def _training_command(model: str, name: str, given: InputSpec) -> str:
    return " ".join(["python3 train_teacher.py --model", model, *given.flags, "-n", name])


def _load_teacher(name: str, path: Path, given: InputSpec) -> Teacher:
    """A record of `train_teacher.py` lies in the directory that has its network's name."""
    network, file = create_network(name, given), path.resolve()
    record = read_record(file.with_suffix(""))
    command = f"`{_training_command(name, path.stem, given)}` in mlkd/"
    checkpoint = TeacherCheckpoint.of(name, file, command, record if record and record.done else None)
    checkpoint.load_into(network, called=f"{name} with {given.classes} classes")
    return Teacher(checkpoint, network, tuple(_messages(name, network, given)))


def _messages(name: str, network: nn.Module, given: InputSpec) -> list[str]:
    """A checkpoint does not say how its images were normalized; timm says how those of its own weights were."""
    config = getattr(network, "pretrained_cfg", {})
    mean, std = (tuple(config.get(key, ())) for key in ("mean", "std"))
    if (mean, std) == (given.normalization.mean, given.normalization.std):
        return []
    return [
        f"note: timm normalizes images for {name} by mean {mean} and std {std}; here it is "
        f"{given.normalization.mean} and {given.normalization.std}, as train_teacher.py does too"
    ]
