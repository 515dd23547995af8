"""Image sets as folders, `<name>/train/<class>/*` and `<name>/val/<class>/*` (or `test`): listed, or in memory."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from common.command_line import printable
from common.data.cache import cached
from common.data.datasets import Dataset, ImageArrays, describe_provenance
from common.data.images import (
    SUFFIXES,
    Members,
    check_splits_nonempty,
    describe_ignored,
    fingerprint,
    in_threads,
    list_images,
    read_image,
    without_bad,
)
from common.errors import UserError


def load(name: str, root: Path, image_size: int | None = None, *, skip_bad: bool = False) -> Dataset[ImageArrays]:
    """Read the image folder `root/name`.

    Args:
        name: folder below `root`.
        root: directory of datasets.
        image_size: resize the shorter side to this and crop the middle; None takes the images as they are.
        skip_bad: leave out images that cannot be read.

    Raises:
        UserError: as of `list_splits`, images that cannot be read or differ in size.
    """
    folder = root / name
    classes, splits, messages = list_splits(folder)
    splits, skipped = without_bad(root, name, splits, skip=skip_bad)
    check_splits_nonempty(folder, classes, splits)
    train_files, test_files = ([f for f, _ in members] for members in splits)
    decoded = decode_splits(root, name, train_files, test_files, image_size)
    if decoded[0].shape[1:] != decoded[1].shape[1:]:
        raise UserError(f"{folder}: training and test images differ in size; give --image-size")
    train, test = (
        ImageArrays(pixels, np.array([i for _, i in members])) for pixels, members in zip(decoded, splits, strict=True)
    )
    content, digest = describe_provenance(folder, "image folder"), fingerprint(root, name, splits)
    return Dataset(name, train, test, classes, content, digest, messages=(*messages, *skipped))


def list_splits(folder: Path) -> tuple[tuple[str, ...], tuple[Members, Members], tuple[str, ...]]:
    """Classes, training and test images, and lines for the log about what was ignored.

    Hidden folders are no classes.

    Raises:
        UserError: no test split, a class without training images, a class of the test split that is not trained on.
    """
    test = next((folder / split for split in ("val", "test") if (folder / split).is_dir()), None)
    if test is None:
        raise UserError(f"{folder} has train/ but neither val/ nor test/: accuracies need one of them")
    ignored: Counter[str] = Counter()
    classes, of_test = (_class_names(split, ignored) for split in (folder / "train", test))
    if extra := set(of_test) - set(classes):
        raise UserError(f"{test} has a class that {folder / 'train'} lacks: {min(extra)}")
    train = [list_images(folder / "train" / name, ignored) for name in classes]
    if empty := [name for name, files in zip(classes, train, strict=True) if not files]:
        raise UserError(
            f"{folder / 'train'}: no images ({', '.join(sorted(SUFFIXES))}) in the class {empty[0]}, which would be "
            "counted and never learned"
        )
    tested = [list_images(test / name, ignored) for name in classes]
    train_members, test_members = (
        [(file, i) for i, files in enumerate(split) for file in files] for split in (train, tested)
    )
    splits = train_members, test_members
    for place, members in zip((folder / "train", test), splits, strict=True):
        if not members:
            raise UserError(f"{place}: no images ({', '.join(sorted(SUFFIXES))}) in its class folders")
    messages = [*describe_ignored(folder, ignored)]
    if test.name == "val" and (folder / "test").is_dir():
        messages.append(f"{printable(folder)}: val/ is the test split, and test/ is not looked at")
    if untested := [name for name, files in zip(classes, tested, strict=True) if not files]:
        first = printable(Path(untested[0]))
        messages.append(
            f"{printable(test)}: no images of {len(untested)} classes, such as {first}: they are not tested"
        )
    return tuple(classes), splits, tuple(messages)


def _class_names(split: Path, ignored: Counter[str]) -> list[str]:
    names = []
    for entry in split.iterdir():
        if entry.name.startswith("."):
            ignored["hidden"] += 1
        elif entry.is_dir():
            names.append(entry.name)
        else:
            ignored["outside of class folders"] += 1
    return sorted(names)


def decode_splits(
    root: Path, name: str, train: list[Path], test: list[Path], size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of both splits of a dataset below `root`, from its cache where that is up to date.

    Raises:
        UserError: as of `decode`.
    """
    from PIL import __version__ as pillow

    with_size = f"{name}-{size}" if size else name
    arrays = cached(
        root,
        f"{with_size}-pillow-{pillow}",
        [*train, *test],
        lambda: {"train": decode(train, size), "test": decode(test, size)},
    )
    return arrays["train"], arrays["test"]


def decode(files: list[Path], size: int | None) -> np.ndarray:
    """Decode images to uint8 [N, H, W, 3]; all must have one size unless `size` makes it so.

    Raises:
        UserError: an unreadable image, or sizes that differ.
    """
    from PIL import Image, ImageOps

    def one(file: Path) -> np.ndarray:
        image = read_image(file)
        return np.asarray(image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))

    first = one(files[0]).shape
    pixels = np.empty((len(files), *first), np.uint8)
    for i, image in enumerate(in_threads(one, files, "reading images")):
        if image.shape != first:
            (h, w), (h0, w0) = image.shape[:2], first[:2]
            names = [printable(Path(file.name)) for file in (files[i], files[0])]
            raise UserError(f"images differ in size ({names[0]} is {w}x{h}, {names[1]} {w0}x{h0}): give --image-size")
        pixels[i] = image
    return pixels
