"""What training and evaluation share: the experiment's directory, its data and its networks."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.command_line import REPOSITORY, find_path, nearest
from common.data import Augmentation, Batches, Dataset, Normalization, load_dataset
from common.data.flags import cut_validation, require_images
from common.errors import UserError
from common.models import Network, create_model
from common.models.registry import require_model
from common.training.runtime import Runtime
from tfkd.params import Params, read_params

PAPER = "tfkd"

# CIFAR-10, too, is normalised with CIFAR-100's statistics, as published.
CIFAR = (
    Normalization(
        mean=(0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        std=(0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
    Augmentation(padding=4, flip=True, rotation=15),
)
TINY_IMAGENET = (
    Normalization(mean=(0.4802, 0.4481, 0.3975), std=(0.2302, 0.2265, 0.2262)),
    Augmentation(flip=True, rotation=20),
)


def open_experiment(path: str) -> tuple[Path, Params]:
    """Directory and parameters of `--model_dir`.

    Raises:
        UserError: no such directory, or no valid params.json in it.
    """
    model_dir = find_path(path, PAPER)
    if not model_dir.is_dir():
        names = [
            str(file.parent.relative_to(REPOSITORY))
            for file in REPOSITORY.glob("experiments/*_experiments/**/params.json")
        ]
        hint = nearest(path.rstrip("/"), names, f"find {REPOSITORY / 'experiments'} -name params.json")
        raise UserError(
            f"no directory {path} here, in {PAPER}/ or in the repository: --model_dir must hold params.json; {hint}"
        )
    file = model_dir / "params.json"
    params = read_params(file)
    for name in (params.student, *([params.teacher] if params.has_teacher else [])):
        try:
            require_model(name, PAPER)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
    return model_dir, params


def load_data(args: argparse.Namespace, params: Params) -> Dataset:
    """The data set of `params`, below `--data-dir`."""
    root = find_path(args.data_dir, PAPER)
    return load_dataset(params.dataset, root, download=not args.no_download, image_size=args.image_size)


def preparation(dataset: str) -> tuple[Normalization, Augmentation]:
    """Normalisation and training augmentation of a data set; those of CIFAR for all but Tiny-ImageNet."""
    return TINY_IMAGENET if dataset == "tiny_imagenet" else CIFAR


def class_count(num_class: int, data: Dataset) -> int:
    """Width of the classifier: `--num_class`, whose published default of 100 stands for the data set's own number.

    Raises:
        UserError: fewer than the data set has.
    """
    if num_class == 100:
        return data.num_classes
    if num_class < data.num_classes:
        raise UserError(f"--num_class {num_class} is too few: {data.name} has {data.num_classes} classes")
    return num_class


def build_network(name: str, params: Params, file: Path, num_classes: int) -> Network:
    """A network of the Tf-KD family with the options that `params` (read from `file`) gives it.

    Raises:
        UserError: a key is missing that the architecture needs.
    """
    options = {}
    if name == "cnn":
        channels, dropout = params.require(file, "the network 'cnn'", "num_channels", "dropout_rate")
        options = {"num_channels": channels, "dropout_rate": dropout}
    return create_model(name, num_classes, family=PAPER, **options)


def make_batches(args: argparse.Namespace, params: Params, data: Dataset, runtime: Runtime) -> dict[str, Batches]:
    """Batches of the training, test and (with --val-fraction) validation part."""
    normalization, augmentation = preparation(params.dataset)
    train = data.train if params.subset_percent == 1 else data.train.split(params.subset_percent)[1]
    train, validation = cut_validation(train, args.val_fraction)
    where = {"device": runtime.device, "rank": runtime.rank, "world_size": runtime.world_size}
    evaluation = {**where, "limit": args.limit_eval_batches}
    batches = {
        "train": Batches(
            train,
            params.batch_size,
            normalization,
            augmentation=augmentation if params.augmentation == "yes" else None,
            shuffle=True,
            seed=args.seed,
            limit=args.limit_train_batches,
            **where,
        ),
        "test": Batches(data.test, params.batch_size, normalization, **evaluation),
    }
    if validation is not None:
        batches["validation"] = Batches(validation, params.batch_size, normalization, **evaluation)
    require_images(batches)
    return batches
