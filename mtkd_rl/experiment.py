"""What all scripts of this paper share: flags, data and networks."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.command_line import ArgumentParser, resolve_path
from common.data import Augmentation, Dataset, DeviceLoader, load_dataset
from common.data.flags import DataSource, add_data_flags, check_nonempty, require_asked_for, split_validation
from common.data.image_files import CROP, ImageFileLoader, load_image_files
from common.data.normalizations import CIFAR100, IMAGENET, TINY_IMAGENET
from common.errors import UserError
from common.models import Network, create_model
from common.models.registry import require_model
from common.training.launch import is_launched, launch_processes
from common.training.run_training import Budget
from common.training.runtime import Runtime, add_runtime_flags

PAPER = "mtkd_rl"
PUBLISHED_EPOCHS, PUBLISHED_BATCH_SIZE = 240, 64
MILESTONES = [150, 180, 210]  # epochs, from 0, that are the first at a tenth of the learning rate
GAMMA = 0.1

# --dataset -> normalization and augmentation of the sets that live on the training device ...
SMALL_IMAGES = {
    "cifar100": (CIFAR100, Augmentation(padding=4, flip=True)),
    "tinyimagenet": (TINY_IMAGENET, Augmentation(padding=4, flip=True)),
}
# ... and the sets that worker processes decode
LARGE_IMAGES = ("imagenet", "dogs", "cub_200_2011", "mit67")
DATASETS = ("cifar100", "imagenet", "tinyimagenet", "dogs", "cub_200_2011", "mit67")


def make_parser(description: str | None) -> ArgumentParser:
    """A parser with the flags that every script here has; a script's own definition of one takes its place."""
    parser = ArgumentParser(description=description, conflict_handler="resolve")
    add_data_flags(parser)
    add_runtime_flags(parser)
    return parser


def add_flags_without_effect(parser: ArgumentParser, flags: dict[tuple[str, ...], dict[str, Any]]) -> None:
    """Published flags that the published scripts read and ignore."""
    for names, options in flags.items():
        parser.add_argument(*names, **{"help": "no effect, as published", **options})


def in_proportion(milestones: list[int], epochs: int) -> Sequence[float]:
    """The published milestones in proportion to the epochs; others as given."""
    return [m * epochs / PUBLISHED_EPOCHS for m in milestones] if milestones is MILESTONES else milestones


@dataclasses.dataclass(frozen=True)
class Processes:
    """What flags say of the processes of a run, under their names."""

    device: str
    multiprocessing_distributed: bool
    dist_url: str
    check_settings: bool


def start_processes(flags: Processes, default_url: str, nodes: int = 1, node: int = 0) -> None:
    """Start one process a GPU with `--multiprocessing-distributed`, else one a machine; returns where one is enough.

    Args:
        flags: about processes.
        default_url: of `--dist-url`; on one machine it stands for a free port.
        nodes, node: machines, and which of them this one is.

    Raises:
        UserError: machines that cannot meet.
    """
    several = flags.multiprocessing_distributed and flags.device in ("auto", "cuda")
    devices = max(1, torch.cuda.device_count()) if several else 1
    if is_launched():
        return
    if not 0 <= node < nodes:
        raise UserError(f"--rank {node} must be from 0 to {nodes - 1}: it numbers the machines of --world-size {nodes}")
    if devices * nodes == 1:
        return
    scheme, _, place = flags.dist_url.partition("://")
    host, _, port = place.rpartition(":")
    if scheme != "tcp" or not host or not (port.isdecimal() and int(port[:9]) < 1 << 16):
        raise UserError(f"--dist-url {flags.dist_url} must be tcp://HOST:PORT")
    if nodes > 1 and flags.dist_url == default_url:
        raise UserError("--world-size beyond 1 needs --dist-url tcp://HOST:PORT of the machine with --rank 0")
    master = None if flags.dist_url == default_url else (host, int(port))
    if master:
        try:
            socket.getaddrinfo(*master)
        except OSError as error:  # nobody would wait there, and the others would for minutes
            raise UserError(f"--dist-url {flags.dist_url}: no such machine ({error.strerror})") from error
    if not flags.check_settings:
        launch_processes(devices, master=master, first_rank=node * devices, world_size=nodes * devices)


@dataclasses.dataclass(frozen=True)
class DataFlags(DataSource):
    """What flags say of the data, under their names."""

    dataset: str
    image_size: int | None
    batch_size: int
    val_fraction: float

    @property
    def is_large(self) -> bool:
        """Whether worker processes decode the images."""
        return self.dataset in LARGE_IMAGES


