"""Random crop, flip and rotation of many images at once, by moving whole pixels of four bytes.

The random numbers of a whole epoch are drawn at once, as a pure function of (seed, epoch).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

FRACTION = 16  # fractional bits of coordinates; Pillow rotates with as many, so we meet the same pixel


@dataclasses.dataclass(frozen=True)
class Normalization:
    """Per-channel statistics of pixel values in [0, 1]."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random crop of the padded image, then horizontal flip, then rotation with nearest sampling; black fills.

    Attributes:
        padding: pixels of black on each side before the crop back to the original size.
        flip: mirror with probability 1/2.
        rotation: largest angle in degrees, drawn uniformly from [-rotation, rotation].
    """

    padding: int = 0
    flip: bool = False
    rotation: float = 0.0

    def draw(self, random: np.random.Generator, count: int) -> AugmentationParams:
        """The random choices for `count` samples."""
        return AugmentationParams(
            top_left=random.integers(0, 2 * self.padding + 1, size=(count, 2)),
            flipped=random.random(count) < 0.5 if self.flip else np.zeros(count, bool),
            degrees=random.uniform(-self.rotation, self.rotation, count) if self.rotation else None,
        )

    @property
    def view_count(self) -> int | None:
        """How many different views an image has; None where they are no finite set, for angles are drawn."""
        return None if self.rotation else self.upright_views

    @property
    def upright_views(self) -> int:
        """How many different views an image has that are not rotated."""
        return (2 * self.padding + 1) ** 2 * (2 if self.flip else 1)

    def view_numbers(self, draws: AugmentationParams) -> np.ndarray:
        """Which of its image's `view_count` views each sample is, from 0, int64, [n]."""
        corners = draws.top_left.astype(np.int64)
        crops = corners[:, 0] * (2 * self.padding + 1) + corners[:, 1]
        return crops * 2 + draws.flipped if self.flip else crops

    def draws_of(self, view_numbers: np.ndarray) -> AugmentationParams:
        """The choices that `view_numbers` numbers, [n]."""
        crops, flipped = divmod(view_numbers, 2) if self.flip else (view_numbers, np.zeros(len(view_numbers), int))
        top_left = np.stack(divmod(crops, 2 * self.padding + 1), axis=1)
        return AugmentationParams(top_left, flipped.astype(bool), None)


@dataclasses.dataclass(frozen=True)
class AugmentationParams:
    """Random choices of one epoch, one entry per sample.

    Attributes:
        top_left: corner (y, x) of the crop in the padded image, [n, 2].
        flipped: [n].
        degrees: counter-clockwise angles, [n]; None where the augmentation does not rotate.
    """

    top_left: np.ndarray
    flipped: np.ndarray
    degrees: np.ndarray | None

    def take(self, positions: np.ndarray) -> AugmentationParams:
        """The choices for the samples at `positions`, in that order."""
        degrees = None if self.degrees is None else self.degrees[positions]
        return AugmentationParams(self.top_left[positions], self.flipped[positions], degrees)


class AugmentedPixels:
    """Shows images as an augmentation's choices say, some samples at a time.

    Args:
        padded: images with their padding, a pixel in four bytes, int32, [N, height + 2 padding, width + 2 padding].
        sample: number of each sample's image, [n], on the images' device.
        draws: the augmentation's choices for the same samples.
        height, width: of the images without padding.
    """

    def __init__(self, padded: Tensor, sample: Tensor, draws: AugmentationParams, height: int, width: int) -> None:
        def to_device(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(padded.device)

        self.crops = padded.unfold(1, height, 1).unfold(2, width, 1)  # a view: [N, top, left, height, width]
        self.crop = (sample, *to_device(draws.top_left).T)
        self.flipped = self.affine = None
        if draws.degrees is not None:
            affine = _mirrored(fixed_point(rotations(draws.degrees, height, width)), draws.flipped, width)
            self.affine, self.frame = to_device(affine), overshoot(affine, height, width)
        elif draws.flipped.any():
            self.flipped = to_device(draws.flipped)[:, None, None]

    def __getitem__(self, some: slice) -> Tensor:
        """Some of the samples: int32, [m, height, width]."""
        pixels = self.crops[tuple(choice[some] for choice in self.crop)]
        if self.affine is not None:
            return warp(pixels, self.affine[:, :, some], self.frame)
        return pixels if self.flipped is None else torch.where(self.flipped[some], pixels.flip(2), pixels)


def warp(pixels: Tensor, affine: Tensor, frame: int) -> Tensor:
    """Take each output pixel from where it comes, black from outside the image.

    Args:
        pixels: int32, [n, height, width].
        affine: coefficients as of `fixed_point`, int32, [3, 2, n].
        frame: how many pixels beyond the image they reach at most (`overshoot`).
    """
    count, height, width = pixels.shape
    framed = functional.pad(pixels, (frame, frame, frame, frame))  # then nothing needs to be masked
    rows, columns, numbers = (
        torch.arange(size, device=pixels.device, dtype=torch.int32) for size in (height, width, count)
    )
    per_column, per_row, constant = affine[..., None]  # each [2 (x, y), n, 1]
    source = (constant + per_row * rows)[..., None] + (per_column * columns)[..., None, :]
    x, y = source.bitwise_right_shift_(FRACTION)
    stride = framed.shape[2]
    first = numbers * (framed.shape[1] * stride) + frame * stride + frame  # where each image begins within its frame
    index = y.mul_(stride).add_(x).add_(first[:, None, None])
    return framed.flatten().index_select(0, index.flatten()).view_as(pixels)


def rotations(degrees: np.ndarray, height: int, width: int) -> np.ndarray:
    """Rotations about the image center: what takes an output position to its source.

    Args:
        degrees: counter-clockwise, [n].

    Returns:
        Coefficients of (column, row, 1) for (x, y), [3, 2, n].
    """
    angle = -np.radians(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    center_x, center_y = width / 2, height / 2
    x = [cos, sin, center_x - cos * center_x - sin * center_y]
    y = [-sin, cos, center_y + sin * center_x - cos * center_y]
    return np.stack([x, y], axis=1)


def fixed_point(affine: np.ndarray) -> np.ndarray:
    """Coefficients [3, 2, n] in fixed point, for pixel centers, rounded as Pillow's nearest-neighbor transforms do."""
    column, row, constant = affine
    coefficients = np.stack([column, row, constant + 0.5 * column + 0.5 * row])
    return np.floor(coefficients * (1 << FRACTION) + 0.5).astype(np.int32)


def overshoot(affine: np.ndarray, height: int, width: int) -> int:
    """The most pixels by which fixed-point coefficients [3, 2, n] read beyond an image on any side."""
    column, row, constant = affine.astype(np.int64)
    corners = [constant + c * column + r * row for c in (0, width - 1) for r in (0, height - 1)]
    sources = np.stack(corners) >> FRACTION  # [4, 2, n]
    last = np.array([width - 1, height - 1])[:, None]
    return int(max(-sources.min(initial=0), (sources - last).max(initial=0)))


def _mirrored(affine: np.ndarray, flipped: np.ndarray, width: int) -> np.ndarray:
    """The coefficients of images that were flipped before: floor(width - 1 - x) where x itself is rounded down."""
    mirror = np.array([[0], [0], [(width << FRACTION) - 1]], np.int32) - affine[:, 0]
    return np.stack([np.where(flipped, mirror, affine[:, 0]), affine[:, 1]], axis=1)
