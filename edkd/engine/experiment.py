"""What training and evaluation share: data, networks, and where things are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from common.command_line import nearest, resolve_path
from common.data import (
    Augmentation,
    Dataset,
    DeviceLoader,
    ImageArrays,
    RandAugment,
    image_folder,
    load_dataset,
    normalizations,
)
from common.data.flags import DataSource, check_nonempty, require_asked_for, split_validation
from common.data.image_files import ImageFileLoader, ImageFiles, load_image_files, load_imagenet
from common.errors import UserError
from common.models import Network, create_model, list_models
from common.training.runtime import Runtime
from edkd.engine.node import Node

PAPER = "edkd"

CIFAR100 = (normalizations.CIFAR100, Augmentation(padding=4, flip=True))
TINY_IMAGENET = (normalizations.TINY_IMAGENET, Augmentation(flip=True, rotation=20))
# sets that live on the training device; ImageNet is decoded by worker processes
TRANSFORMS = {"cifar100": CIFAR100, "tiny_imagenet": TINY_IMAGENET}
# DATASET.TYPE -> prefix of its networks in the registry
PREFIXES = {"cifar100": "", "tiny_imagenet": "tinyimagenet_", "imagenet": "imagenet_"}
# SOLVER.TRAINER: those that hand out a weak and a strong view of each image, under the names that forks have for them
PAIRED = ("ours", "aug", "base_aug", "crd_aug")
INPUT_SIZES = {"cifar100": 32, "tiny_imagenet": 64, "imagenet": 224}


def treated_as(dataset: str, image_size: int) -> str:
    """The published dataset whose networks, statistics and augmentation a dataset gets: itself, or that of its size.

    Args:
        dataset: `DATASET.TYPE`.
        image_size: `DATASET.IMAGE_SIZE`, for image folders of one's own.

    Raises:
        UserError: a size for which there are no networks.
    """
    if dataset in INPUT_SIZES:
        return dataset
    by_size = {size: name for name, size in INPUT_SIZES.items()}
    if image_size not in by_size:
        raise UserError(f"DATASET.IMAGE_SIZE is {image_size}: there are networks for {', '.join(map(str, by_size))}")
    return by_size[image_size]


def model_names(dataset: str) -> list[str]:
    """Published names of a dataset's networks.

    Raises:
        UserError: unknown dataset.
    """
    if dataset not in PREFIXES:
        raise UserError(f"unknown dataset '{dataset}': one of {', '.join(PREFIXES)}")
    prefix = PREFIXES[dataset]
    names = list_models("mdistiller")
    if prefix:
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return [name for name in names if not name.startswith(("imagenet_", "tinyimagenet_"))]


def require_network(name: str, dataset: str, key: str) -> None:
    """A wrong name is said before any data are read.

    Args:
        name: published name.
        dataset: `DATASET.TYPE`.
        key: where the name stands, for the message.

    Raises:
        UserError: unknown name; the nearest are offered.
    """
    names = model_names(dataset)
    if not name:
        raise UserError(f"{key} is empty: name a network, one of {', '.join(names)}")
    if name not in names:
        hint = nearest(name, names, "python -m common.models mdistiller")
        raise UserError(f"{key}: no network '{name}' for {dataset}: {hint}")


def build_network(name: str, dataset: str, num_classes: int, key: str) -> Network:
    """A network of the mdistiller family for a dataset.

    Args:
        name, dataset, key: as `require_network` takes them.
        num_classes: width of the classifier.

    Raises:
        UserError: unknown name.
    """
    require_network(name, dataset, key)
    return create_model(PREFIXES[dataset] + name, num_classes, family="mdistiller")


def load_data(source: DataSource, dataset: str, image_size: int = INPUT_SIZES["cifar100"]) -> Dataset:
    """A dataset of this framework, or an image folder of one's own, below the source or where its path says.

    Raises:
        UserError: unknown name, absent or damaged files.
    """
    root = resolve_path(source.data_dir, PAPER)
    if dataset not in PREFIXES:
        place = next((p for p in (root / dataset, resolve_path(dataset, PAPER)) if (p / "train").is_dir()), None)
        if place is None:
            raise UserError(
                f"unknown dataset '{dataset}': one of {', '.join(PREFIXES)}, or an image folder with train/<class>/ "
                "and val/<class>/, by its path or its name below --data-dir"
            )
        place, skip = Path(os.path.abspath(place)), source.skip_bad_images
        if treated_as(dataset, image_size) == "imagenet":
            return load_image_files(place.name, place.parent, skip_bad=skip)
        return image_folder.load(place.name, place.parent, image_size, skip_bad=skip)
    if dataset == "imagenet":
        data = load_imagenet(root, skip_bad=source.skip_bad_images)
    else:
        data = load_dataset(dataset, root, download=not source.no_download, skip_bad=source.skip_bad_images)
    return require_asked_for(data, source.data_dir, PAPER)


def evaluation_batches(
    dataset: str,
    images: ImageArrays | ImageFiles,
    runtime: Runtime,
    *,
    batch_size: int,
    workers: int,
) -> DeviceLoader | ImageFileLoader:
    """Batches for evaluation.

    Args:
        dataset: `DATASET.TYPE`.
        images: the part to evaluate on.
        runtime: where.
        batch_size: images per batch.
        workers: processes that decode large images.
    """
    where = {"rank": runtime.rank, "world_size": runtime.world_size, "limit": runtime.limit_eval_batches}
    if isinstance(images, ImageFiles):
        return ImageFileLoader(images, batch_size, normalizations.IMAGENET, runtime.device, workers=workers, **where)
    normalization, _ = TRANSFORMS[dataset]
    return DeviceLoader(images, batch_size, normalization, runtime.device, **where)


def training_batches(cfg: Node, images: ImageArrays | ImageFiles, runtime: Runtime) -> DeviceLoader | ImageFileLoader:
    """Shuffled, augmented batches."""
    size, dataset = cfg.SOLVER.BATCH_SIZE, treated_as(cfg.DATASET.TYPE, cfg.DATASET.IMAGE_SIZE)
    where = {"rank": runtime.rank, "world_size": runtime.world_size, "limit": runtime.limit_train_batches}
    if isinstance(images, ImageFiles):
        if cfg.SOLVER.TRAINER in PAIRED:
            raise UserError(f"SOLVER.TRAINER {cfg.SOLVER.TRAINER} needs a dataset in memory, which ImageNet is not")
        workers = cfg.DATASET.NUM_WORKERS
        options = {"train": True, "workers": workers, "seed": runtime.seed}
        return ImageFileLoader(images, size, normalizations.IMAGENET, runtime.device, **options, **where)
    normalization, augmentation = TRANSFORMS[dataset]
    strong = RandAugment() if cfg.SOLVER.TRAINER in PAIRED else None
    options = {"augmentation": augmentation, "shuffle": True, "seed": runtime.seed, "strong": strong}
    return DeviceLoader(images, size, normalization, runtime.device, **options, **where)


def make_batches(cfg: Node, data: Dataset, val_fraction: float, runtime: Runtime) -> dict[str, Any]:
    """Batches of the training, test and (where something is cut off for it) validation split."""
    train, validation = split_validation(data.train, val_fraction)
    dataset = treated_as(cfg.DATASET.TYPE, cfg.DATASET.IMAGE_SIZE)
    options = {"batch_size": cfg.DATASET.TEST.BATCH_SIZE, "workers": cfg.DATASET.NUM_WORKERS}
    batches = {"train": training_batches(cfg, train, runtime)}
    if not data.is_test_withheld:
        batches["test"] = evaluation_batches(dataset, data.test, runtime, **options)
    if validation is not None:
        batches["validation"] = evaluation_batches(dataset, validation, runtime, **options)
    check_nonempty(batches)
    return batches
