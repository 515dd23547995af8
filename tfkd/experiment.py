"""What training and evaluation share: the experiment's directory, its data and its networks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from common.command_line import REPOSITORY, nearest, resolve_path
from common.data import Augmentation, Dataset, DeviceLoader, Normalization, load_dataset, normalizations
from common.data.flags import DataSource, check_nonempty, require_asked_for, split_validation
from common.errors import UserError
from common.models import Network, create_model
from common.models.registry import require_model
from common.training.runtime import Runtime
from tfkd.params import Params, read_params

PAPER = "tfkd"

# CIFAR-10, too, is normalized with CIFAR-100's statistics, as published.
CIFAR = (normalizations.CIFAR100_TFKD, Augmentation(padding=4, flip=True, rotation=15))
TINY_IMAGENET = (normalizations.TINY_IMAGENET, Augmentation(flip=True, rotation=20))


def open_experiment(path: str) -> tuple[Path, Params]:
    """Directory and parameters of `--model_dir`.

    Raises:
        UserError: no such directory, or no valid params.json in it.
    """
    model_dir = resolve_path(path, PAPER)
    file = model_dir / "params.json"
    if not os.path.lexists(file):
        names = [
            str(file.parent.relative_to(REPOSITORY))
            for file in REPOSITORY.glob("experiments/*_experiments/**/params.json")
        ]
        hint = nearest(path.rstrip("/"), names, f"find {REPOSITORY / 'experiments'} -name params.json")
        absent = f"no directory {path} here, in {PAPER}/ or in the repository"
        problem = f"{model_dir} has no params.json" if model_dir.is_dir() else absent
        raise UserError(f"{problem}: --model_dir must hold params.json; {hint}")
    params = read_params(file)
    for name in (params.student, *([params.teacher] if params.has_teacher else [])):
        try:
            require_model(name, PAPER)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
    return model_dir, params


def load_data(source: DataSource, params: Params, image_size: int | None) -> Dataset:
    """The dataset of `params`; image folders are brought to `image_size` pixels."""
    root = resolve_path(source.data_dir, PAPER)
    options = {"image_size": image_size, "skip_bad": source.skip_bad_images}
    data = load_dataset(params.dataset, root, download=not source.no_download, **options)
    return require_asked_for(data, source.data_dir, PAPER)


def transforms_for(dataset: str) -> tuple[Normalization, Augmentation]:
    """Normalization and training augmentation of a dataset; those of CIFAR for all but Tiny-ImageNet."""
    return TINY_IMAGENET if dataset == "tiny_imagenet" else CIFAR


def resolve_num_classes(num_class: int, data: Dataset) -> int:
    """Width of the classifier: `--num_class`, whose published default of 100 stands for the dataset's own number.

    Raises:
        UserError: fewer than the dataset has.
    """
    if num_class == 100:
        return data.num_classes
    if num_class < data.num_classes:
        raise UserError(f"--num_class {num_class} is too few: {data.name} has {data.num_classes} classes")
    return num_class


def network_options(name: str, params: Params, file: Path) -> dict[str, Any]:
    """What `params` (read from `file`) says of a network besides its name.

    Raises:
        UserError: a key is missing that the architecture needs.
    """
    return params.require(file, "the network 'cnn'", "num_channels", "dropout_rate") if name == "cnn" else {}


def build_network(name: str, params: Params, file: Path, num_classes: int) -> Network:
    """A network of the Tf-KD family with the options that `params` (read from `file`) gives it.

    Raises:
        UserError: a key is missing that the architecture needs.
    """
    return create_model(name, num_classes, family=PAPER, **network_options(name, params, file))


def make_batches(params: Params, data: Dataset, val_fraction: float, runtime: Runtime) -> dict[str, DeviceLoader]:
    """Batches of the training, test and (where something is cut off for it) validation split."""
    normalization, augmentation = transforms_for(params.dataset)
    train = data.train if params.subset_percent == 1 else data.train.split(params.subset_percent)[1]
    train, validation = split_validation(train, val_fraction)
    where = {"device": runtime.device, "rank": runtime.rank, "world_size": runtime.world_size}
    evaluation = {**where, "limit": runtime.limit_eval_batches}
    batches = {
        "train": DeviceLoader(
            train,
            params.batch_size,
            normalization,
            augmentation=augmentation if params.augmentation == "yes" else None,
            shuffle=True,
            seed=runtime.seed,
            limit=runtime.limit_train_batches,
            **where,
        ),
    }
    if not data.is_test_withheld:
        batches["test"] = DeviceLoader(data.test, params.batch_size, normalization, **evaluation)
    if validation is not None:
        batches["validation"] = DeviceLoader(validation, params.batch_size, normalization, **evaluation)
    check_nonempty(batches)
    return batches
