"""The data sets of this paper at 224 x 224 pixels: which there are, how they are split, cut and augmented."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import numpy as np
import torch

from common.command_line import find_path, natural, positive
from common.data import Batches, Dataset, ImageArrays, Normalization, load_dataset
from common.data.datasets import content_of
from common.data.flags import require_images
from common.data.image_folder import SUFFIXES, fingerprint
from common.data.large_images import CROP, RESIZED, ImageFiles, LargeImageBatches
from common.data.oxford_pets import load_oxford_pets
from common.errors import UserError
from common.training.runtime import Runtime
from mlkd.enlarged import EnlargedBatches
from mlkd.student import MULTIPLE
from mlkd.teachers import PAPER, Input

DATASETS = ("cifar-10", "cifar-100", "oxford-iiit", "dogs")
MISSPELT = "oxfird-iiit"  # as the published code writes it

PartBatches = EnlargedBatches | LargeImageBatches
"""Batches of one part of a data set."""

# Literals of the published code
NORMALIZATION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
JITTER = 0.4
VALIDATION_PART = 0.1
SEED = 53303  # of everything

DOGS = "dogs/*/<set>_<breed>_<image>_<group>.jpg"
GROUPS = {"0": "training", "1": "validation", "2": "test"}  # the parts of `dogs`


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Which data, in what batches, from where."""
    add = parser.add_argument
    add("-d", "--dataset", choices=(*DATASETS, MISSPELT), default="oxford-iiit", help="data set")
    add("-b", "--batch-size", type=positive, default=64, help="images a batch, in each process")
    group = parser.add_argument_group("data")
    group.add_argument("--data-dir", default="data", help="directory of data sets; absent ones are downloaded to it")
    group.add_argument("--no-download", action="store_true", help="never fetch an absent data set")
    group.add_argument("--image-size", type=_image_size, default=CROP, metavar="PIXELS", help="published: 224")
    group.add_argument("--workers", type=natural, default=4, help="processes that decode images (CIFAR needs none)")


def _image_size(text: str) -> int:
    """Type of a flag. Below two multiples the smallest maps are single pixels, which batch norm cannot train on."""
    size = positive(text)
    if size % MULTIPLE or size < 2 * MULTIPLE:
        raise argparse.ArgumentTypeError(f"{size} is not a multiple of {MULTIPLE} from {2 * MULTIPLE}")
    return size


def dataset_name(args: argparse.Namespace) -> str:
    """The data set asked for, rightly spelt."""
    return "oxford-iiit" if args.dataset == MISSPELT else args.dataset


def load_data(args: argparse.Namespace) -> Dataset:
    """The data set that the flags name.

    Raises:
        UserError: absent or damaged files.
    """
    root, name = find_path(args.data_dir, PAPER), dataset_name(args)
    if name == "oxford-iiit":
        return load_oxford_pets(root, download=not args.no_download)
    if name == "dogs":
        return load_dogs(root)
    return load_dataset(name.replace("-", ""), root, download=not args.no_download)


def load_dogs(root: Path) -> Dataset:
    """Images whose names tell breed and part: `root/dogs/*/<set>_<breed>_<image>_<group>.jpg`.

    The class is the breed, which may contain underscores; groups 0, 1 and 2 are the parts for training, validation and
    testing.

    Raises:
        UserError: absent, other names, a part without images, or a breed without training images.
    """
    folder = root / "dogs"
    parts: dict[str, list[tuple[Path, str]]] = {part: [] for part in GROUPS.values()}
    for file in sorted(f for f in folder.glob("*/*") if f.suffix.lower() in SUFFIXES):
        _, *breed, _, group = file.stem.split("_") if file.stem.count("_") >= 3 else ("", "", "")
        if not breed or group not in GROUPS:
            raise UserError(f"{file} is not named as in {root / DOGS}, with a group of {', '.join(GROUPS)}")
        parts[GROUPS[group]].append((file, "_".join(breed)))
    for group, part in GROUPS.items():
        if not parts[part]:
            which = f"{part} images (group {group})" if any(parts.values()) else "images"
            raise UserError(f"no {which} in {folder}: the data set dogs is {root / DOGS}")
    breeds = sorted({breed for _, breed in parts["training"]}, key=_as_number_or_name)
    numbers = {breed: number for number, breed in enumerate(breeds)}
    if extra := {breed for members in parts.values() for _, breed in members} - set(breeds):
        raise UserError(f"{folder} has no training images (group 0) of the breed {min(extra)}")
    train, validation, test = (
        ImageFiles(tuple(file for file, _ in members), np.array([numbers[breed] for _, breed in members]))
        for members in parts.values()
    )
    digest = fingerprint(folder, [*train.files, *validation.files, *test.files])
    content = content_of(folder, "images of one's own")
    return Dataset("dogs", train, test, tuple(breeds), content, digest, validation)


def _as_number_or_name(breed: str) -> tuple[bool, int, str]:
    """Breeds that are numbers come first and in their order."""
    return not breed.isdecimal(), int(breed) if breed.isdecimal() else 0, breed


def network_input(args: argparse.Namespace, data: Dataset) -> Input:
    """What networks are given of this data set."""
    flags = ["-d", dataset_name(args)]
    flags += ["--image-size", str(args.image_size)] if args.image_size != CROP else []
    flags += ["--data-dir", shlex.quote(args.data_dir)] if args.data_dir != "data" else []
    return Input(args.image_size, data.num_classes, NORMALIZATION, tuple(flags))


def train_and_validation(data: Dataset) -> tuple[ImageArrays | ImageFiles, ImageArrays | ImageFiles]:
    """The parts that are trained on and that choose the epoch: the data set's own, or two cut from its first."""
    return split(data.train) if data.validation is None else (data.train, data.validation)


def split(images: ImageArrays | ImageFiles) -> tuple[ImageArrays | ImageFiles, ImageArrays | ImageFiles]:
    """The published 90 % for training and 10 % for validation, the same for every network and script."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED)).numpy()
    held_out = round(VALIDATION_PART * len(images))
    return images.take(np.sort(order[held_out:])), images.take(np.sort(order[:held_out]))


def make_batches(args: argparse.Namespace, data: Dataset, runtime: Runtime) -> dict[str, PartBatches]:
    """Batches of the training, validation and test part.

    Raises:
        UserError: too few images.
    """
    train, validation = train_and_validation(data)
    batches = {
        "train": part_batches(args, train, runtime, train=True),
        "validation": part_batches(args, validation, runtime),
        "test": part_batches(args, data.test, runtime),
    }
    require_images(batches, f": {data.name} has {len(data.train)} images")
    return batches


def part_batches(
    args: argparse.Namespace, images: ImageArrays | ImageFiles, runtime: Runtime, *, train: bool = False
) -> PartBatches:
    """Batches of one part, `--batch-size` images in each process; those for training are shuffled and augmented."""
    batch_size = args.batch_size * runtime.world_size
    where = {
        "rank": runtime.rank,
        "world_size": runtime.world_size,
        "limit": args.limit_train_batches if train else args.limit_eval_batches,
        "seed": args.seed,
    }
    if isinstance(images, ImageFiles):
        return LargeImageBatches(
            images,
            batch_size,
            NORMALIZATION,
            runtime.device,
            train=train,
            size=args.image_size,
            interpolation="bicubic",
            jitter=JITTER,
            workers=args.workers,
            **where,
        )
    as_they_are = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    small = Batches(images, batch_size, as_they_are, runtime.device, shuffle=train, **where)
    resized = args.image_size * RESIZED // CROP
    return EnlargedBatches(small, args.image_size, resized, NORMALIZATION, jitter=JITTER, train=train)
