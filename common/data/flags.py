"""The flags about data that training scripts share."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sized
from typing import Any

from common.command_line import positive_int, real_number, resolve_path
from common.data.datasets import Dataset
from common.errors import UserError


class _Default(str):
    """A value that nobody has given; one who gives the same gives another object."""


DATA_DIR = _Default("data")


@dataclasses.dataclass(frozen=True)
class DataSource:
    """Where a dataset is, and how it is read.

    Attributes:
        data_dir: directory of datasets, as it was given.
        no_download: never fetch an absent one.
        skip_bad_images: leave out image files that cannot be read.
    """

    data_dir: str
    no_download: bool
    skip_bad_images: bool


def add_data_flags(parser: argparse.ArgumentParser, *, training: bool = True, folders: bool = True) -> None:
    """Where the data are and what is done with them.

    Args:
        parser: of a script.
        training: False for an evaluation, which cuts nothing from a training set.
        folders: False where no image folders are read, whose images need a size.
    """
    group = parser.add_argument_group("data (the same for every script here)")
    add_directory_flag(group)
    group.add_argument("--no-download", action="store_true", help="never fetch an absent dataset")
    add_skip_flag(group)
    if folders:
        group.add_argument(
            "--image-size", type=positive_int, metavar="PIXELS", help="image folders: resize and crop to it"
        )
    if training:
        group.add_argument(
            "--val-fraction",
            type=real_number(0, 1),
            default=0.0,
            metavar="F",
            help="cut this part of each class from the training set and let it choose the reported epoch",
        )
        add_no_test_flag(group)


def add_no_test_flag(group: argparse._ActionsContainer) -> None:
    """For runs whose outcome is chosen among."""
    group.add_argument(
        "--no-test",
        action="store_true",
        help="never look at the test split: the validation split alone is evaluated (a trial of a search)",
    )


def visible(data: Dataset, *, no_test: bool, val_fraction: float) -> Dataset:
    """What of a dataset a training run may look at: all but the test split with `--no-test`.

    Args:
        data: all of it.
        no_test: `--no-test`.
        val_fraction: what is cut from the training set to evaluate on.

    Raises:
        UserError: nothing would be left to evaluate on.
    """
    if not no_test:
        return data
    if data.validation is None and not val_fraction:
        raise UserError("--no-test leaves nothing to evaluate on: give --val-fraction too, such as 0.1")
    return data.without_test()


def add_directory_flag(group: argparse._ArgumentGroup) -> None:
    """Where datasets are."""
    group.add_argument(
        "--data-dir", default=DATA_DIR, metavar="DIR", help="directory of datasets; absent ones are downloaded to it"
    )


def require_asked_for(data: Dataset, given: str, paper: str) -> Dataset:
    """The dataset, unless it is a synthetic one that only lies where real ones are looked for.

    Args:
        data: that was found.
        given: `--data-dir`.
        paper: whose directory is one of the places.

    Raises:
        UserError: it is synthetic, and nobody gave its path.
    """
    if given is DATA_DIR and data.is_synthetic:
        place = resolve_path(given, paper)
        raise UserError(
            f"{place} holds a synthetic {data.name}, which is used only where it is asked for: give --data-dir "
            f"{place}, or move it elsewhere to have the real one"
        )
    return data


def add_skip_flag(group: argparse._ArgumentGroup) -> None:
    """What is done with images that cannot be read."""
    group.add_argument(
        "--skip-bad-images",
        action="store_true",
        help="leave out image files that cannot be read, and say how many; else the first one ends the run",
    )


def split_validation(train: Any, fraction: float) -> tuple[Any, Any]:
    """The training set without its validation split, and that split; None where `--val-fraction` is 0.

    Args:
        train: an image set with `split`.
        fraction: `--val-fraction`.

    Raises:
        UserError: a fraction that is none.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"--val-fraction {fraction} must be at least 0 and below 1")
    return train.split(fraction) if fraction else (train, None)


def check_nonempty(batches: Mapping[str, Sized], of: str = "") -> None:
    """Check that each split of a dataset gives at least one batch.

    Args:
        batches: split -> its batches.
        of: ends the message: what there was to begin with.

    Raises:
        UserError: a split gives none.
    """
    for split, cut in batches.items():
        if not len(cut):
            raise UserError(f"no {split} images are left to make a batch of{of}")
