"""Datasets by name: from their published files on disk to arrays in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from common.command_line import is_inside
from common.data import cifar, image_folder, tiny_imagenet
from common.data.datasets import Dataset, ImageArrays
from common.errors import UserError


def load_dataset(
    name: str, root: Path, *, download: bool = True, image_size: int | None = None, skip_bad: bool = False
) -> Dataset[ImageArrays]:
    """Read a dataset below `root`.

    Args:
        name: `cifar10`, `cifar100`, `tiny_imagenet`, or the name of a folder below `root` with `train/<class>/` and
            `val/<class>/` or `test/<class>/`.
        root: directory that holds the datasets in their published layouts (data/README.md).
        download: fetch a published archive that is absent.
        image_size: image folders only: resize and crop to this many pixels.
        skip_bad: leave out images that cannot be read.

    Raises:
        UserError: unknown name, absent or damaged files.
    """
    if not is_inside(name):
        raise UserError(f"dataset '{name}' is not below {root}: give its name, and its directory with --data-dir")
    if image_size is not None and name in ("cifar10", "cifar100", "tiny_imagenet"):
        raise UserError(f"--image-size is for image folders; {name} has a size of its own")
    if name in ("cifar10", "cifar100"):
        dataset = cifar.load(name, root, download=download)
    elif name == "tiny_imagenet":
        dataset = tiny_imagenet.load(root, download=download, skip_bad=skip_bad)
    elif (root / name / "train").is_dir():
        dataset = image_folder.load(name, root, image_size, skip_bad=skip_bad)
    else:
        raise UserError(
            f"unknown dataset '{name}': give cifar10, cifar100, tiny_imagenet, or the name of a folder in {root} "
            "that holds train/<class>/ and val/<class>/"
        )
    return dataclasses.replace(dataset, root=root)
