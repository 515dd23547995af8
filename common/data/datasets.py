"""Data sets by name: from their published files on disk to arrays in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from common.command_line import is_inside
from common.errors import UserError

GENERATED = "generated set"  # begins the description of one
MARKER = "generated.json"  # lies beside the files of a generated set


def content_of(folder: Path, otherwise: str) -> str:
    """What the files of a data set are, in words: the generated set where it says so itself."""
    return f"{GENERATED} (common.data.synthetic), not the real data" if (folder / MARKER).is_file() else otherwise


@dataclasses.dataclass(frozen=True)
class ImageArrays:
    """Decoded images with their classes.

    Attributes:
        pixels: uint8, [N, H, W, 3].
        targets: class indices, int64, [N].
    """

    pixels: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, positions: np.ndarray) -> ImageArrays:
        """The images at `positions`, in that order."""
        return ImageArrays(self.pixels[positions], self.targets[positions])

    def split(self, fraction: float, seed: int = 0) -> tuple[ImageArrays, ImageArrays]:
        """Divide each class by `fraction`: (the rest, the fraction), both in the order of the set."""
        random = np.random.default_rng(seed)
        chosen = np.zeros(len(self), bool)
        for c in np.unique(self.targets):
            members = np.flatnonzero(self.targets == c)
            chosen[random.permutation(members)[: round(fraction * len(members))]] = True
        return self.take(np.flatnonzero(~chosen)), self.take(np.flatnonzero(chosen))


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in memory.

    Attributes:
        name: the name it was asked for by.
        train, test: the two published parts.
        classes: class names; their number is the number of classes.
        content: what the files hold, in words: the published archive, the generated set, or other content.
        fingerprint: a digest of the files' content.
        validation: a third part, where the data set has one.
    """

    name: str
    train: ImageArrays
    test: ImageArrays
    classes: tuple[str, ...]
    content: str
    fingerprint: str
    validation: ImageArrays | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def describe(self) -> dict:
        """What a run's record says about its data."""
        return {
            "name": self.name,
            "content": self.content,
            "fingerprint": self.fingerprint,
            "classes": self.num_classes,
            "train_images": len(self.train),
            "test_images": len(self.test),
            **({} if self.validation is None else {"validation_images": len(self.validation)}),
        }

    def remarks_on(self, teacher: str, trained_on: str | None) -> list[str]:
        """A warning for the log where a teacher was trained on other data than these, as far as that is known."""
        if trained_on in (None, self.fingerprint):
            return []
        return [f"warning: {teacher} was trained on other data ({trained_on}) than the student will be"]


def load_dataset(name: str, root: Path, *, download: bool = True, image_size: int | None = None) -> Dataset:
    """Read a data set below `root`.

    Args:
        name: `cifar10`, `cifar100`, `tiny_imagenet`, or the name of a folder below `root` with `train/<class>/` and
            `val/<class>/` or `test/<class>/`.
        root: directory that holds the data sets in their published layouts (data/README.md).
        download: fetch a published archive that is absent.
        image_size: image folders only: resize and crop to this many pixels.

    Raises:
        UserError: unknown name, absent or damaged files.
    """
    from common.data import cifar, image_folder, tiny_imagenet

    if not is_inside(name):
        raise UserError(f"data set '{name}' is not below {root}: give its name, and its directory with --data-dir")
    if image_size is not None and name in ("cifar10", "cifar100", "tiny_imagenet"):
        raise UserError(f"--image-size is for image folders; {name} has a size of its own")
    if name in ("cifar10", "cifar100"):
        return cifar.load(name, root, download=download)
    if name == "tiny_imagenet":
        return tiny_imagenet.load(root, download=download)
    if (root / name / "train").is_dir():
        return image_folder.load(name, root, image_size)
    raise UserError(
        f"unknown data set '{name}': give cifar10, cifar100, tiny_imagenet, or the name of a folder in {root} "
        "that holds train/<class>/ and val/<class>/"
    )
