"""What training and evaluation share: data, networks, and where things are."""

from __future__ import annotations

import argparse
from typing import Any

from common.command_line import find_path, nearest
from common.data import Augmentation, Batches, Dataset, ImageArrays, Normalization, RandAugment, load_dataset
from common.data.flags import cut_validation, require_images
from common.data.large_images import ImageFiles, LargeImageBatches, load_imagenet
from common.errors import UserError
from common.models import Network, create_model, list_models
from common.training.runtime import Runtime
from edkd.engine.node import Node

PAPER = "edkd"

CIFAR100 = (
    Normalization(mean=(0.5071, 0.4867, 0.4408), std=(0.2675, 0.2565, 0.2761)),
    Augmentation(padding=4, flip=True),
)
TINY_IMAGENET = (
    Normalization(mean=(0.4802, 0.4481, 0.3975), std=(0.2302, 0.2265, 0.2262)),
    Augmentation(flip=True, rotation=20),
)
IMAGENET = Normalization(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
# sets that live on the training device; ImageNet is decoded by worker processes
PREPARATION = {"cifar100": CIFAR100, "tiny_imagenet": TINY_IMAGENET}
# DATASET.TYPE -> prefix of its networks in the registry
PREFIXES = {"cifar100": "", "tiny_imagenet": "tinyimagenet_", "imagenet": "imagenet_"}
# SOLVER.TRAINER: those that hand out a weak and a strong view of each image, under the names that forks have for them
PAIRED = ("ours", "aug", "base_aug", "crd_aug")
INPUT_SIZES = {"cifar100": 32, "tiny_imagenet": 64, "imagenet": 224}


def model_names(dataset: str) -> list[str]:
    """Published names of a data set's networks.

    Raises:
        UserError: unknown data set.
    """
    if dataset not in PREFIXES:
        raise UserError(f"unknown data set '{dataset}': one of {', '.join(PREFIXES)}")
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
    """A network of the mdistiller family for a data set.

    Args:
        name, dataset, key: as `require_network` takes them.
        num_classes: width of the classifier.

    Raises:
        UserError: unknown name.
    """
    require_network(name, dataset, key)
    return create_model(PREFIXES[dataset] + name, num_classes, family="mdistiller")


def load_data(args: argparse.Namespace, dataset: str) -> Dataset:
    """A data set of this framework, below `--data-dir`.

    Raises:
        UserError: unknown name, absent or damaged files.
    """
    if dataset not in PREFIXES:
        raise UserError(f"unknown data set '{dataset}': one of {', '.join(PREFIXES)}")
    root = find_path(args.data_dir, PAPER)
    if dataset == "imagenet":
        return load_imagenet(root)
    return load_dataset(dataset, root, download=not args.no_download)


def evaluation_batches(
    args: argparse.Namespace,
    dataset: str,
    images: ImageArrays | ImageFiles,
    runtime: Runtime,
    *,
    batch_size: int,
    workers: int,
) -> Batches | LargeImageBatches:
    """Batches for evaluation.

    Args:
        args: flags.
        dataset: `DATASET.TYPE`.
        images: the part to evaluate on.
        runtime: where.
        batch_size: images a batch.
        workers: processes that decode large images.
    """
    where = {"rank": runtime.rank, "world_size": runtime.world_size, "limit": args.limit_eval_batches}
    if dataset == "imagenet":
        return LargeImageBatches(images, batch_size, IMAGENET, runtime.device, workers=workers, **where)
    normalization, _ = PREPARATION[dataset]
    return Batches(images, batch_size, normalization, runtime.device, **where)


def training_batches(
    args: argparse.Namespace, cfg: Node, images: ImageArrays | ImageFiles, runtime: Runtime
) -> Batches | LargeImageBatches:
    """Shuffled, augmented batches."""
    size, dataset = cfg.SOLVER.BATCH_SIZE, cfg.DATASET.TYPE
    where = {"rank": runtime.rank, "world_size": runtime.world_size, "limit": args.limit_train_batches}
    if dataset == "imagenet":
        if cfg.SOLVER.TRAINER in PAIRED:
            raise UserError(f"SOLVER.TRAINER {cfg.SOLVER.TRAINER} needs a data set in memory, which ImageNet is not")
        workers = cfg.DATASET.NUM_WORKERS
        options = {"train": True, "workers": workers, "seed": args.seed}
        return LargeImageBatches(images, size, IMAGENET, runtime.device, **options, **where)
    normalization, augmentation = PREPARATION[dataset]
    strong = RandAugment() if cfg.SOLVER.TRAINER in PAIRED else None
    options = {"augmentation": augmentation, "shuffle": True, "seed": args.seed, "strong": strong}
    return Batches(images, size, normalization, runtime.device, **options, **where)


def make_batches(args: argparse.Namespace, cfg: Node, data: Dataset, runtime: Runtime) -> dict[str, Any]:
    """Batches of the training, test and (with --val-fraction) validation part."""
    train, validation = cut_validation(data.train, args.val_fraction)
    options = {"batch_size": cfg.DATASET.TEST.BATCH_SIZE, "workers": cfg.DATASET.NUM_WORKERS}
    batches = {
        "train": training_batches(args, cfg, train, runtime),
        "test": evaluation_batches(args, cfg.DATASET.TYPE, data.test, runtime, **options),
    }
    if validation is not None:
        batches["validation"] = evaluation_batches(args, cfg.DATASET.TYPE, validation, runtime, **options)
    require_images(batches)
    return batches
