"""The datasets of this paper at 224 x 224 pixels: which there are, how they are split, cut and augmented."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
from collections import Counter
from pathlib import Path

import numpy as np
import torch

from common.command_line import nonnegative_int, positive_int, resolve_path
from common.data import Dataset, DeviceLoader, ImageArrays, Normalization, load_dataset
from common.data.datasets import describe_provenance
from common.data.flags import (
    DATA_DIR,
    DataSource,
    add_directory_flag,
    add_skip_flag,
    check_nonempty,
    require_asked_for,
)
from common.data.image_files import CROP, RESIZED, ImageFileLoader, ImageFiles
from common.data.images import check_splits_nonempty, describe_ignored, fingerprint, list_images, without_bad
from common.data.oxford_pets import load_oxford_pets
from common.errors import UserError
from common.training.runtime import Runtime
from mlkd.student import MULTIPLE
from mlkd.teachers import PAPER, InputSpec
from mlkd.upscaled import UpscaledLoader

DATASETS = ("cifar-10", "cifar-100", "oxford-iiit", "dogs")
MISSPELLED = "oxfird-iiit"  # as the published code writes it

DatasetImages = ImageArrays | ImageFiles
"""Images of a dataset: CIFAR's in memory, those of all others in their files."""

SplitLoader = UpscaledLoader | ImageFileLoader
"""Batches of one split of a dataset."""

# Literals of the published code
NORMALIZATION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
JITTER = 0.4
VALIDATION_PART = 0.1
BATCH_SIZE = 64  # the default, of each rank
SEED = 53303  # of everything

DOGS = "dogs/*/<set>_<breed>_<image>_<group>.jpg"
GROUPS = {"0": "training", "1": "validation", "2": "test"}  # the parts of `dogs`


@dataclasses.dataclass(frozen=True)
class DataFlags(DataSource):
    """The values of `add_data_flags`.

    Attributes:
        dataset: as it was written.
        batch_size: images per batch on each rank.
        image_size: in pixels.
        workers: processes that decode.
    """

    dataset: str
    batch_size: int
    image_size: int
    workers: int

    @property
    def dataset_name(self) -> str:
        """The dataset asked for, rightly spelled."""
        return "oxford-iiit" if self.dataset == MISSPELLED else self.dataset


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Which data, in what batches, from where."""
    add = parser.add_argument
    add("-d", "--dataset", choices=(*DATASETS, MISSPELLED), default="oxford-iiit", help="dataset")
    add("-b", "--batch-size", type=positive_int, default=BATCH_SIZE, help="images per batch, on each rank")
    group = parser.add_argument_group("data")
    add_directory_flag(group)
    group.add_argument("--no-download", action="store_true", help="never fetch an absent dataset")
    add_skip_flag(group)
    group.add_argument("--image-size", type=image_size, default=CROP, metavar="PIXELS", help="published: 224")
    group.add_argument(
        "--workers", type=nonnegative_int, default=4, help="processes that decode images (CIFAR needs none)"
    )


def image_size(text: str) -> int:
    """Type of a flag. Below two multiples the last feature maps are single pixels, which batch norm cannot train on."""
    size = positive_int(text)
    if size % MULTIPLE or size < 2 * MULTIPLE:
        raise argparse.ArgumentTypeError(f"{size} is not a multiple of {MULTIPLE} from {2 * MULTIPLE}")
    return size


def load_data(flags: DataFlags) -> Dataset:
    """The dataset that the flags name.

    Raises:
        UserError: absent or damaged files.
    """
    return require_asked_for(_load_data(flags, resolve_path(flags.data_dir, PAPER)), flags.data_dir, PAPER)


def _load_data(flags: DataFlags, root: Path) -> Dataset:
    name = flags.dataset_name
    if name == "oxford-iiit":
        return load_oxford_pets(root, download=not flags.no_download, skip_bad=flags.skip_bad_images)
    if name == "dogs":
        return load_dogs(root, skip_bad=flags.skip_bad_images)
    return load_dataset(name.replace("-", ""), root, download=not flags.no_download)


def load_dogs(root: Path, *, skip_bad: bool = False) -> Dataset:
    """Images whose names tell breed and part: `root/dogs/*/<set>_<breed>_<image>_<group>.jpg`.

    The class is the breed, which may contain underscores; groups 0, 1 and 2 are the parts for training, validation and
    testing.

    Raises:
        UserError: absent, other names, a part without images, or a breed without training images.
    """
    folder, ignored = root / "dogs", Counter()
    parts: dict[str, list[tuple[Path, str]]] = {part: [] for part in GROUPS.values()}
    for file in list_images(folder, ignored):
        _, *breed, _, group = file.stem.split("_") if file.stem.count("_") >= 3 else ("", "", "")
        if not breed or group not in GROUPS:
            raise UserError(f"{file} is not named as in {root / DOGS}, with a group of {', '.join(GROUPS)}")
        parts[GROUPS[group]].append((file, "_".join(breed)))
    for group, part in GROUPS.items():
        if not parts[part]:
            which = f"{part} images (group {group})" if any(parts.values()) else "images"
            raise UserError(f"no {which} in {folder}: the dataset dogs is {root / DOGS}")
    breeds = sorted({breed for _, breed in parts["training"]}, key=_as_number_or_name)
    numbers = {breed: number for number, breed in enumerate(breeds)}
    if extra := {breed for members in parts.values() for _, breed in members} - set(breeds):
        raise UserError(f"{folder} has no training images (group 0) of the breed {min(extra)}")
    members = [[(file, numbers[breed]) for file, breed in part] for part in parts.values()]
    members, skipped = without_bad(root, "dogs", members, skip=skip_bad)
    check_splits_nonempty(folder, breeds, members, tuple(parts))
    train, validation, test = map(ImageFiles.of, members)
    digest, messages = fingerprint(root, "dogs", members), (*describe_ignored(folder, ignored), *skipped)
    content = describe_provenance(folder, "images of one's own")
    return Dataset("dogs", train, test, tuple(breeds), content, digest, validation, messages=messages)


def _as_number_or_name(breed: str) -> tuple[bool, int, str]:
    """Breeds that are numbers come first and in their order."""
    is_number = breed.isdecimal() and len(breed) < 20
    return not is_number, int(breed) if is_number else 0, breed


def network_input(flags: DataFlags, data: Dataset) -> InputSpec:
    """What networks are given of this dataset."""
    words = ["-d", flags.dataset_name]
    words += ["--image-size", str(flags.image_size)] if flags.image_size != CROP else []
    words += ["--data-dir", shlex.quote(flags.data_dir)] if flags.data_dir is not DATA_DIR else []
    return InputSpec(flags.image_size, data.num_classes, NORMALIZATION, tuple(words))


def train_and_validation(data: Dataset) -> tuple[DatasetImages, DatasetImages]:
    """The parts that are trained on and that choose the epoch: the dataset's own, or two cut from its first."""
    return split(data.train) if data.validation is None else (data.train, data.validation)


