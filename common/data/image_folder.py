"""Any image set as folders: `<name>/train/<class>/*` and `<name>/val/<class>/*` (or `test`), read into memory."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.data.cache import cached
from common.data.datasets import Dataset, ImageArrays, content_of
from common.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def load(name: str, root: Path, image_size: int | None = None) -> Dataset:
    """Read the image folder `root/name`.

    Args:
        name: folder below `root`.
        root: directory of data sets.
        image_size: resize the shorter side to this and crop the middle; None takes the images as they are.

    Raises:
        UserError: no test part, classes that differ between the parts, images that cannot be read or differ in size.
    """
    folder = root / name
    test = next((folder / part for part in ("val", "test") if (folder / part).is_dir()), None)
    if test is None:
        raise UserError(f"{folder} has train/ but neither val/ nor test/: accuracies need one of them")
    classes = _class_names(folder / "train")
    if extra := set(_class_names(test)) - set(classes):
        raise UserError(f"{test} has a class that {folder / 'train'} lacks: {sorted(extra)[0]}")
    parts = []
    for part in (folder / "train", test):
        members = [(f, i) for i, c in enumerate(classes) for f in _images(part / c)]
        if not members:
            raise UserError(f"{part}: no images ({', '.join(sorted(SUFFIXES))}) in its class folders")
        parts.append(members)
    decoded = decode_parts(root, name, *([f for f, _ in members] for members in parts), image_size)
    if decoded[0].shape[1:] != decoded[1].shape[1:]:
        raise UserError(f"{folder}: training and test images differ in size; give --image-size")
    train, test = (
        ImageArrays(pixels, np.array([i for _, i in members])) for pixels, members in zip(decoded, parts, strict=True)
    )
    digest = fingerprint(folder, [f for members in parts for f, _ in members])
    return Dataset(name, train, test, tuple(classes), content_of(folder, "image folder"), digest)


def _class_names(part: Path) -> list[str]:
    return sorted(d.name for d in part.iterdir() if d.is_dir())


def _images(folder: Path) -> list[Path]:
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES) if folder.is_dir() else []


def decode_parts(
    root: Path, name: str, train: list[Path], test: list[Path], size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of both parts of a data set below `root`, from its cache where that is up to date.

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
        try:
            image = Image.open(file).convert("RGB")
        except OSError as error:
            raise UserError(f"cannot read image {file}: {error}") from error
        return np.asarray(image if size is None else ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))

    first = one(files[0]).shape
    pixels = np.empty((len(files), *first), np.uint8)
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding the interpreter's lock
        decoded = tqdm(
            pool.map(one, files), total=len(files), desc="reading images", unit="img", leave=False, disable=None
        )
        for i, image in enumerate(decoded):
            if image.shape != first:
                (h, w), (h0, w0) = image.shape[:2], first[:2]
                raise UserError(
                    f"images differ in size ({files[i].name} is {w}x{h}, {files[0].name} {w0}x{h0}): give --image-size"
                )
            pixels[i] = image
    return pixels


def fingerprint(folder: Path, files: list[Path]) -> str:
    """Digest of names and sizes of `files`, relative to `folder`."""
    digest = hashlib.md5()
    for file in files:
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode())
    return digest.hexdigest()
