"""What a synthetic dataset is a function of, and its classes."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

GROUP_SIZE = 5

VERSION = 1  # of pictures and files: raise it when the same settings come to give other bytes


@dataclass(frozen=True)
class Settings:
    """What a synthetic dataset is a function of; stored in its marker."""

    layout: str
    classes: int
    train_per_class: int
    test_per_class: int
    seed: int
    version: int = VERSION

    def random(self, split: str) -> np.random.Generator:
        """The random numbers of one split ("train" or "test"), independent of those of the other."""
        return np.random.default_rng([self.seed, zlib.crc32(f"{self.layout} {split}".encode())])


def class_groups(classes: int) -> np.ndarray:
    """The group of every class, [classes]: five consecutive classes look alike (CIFAR-100's coarse labels)."""
    return np.arange(classes) // GROUP_SIZE


def class_names(classes: int) -> list[str]:
    """Names that nobody takes for real ones."""
    return [f"generated_{c:03d}" for c in range(classes)]