@dataclasses.dataclass(frozen=True)
class RunFlags(DataFlags):
    """What flags of all scripts say of a run, under their names."""

    epochs: int
    weight_decay: float
    checkpoint_dir: str
    trial: str
    no_test: bool
    check_settings: bool


def load_data(flags: DataFlags, given: str | None) -> Dataset:
    """The dataset `--dataset`.

    Args:
        flags: about data.
        given: directory of datasets by the published flag; None for `--data-dir`.

    Raises:
        UserError: absent or damaged files.
    """
    place = flags.data_dir if given is None else given
    return require_asked_for(_load_data(flags, resolve_path(place, PAPER)), place, PAPER)


def _load_data(flags: DataFlags, root: Path) -> Dataset:
    if flags.is_large:
        return load_image_files(flags.dataset, root, skip_bad=flags.skip_bad_images)
    if flags.image_size is not None:
        raise UserError(f"--image-size is for {', '.join(LARGE_IMAGES)}; {flags.dataset} has a size of its own")
    name = "tiny_imagenet" if flags.dataset == "tinyimagenet" else flags.dataset
    return load_dataset(name, root, download=not flags.no_download, skip_bad=flags.skip_bad_images)


def image_size(flags: DataFlags, data: Dataset) -> int:
    """Height and width of the images that networks see."""
    return (flags.image_size or CROP) if flags.is_large else data.train.pixels.shape[1]


def require_networks(names: Iterable[str], flag: str) -> None:
    """Wrong names are said before any data are read.

    Raises:
        UserError: a name that the MTKD-RL family has not.
    """
    try:
        for name in names:
            require_model(name, "mtkd_rl")
    except UserError as error:
        raise UserError(f"{flag}: {error}") from error


def build_network(name: str, num_classes: int, flag: str) -> Network:
    """A network of the MTKD-RL family.

    Raises:
        UserError: unknown name.
    """
    require_networks([name], flag)
    return create_model(name, num_classes, family="mtkd_rl")


def make_batches(flags: DataFlags, data: Dataset, workers: int, runtime: Runtime) -> dict[str, Any]:
    """Batches of the training, test and (with --val-fraction) validation split."""
    train, validation = split_validation(data.train, flags.val_fraction)
    where = {"device": runtime.device, "rank": runtime.rank, "world_size": runtime.world_size}

    def batches(images: Any, *, training: bool, limit: int | None) -> DeviceLoader | ImageFileLoader:
        if flags.is_large:
            options = {"train": training, "size": image_size(flags, data), "workers": workers, "seed": runtime.seed}
            return ImageFileLoader(images, flags.batch_size, IMAGENET, limit=limit, **options, **where)
        normalization, augmentation = SMALL_IMAGES[flags.dataset]
        options = {"augmentation": augmentation, "shuffle": True, "seed": runtime.seed} if training else {}
        return DeviceLoader(images, flags.batch_size, normalization, limit=limit, **options, **where)

    parts = {"train": batches(train, training=True, limit=runtime.limit_train_batches)}
    if not data.is_test_withheld:
        parts["test"] = batches(data.test, training=False, limit=runtime.limit_eval_batches)
    if validation is not None:
        parts["validation"] = batches(validation, training=False, limit=runtime.limit_eval_batches)
    check_nonempty(parts)
    return parts


def run_config(flags: RunFlags, own: Sequence[str]) -> dict[str, Any]:
    """What makes two runs the same, as far as all scripts have it, with the values of a script's `own` flags."""
    always = ("dataset", "epochs", "batch_size", "weight_decay", "image_size", "val_fraction")
    return {flag: getattr(flags, flag) for flag in (*always, *own)}


def destination(flag: str) -> str:
    """Name of a flag's value."""
    return flag.lstrip("-").replace("-", "_")


def experiment_name(base: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """What the tables know a run by: `base`, and every flag of `defaults` that has another of the `values`."""
    words = [base]
    for flag, default in defaults.items():
        value = values[destination(flag)]
        if value != default:
            words += [flag] if value is True else [flag, str(value)]
    return " ".join(words)


def make_budget(flags: RunFlags, runtime: Runtime) -> Budget:
    """How much is trained."""
    return Budget(flags.epochs, flags.batch_size, PUBLISHED_EPOCHS, PUBLISHED_BATCH_SIZE, runtime.limit_train_batches)
