"""Tiny-ImageNet-200 in its published layout (Stanford CS231N): 64 x 64 JPEGs, classes of the validation images in a
text file. As in the literature, the published validation split serves as the test set (test labels are not public)."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path

import numpy as np

from common.command_line import printable
from common.data.datasets import Dataset, ImageArrays, describe_provenance
from common.data.download import fetch_archive
from common.data.image_folder import decode_splits
from common.data.images import (
    check_splits_nonempty,
    describe_ignored,
    fingerprint,
    list_images,
    require_names,
    without_bad,
)
from common.errors import UserError
from common.safe_json import read_text

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
FOLDER = "tiny-imagenet-200"
PUBLISHED_COUNTS = (200, 100_000, 10_000)  # classes, training images, validation images


def load(root: Path, *, download: bool = True, skip_bad: bool = False) -> Dataset[ImageArrays]:
    """Read Tiny-ImageNet below `root`; fetch it when absent and `download`.

    Raises:
        UserError: files absent or not in the published layout.
    """
    folder = root / FOLDER
    if not folder.is_dir():
        fetch_archive(URL, MD5, root, FOLDER, "tiny_imagenet", layout=FOLDER, download=download)
    try:
        wnids = read_text(folder / "wnids.txt").split()
        words = dict(line.split("\t", 1) for line in read_text(folder / "words.txt").splitlines() if "\t" in line)
        rows = read_text(folder / "val/val_annotations.txt").splitlines()
        annotations = [(file, wnid) for file, wnid, *_ in (row.split("\t") for row in rows)]
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
            raise  # the file may be whole
        raise UserError(f"{folder} is not Tiny-ImageNet in its published layout: {error}") from error
    require_names(wnids, folder / "wnids.txt")
    require_names((file for file, _ in annotations), folder / "val/val_annotations.txt")
    number = {wnid: i for i, wnid in enumerate(wnids)}
    ignored: Counter[str] = Counter()
    train = [(file, number[w]) for w in wnids for file in list_images(folder / "train" / w / "images", ignored)]
    if unlisted := {place.name for place in (folder / "train").glob("[!.]*") if place.is_dir()} - set(number):
        raise UserError(f"{folder / 'train'} has a class that wnids.txt lacks: {printable(Path(min(unlisted)))}")
    unknown = {wnid for _, wnid in annotations} - set(number)
    if unknown:
        raise UserError(f"{folder}: validation classes {sorted(unknown)[:3]} are not in wnids.txt")
    test = [(folder / "val/images" / file, number[wnid]) for file, wnid in annotations]
    published = (len(wnids), len(train), len(test)) == PUBLISHED_COUNTS
    content = describe_provenance(
        folder, "published layout and counts" if published else "other content in the published layout"
    )
    (train, test), skipped = without_bad(root, FOLDER, (train, test), skip=skip_bad)
    check_splits_nonempty(folder, wnids, (train, test), ("training", "validation"))
    train_files, test_files = ([file for file, _ in split] for split in (train, test))
    pixels = decode_splits(root, "tiny_imagenet", train_files, test_files)
    train_images, test_images = (
        ImageArrays(p, np.array([t for _, t in split])) for p, split in zip(pixels, (train, test), strict=True)
    )
    names = tuple(words.get(wnid, wnid) for wnid in wnids)
    digest, messages = fingerprint(root, FOLDER, (train, test)), (*describe_ignored(folder, ignored), *skipped)
    return Dataset("tiny_imagenet", train_images, test_images, names, content, digest, messages=messages)