def split(images: DatasetImages) -> tuple[DatasetImages, DatasetImages]:
    """The published 90 % for training and 10 % for validation, the same for every network and script."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED)).numpy()
    held_out = round(VALIDATION_PART * len(images))
    return images.take(np.sort(order[held_out:])), images.take(np.sort(order[:held_out]))


def make_batches(flags: DataFlags, data: Dataset, runtime: Runtime) -> dict[str, SplitLoader]:
    """Batches of the training, validation and test split.

    Raises:
        UserError: too few images.
    """
    train, validation = train_and_validation(data)
    batches = {
        "train": part_batches(flags, train, runtime, train=True),
        "validation": part_batches(flags, validation, runtime),
    }
    if not data.is_test_withheld:
        batches["test"] = part_batches(flags, data.test, runtime)
    check_nonempty(batches, f": {data.name} has {len(data.train)} images")
    return batches


def part_batches(flags: DataFlags, images: DatasetImages, runtime: Runtime, *, train: bool = False) -> SplitLoader:
    """Batches of one split, `--batch-size` images on each rank; those for training are shuffled and augmented."""
    batch_size = flags.batch_size * runtime.world_size
    where = {
        "rank": runtime.rank,
        "world_size": runtime.world_size,
        "limit": runtime.limit_train_batches if train else runtime.limit_eval_batches,
        "seed": runtime.seed,
    }
    if isinstance(images, ImageFiles):
        return ImageFileLoader(
            images,
            batch_size,
            NORMALIZATION,
            runtime.device,
            train=train,
            size=flags.image_size,
            interpolation="bicubic",
            jitter=JITTER,
            workers=flags.workers,
            **where,
        )
    as_they_are = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    small = DeviceLoader(images, batch_size, as_they_are, runtime.device, shuffle=train, **where)
    resized = flags.image_size * RESIZED // CROP
    return UpscaledLoader(small, flags.image_size, resized, NORMALIZATION, jitter=JITTER, train=train)
