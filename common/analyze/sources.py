"""What a person names as a network, a checkpoint or a run's directory, as a network with its weights."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.analyze.analysis import Source
from common.command_line import LARGEST_COUNT, REPOSITORY
from common.data import Dataset, DeviceLoader, ImageArrays, Normalization
from common.data.flags import check_nonempty, split_validation
from common.data.normalizations import normalization_of
from common.errors import UserError
from common.models import create_model
from common.models.registry import FAMILIES, require_model
from common.run_record import NAME, RunRecord, require_record
from common.training.checkpoints import apply_weights, load_checkpoint, model_weights

# Papers as data: whose networks they train, and what their scripts call a run's checkpoints
FAMILY_OF = {"tfkd": "tfkd", "mtkd_rl": "mtkd_rl", "edkd": "mdistiller"}
PREFIX_OF = {"tiny_imagenet": "tinyimagenet_"}  # of mdistiller's networks for a dataset
FILES = {
    "tfkd": {"best": ("best.pth.tar",), "last": ("last.pth.tar",)},
    "edkd": {"best": ("student_best", "best"), "last": ("student_latest", "latest")},
    "mtkd_rl": {"best": ("{}_best.pth.tar", "{}_best.pth"), "last": ("{}.pth.tar", "{}_last.pth")},
}
# of the network `cnn`, from a run's settings: type, least and largest
OPTIONS = {"num_channels": (int, 1, LARGEST_COUNT), "dropout_rate": ((int, float), 0, 1)}
STUDENT = "student."  # begins the names of a student's weights in checkpoints of whole distillers


@dataclasses.dataclass(frozen=True)
class FamilySource(Source):
    """A network of one of the families.

    Attributes:
        normalization: of its images.
    """

    normalization: Normalization = dataclasses.field(kw_only=True)


@dataclasses.dataclass(frozen=True)
class ImagesInMemory:
    """How networks of the families see a dataset.

    Attributes:
        data: the dataset.
        batch_size: images at a time.
        device: that they are computed on.
    """

    data: Dataset[ImageArrays]
    batch_size: int
    device: torch.device

    def batches(self, images: ImageArrays, source: FamilySource) -> DeviceLoader:
        return DeviceLoader(images, self.batch_size, source.normalization, self.device)

    def parts(self, source: FamilySource) -> tuple[ImageArrays, ImageArrays | None]:
        """Its run says how much of the training split was cut off for validation.

        Raises:
            UserError: it says what no run can have done.
        """
        fraction = source.record.settings.get("val_fraction", 0.0) if source.record else 0.0
        if type(fraction) not in (int, float):
            raise UserError(f"the record of {source.label} has val_fraction = {fraction!r:.40}, which is no number")
        train, validation = split_validation(self.data.train, fraction)
        parts = {"training": train, **({"validation": validation} if validation is not None else {})}
        check_nonempty(parts, f", by val_fraction = {fraction:g} in the record of {source.label}")
        return train, validation


def open_source(text: str, data: Dataset, epoch: str) -> FamilySource:
    """The network that `text` names.

    Args:
        text: a run's directory, a checkpoint file, or FAMILY/NETWORK:FILE where the weights leave the network open.
        data: that it is to be evaluated on.
        epoch: "best" or "last", of a run.

    Raises:
        UserError: nothing there, weights of no network known, of another class count, or a run on another dataset.
    """
    named, path = _parse(text)
    if path.is_dir() or path.name == NAME:
        return _from_run(path if path.is_dir() else path.parent, data, epoch)
    weights = student_weights(path)
    family, name = named or identify(weights, data.num_classes, path)
    network = create_model(name, data.num_classes, family=family)
    apply_weights(network, weights, path, f"{name} with {data.num_classes} classes")
    label = f"{name} ({path.name})"
    return FamilySource(label, network.eval(), normalization=normalization_of(family, data.name))


def require_family(record: RunRecord, directory: Path | str) -> None:
    """Raises:
    UserError: a run of a paper whose networks are of none of the families.
    """
    if record.paper not in FAMILY_OF:
        script = REPOSITORY / record.paper / "analyze.py"
        way = f"`python3 {script} {directory}` analyzes it" if script.is_file() else "its run.json has its analysis"
        raise UserError(f"{directory} is a run of {record.paper}, whose networks are of none of the families: {way}")


def _parse(text: str) -> tuple[tuple[str, str] | None, Path]:
    """Family and name of the network, where they are given, and the path."""
    head, separator, rest = text.partition(":")
    family, slash, name = head.partition("/")
    if separator and slash and family in FAMILIES and not os.path.exists(text):
        require_model(name, family)
        return (family, name), Path(rest)
    if not os.path.exists(text):
        raise UserError(f"no checkpoint and no run {text}")
    return None, Path(text)


def student_weights(path: Path) -> Mapping[str, Tensor]:
    """The weights in a checkpoint; of a whole distiller's, its student's."""
    weights = model_weights(load_checkpoint(path), path)
    own = {key.removeprefix(STUDENT): value for key, value in weights.items() if key.startswith(STUDENT)}
    return own or weights


def _from_run(directory: Path, data: Dataset, epoch: str) -> FamilySource:
    record = require_record(directory)
    require_family(record, directory)
    trained_on = record.data.get("name")
    if trained_on != data.name or record.data.get("classes", data.num_classes) != data.num_classes:
        raise UserError(f"{directory} was trained on {trained_on}, not on {data.name}: give --dataset {trained_on}")
    name, family = record.student or "", FAMILY_OF[record.paper]
    if record.paper == "edkd":
        name = PREFIX_OF.get(data.name, "") + name
    options = _options(record, directory) if name == "cnn" else {}
    names = [file.format(record.student) for file in FILES[record.paper][epoch]]
    path = next((path for file in names if (path := directory / file).is_file()), None)
    if path is None:
        raise UserError(f"{directory} has no weights of its {epoch} epoch ({' or '.join(names)}): were they deleted?")
    weights = student_weights(path)
    if options:
        with torch.device("meta"):  # of any width, without memory for it
            shapes = _shapes(create_model(name, data.num_classes, family=family, **options).state_dict())
        if shapes != _shapes(weights):
            said = " and ".join(f"{key} = {value}" for key, value in options.items())
            raise UserError(f"{path} does not fit {name} with {data.num_classes} classes, {said}, as {NAME} says it is")
    network = create_model(name, data.num_classes, family=family, **options)
    apply_weights(network, weights, path, f"{name} with {data.num_classes} classes")
    label = f"{record.experiment}, seed {record.seed}, {epoch} epoch"
    return FamilySource(label, network.eval(), record, normalization=normalization_of(family, data.name))


def _options(record: RunRecord, directory: Path) -> dict[str, Any]:
    """What the network `cnn` of a run takes.

    Raises:
        UserError: of another type or size than any run has.
    """
    options = {key: record.settings[key] for key in OPTIONS if key in record.settings}
    for key, value in options.items():
        kind, least, largest = OPTIONS[key]
        if not isinstance(value, kind) or isinstance(value, bool) or not least <= value <= largest:
            raise UserError(
                f"{directory / NAME} has {key} = {value!r:.40}: a number from {least} to {largest} is right"
            )
    return options


def identify(weights: Mapping[str, Tensor], classes: int, path: Path) -> tuple[str, str]:
    """Family and name of the network that weights belong to, by their names and shapes.

    Raises:
        UserError: no network has such weights, several differ that have, or they are for another number of classes.
    """
    shapes = _shapes(weights)
    found, otherwise = [], []
    for kind, name in _candidates():
        own = _shapes_of(kind, name, classes)
        if own == shapes:
            found.append((kind, name))
        elif own.keys() == shapes.keys():
            unlike = {own[key][:1] + shapes[key][:1] for key in own if own[key] != shapes[key]}
            if len(unlike) == 1 and next(iter(unlike))[0] == classes:  # the classifier alone differs
                otherwise.append((name, next(iter(unlike))[1]))
    if len({_computes(kind, name) for kind, name in found}) > 1:
        names = " or ".join(f"{kind}/{name}:{path}" for kind, name in found)
        raise UserError(f"{path} fits several networks: say which one, {names}")
    if found:
        return found[0]
    if otherwise:
        name, other = otherwise[0]
        raise UserError(f"{path} holds {name} for {other} classes; the dataset has {classes}: give its own --dataset")
    raise UserError(
        f"{path} holds weights of no network of the families {', '.join(FAMILIES)} "
        "(`python -m common.models FAMILY` lists them)"
    )


def _candidates() -> list[tuple[str, str]]:
    """Of equal networks mdistiller's and MTKD-RL's names come first: they have the same normalization."""
    families = ("mdistiller", "mtkd_rl", "tfkd")
    return [(kind, name) for kind in families for name in FAMILIES[kind] if name != "cnn"]


@functools.cache
def _shapes_of(family: str, name: str, classes: int) -> dict[str, tuple[int, ...]]:
    """Of a network's weights, without numbers in them."""
    with torch.device("meta"):
        return _shapes(create_model(name, classes, family=family).state_dict())


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}


def _computes(family: str, name: str) -> Any:
    """What two networks with the same weights share where they give the same logits for the same file of images."""
    return "tfkd" if family == "tfkd" else "others", name.removeprefix("tinyimagenet_").removeprefix("imagenet_")
