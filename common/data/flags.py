"""The flags about data that training scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sized
from typing import Any

from common.command_line import positive
from common.errors import UserError


def add_data_flags(parser: argparse.ArgumentParser, *, training: bool = True, folders: bool = True) -> None:
    """Where the data are and what is done with them.

    Args:
        parser: of a script.
        training: False for an evaluation, which cuts nothing from a training set.
        folders: False where no image folders are read, whose images need a size.
    """
    group = parser.add_argument_group("data (the same for every script here)")
    group.add_argument("--data-dir", default="data", help="directory of data sets; absent ones are downloaded to it")
    group.add_argument("--no-download", action="store_true", help="never fetch an absent data set")
    if folders:
        group.add_argument("--image-size", type=positive, metavar="PIXELS", help="image folders: resize and crop to it")
    if training:
        group.add_argument(
            "--val-fraction",
            type=float,
            default=0.0,
            metavar="F",
            help="cut this part of each class from the training set and let it choose the reported epoch",
        )


def cut_validation(train: Any, fraction: float) -> tuple[Any, Any]:
    """The training set without its part for validation, and that part; None where `--val-fraction` is 0.

    Args:
        train: an image set with `split`.
        fraction: `--val-fraction`.

    Raises:
        UserError: a fraction that is none.
    """
    if not 0 <= fraction < 1:
        raise UserError(f"--val-fraction {fraction} must be at least 0 and below 1")
    return train.split(fraction) if fraction else (train, None)


def require_images(batches: Mapping[str, Sized], of: str = "") -> None:
    """Check that each part of a data set gives at least one batch.

    Args:
        batches: part -> its batches.
        of: ends the message: what there was to begin with.

    Raises:
        UserError: a part gives none.
    """
    for part, cut in batches.items():
        if not len(cut):
            raise UserError(f"no {part} images are left to make a batch of{of}")
