"""The flags about data that training scripts share."""

from __future__ import annotations

import argparse

from common.command_line import positive


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Where the data are and what is done with them."""
    group = parser.add_argument_group("data (the same for every script here)")
    group.add_argument("--data-dir", default="data", help="directory of data sets; absent ones are downloaded to it")
    group.add_argument("--no-download", action="store_true", help="never fetch an absent data set")
    group.add_argument("--image-size", type=positive, metavar="PIXELS", help="image folders: resize and crop to this")
    group.add_argument(
        "--val-fraction",
        type=float,
        default=0.0,
        metavar="F",
        help="cut this part of each class from the training set and let it choose the reported epoch",
    )
