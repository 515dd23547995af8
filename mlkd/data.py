"""The data sets of this paper at 224 x 224 pixels: which there are, how they are split, cut and augmented."""

from __future__ import annotations

import argparse
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

# Literals of the published code
NORMALIZATION = Normalization(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
JITTER = 0.4
VALIDATION_PART, SPLIT_SEED = 0.1, 53303


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Which data, in what batches, from where."""
    add = parser.add_argument
    add("-d", "--dataset", choices=(*DATASETS, MISSPELT), default="oxford-iiit", help="data set")
    add("-b", "--batch-size", type=positive, default=64, help="images a batch, over all processes")
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
    """Images whose file names begin with their class: `root/dogs/{train,test}/<class>_<anything>.jpg`.

    Raises:
        UserError: absent, or a class that only the test part has.
    """
    folder = root / "dogs"
    parts = {}
    for part in ("train", "test"):
        where = folder / part
        parts[part] = sorted(f for f in where.iterdir() if f.suffix.lower() in SUFFIXES) if where.is_dir() else []
        if not parts[part]:
            raise UserError(f"no images in {where}: the data set dogs is {folder}/{{train,test}}/<class>_<number>.jpg")
    classes = sorted({_class_of(file) for file in parts["train"]})
    if extra := {_class_of(file) for file in parts["test"]} - set(classes):
        raise UserError(f"{folder / 'test'} has a class that {folder / 'train'} lacks: {min(extra)}")
    numbers = {name: number for number, name in enumerate(classes)}
    train, test = (
        ImageFiles(tuple(files), np.array([numbers[_class_of(file)] for file in files])) for files in parts.values()
    )
    digest = fingerprint(folder, [*train.files, *test.files])
    return Dataset("dogs", train, test, tuple(classes), content_of(folder, "images of one's own"), digest)


def _class_of(file: Path) -> str:
    return file.stem.rpartition("_")[0] or file.stem


def network_input(args: argparse.Namespace, data: Dataset) -> Input:
    """What networks are given of this data set."""
    return Input(args.image_size, data.num_classes, NORMALIZATION)


def split(images: ImageArrays | ImageFiles) -> tuple[ImageArrays | ImageFiles, ImageArrays | ImageFiles]:
    """The published 90 % for training and 10 % for validation, the same for every network and script."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED)).numpy()
    held_out = round(VALIDATION_PART * len(images))
    return images.take(np.sort(order[held_out:])), images.take(np.sort(order[:held_out]))


def make_batches(
    args: argparse.Namespace, data: Dataset, runtime: Runtime
) -> dict[str, EnlargedBatches | LargeImageBatches]:
    """Batches of the training, validation and test part.

    Raises:
        UserError: too few images, or batches smaller than one image a process.
    """
    if args.batch_size < runtime.world_size:
        raise UserError(f"a batch of {args.batch_size} cannot be divided among {runtime.world_size} processes")
    train, validation = split(data.train)
    batches = {
        "train": part_batches(args, train, runtime, train=True),
        "validation": part_batches(args, validation, runtime),
        "test": part_batches(args, data.test, runtime),
    }
    require_images(batches, f": {data.name} has {len(data.train)} images")
    return batches


def part_batches(
    args: argparse.Namespace, images: ImageArrays | ImageFiles, runtime: Runtime, *, train: bool = False
) -> EnlargedBatches | LargeImageBatches:
    """Batches of one part; those for training are shuffled and augmented."""
    where = {
        "rank": runtime.rank,
        "world_size": runtime.world_size,
        "limit": args.limit_train_batches if train else args.limit_eval_batches,
        "seed": runtime.seed,
    }
    if isinstance(images, ImageFiles):
        return LargeImageBatches(
            images,
            args.batch_size,
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
    small = Batches(images, args.batch_size, as_they_are, runtime.device, shuffle=train, **where)
    resized = args.image_size * RESIZED // CROP
    return EnlargedBatches(small, args.image_size, resized, NORMALIZATION, jitter=JITTER, train=train)
