"""What a dataset is in memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Generic, NoReturn, TypeVar

import numpy as np

from common.errors import UserError
from common.run_record import Data

GENERATED = "synthetic dataset"  # begins the description of one
MARKER = "generated.json"  # lies beside the files of a synthetic dataset


def describe_provenance(folder: Path, otherwise: str) -> str:
    """What the files of a dataset are, in words: the synthetic dataset where it says so itself."""
    return f"{GENERATED} (common.data.synthetic), not the real data" if (folder / MARKER).is_file() else otherwise


Images = TypeVar("Images", bound="ImageSet")


class ImageSet:
    """Images with their classes, wherever they lie.

    Attributes:
        targets: class indices, int64, [N].
    """

    targets: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def take(self: Images, positions: np.ndarray) -> Images:
        """The images at `positions`, in that order."""
        raise NotImplementedError

    def split(self: Images, fraction: float, seed: int = 0) -> tuple[Images, Images]:
        """Divide each class by `fraction`: (the rest, the fraction), both in the order of the set."""
        random = np.random.default_rng(seed)
        chosen = np.zeros(len(self), bool)
        for c in np.unique(self.targets):
            members = np.flatnonzero(self.targets == c)
            chosen[random.permutation(members)[: round(fraction * len(members))]] = True
        return self.take(np.flatnonzero(~chosen)), self.take(np.flatnonzero(chosen))


@dataclasses.dataclass(frozen=True)
class ImageArrays(ImageSet):
    """Decoded images with their classes.

    Attributes:
        pixels: uint8, [N, H, W, 3].
        targets: class indices, int64, [N].
        origin: position of each image in the published set that these were taken from, [N]; None where they are it.
    """

    pixels: np.ndarray
    targets: np.ndarray
    origin: np.ndarray | None = None

    def take(self, positions: np.ndarray) -> ImageArrays:
        origin = positions if self.origin is None else self.origin[positions]
        return ImageArrays(self.pixels[positions], self.targets[positions], origin)


class WithheldSplit:
    """In the place of a split that must not be looked at: whoever looks at it fails."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"the test split is withheld from this run, and its {name} was asked for")

    def __len__(self) -> NoReturn:
        raise AssertionError("the test split is withheld from this run, and its size was asked for")


@dataclasses.dataclass(frozen=True)
class Dataset(Generic[Images]):
    """A dataset, as arrays in memory or as files of images.

    Attributes:
        name: the name it was asked for by.
        train, test: the two published parts.
        classes: class names; their number is the number of classes.
        content: what the files hold, in words: the published archive, the synthetic dataset, or other content.
        fingerprint: a digest of the files' content.
        validation: a third part, where the dataset has one.
        root: the directory of datasets that it was read from, where it was.
        messages: lines for the log, about files that were left out.

    Raises:
        UserError: a single class, of which there is nothing to learn.
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    content: str
    fingerprint: str
    validation: Images | None = None
    root: Path | None = None
    messages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise UserError(f"dataset '{self.name}' has {self.num_classes} class: to tell images apart takes two")

    @property
    def is_synthetic(self) -> bool:
        return self.content.startswith(GENERATED)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def is_test_withheld(self) -> bool:
        return isinstance(self.test, WithheldSplit)

    def without_test(self) -> Dataset[Images]:
        """The same for a run that must not see the test split."""
        return dataclasses.replace(self, test=WithheldSplit())

    def compared_settings(self) -> dict[str, Any]:
        """What belongs to the settings that two runs must share to be one, besides what the scripts name themselves."""
        return {"data": self.fingerprint, **({"no_test": True} if self.is_test_withheld else {})}

    def describe(self) -> Data:
        """What a run's record says about its data."""
        described = Data(
            name=self.name,
            content=self.content,
            fingerprint=self.fingerprint,
            classes=self.num_classes,
            train_images=len(self.train),
        )
        if not self.is_test_withheld:
            described["test_images"] = len(self.test)
        if self.validation is not None:
            described["validation_images"] = len(self.validation)
        return described
