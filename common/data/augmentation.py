"""Random crop, flip and rotation as one index per output pixel.

All three move pixels without mixing them, so their composition is a single lookup into the source image. The random
numbers of a whole epoch are drawn at once, as a pure function of (seed, epoch).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

FIXED_POINT = 1 << 16  # Pillow rotates with 16 fractional bits; so do we, to the same pixel


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

    def draw(self, random: np.random.Generator, count: int) -> Draws:
        """The random choices for `count` samples."""
        return Draws(
            top_left=random.integers(0, 2 * self.padding + 1, size=(count, 2)),
            flipped=random.random(count) < 0.5 if self.flip else np.zeros(count, bool),
            degrees=random.uniform(-self.rotation, self.rotation, count) if self.rotation else None,
        )


@dataclasses.dataclass(frozen=True)
class Draws:
    """Random choices of one epoch, one entry a sample.

    Attributes:
        top_left: corner (y, x) of the crop in the padded image, [n, 2].
        flipped: [n].
        degrees: counter-clockwise angles, [n]; None where the augmentation does not rotate.
    """

    top_left: np.ndarray
    flipped: np.ndarray
    degrees: np.ndarray | None


class PixelIndex:
    """Computes, for batches of samples, where in a flat store of padded images each output pixel comes from.

    The store holds one black pixel at index 0 and then the padded images, row by row.

    Args:
        sample: number of each sample's image in the store, [n].
        draws: the augmentation's choices for the same samples.
        height, width, padding: of the stored images, in pixels; `height` and `width` without padding.
        device: where indices are computed.
    """

    def __init__(
        self, sample: np.ndarray, draws: Draws, height: int, width: int, padding: int, device: torch.device
    ) -> None:
        self.width = width
        stride = width + 2 * padding
        origin = 1 + sample * (height + 2 * padding) * stride + draws.top_left[:, 0] * stride + draws.top_left[:, 1]
        self.stride = stride
        dtype = torch.int32 if origin.size == 0 or origin.max() + height * stride < 2**31 else torch.int64
        to_device = lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(device, dtype)  # noqa: E731
        # a flipped row is read backwards from its last pixel
        self.origin = to_device(np.where(draws.flipped, origin + width - 1, origin))[:, None, None]
        self.x_step = to_device(np.where(draws.flipped, -1, 1))[:, None, None]
        self.rows = torch.arange(height, device=device, dtype=dtype)
        self.columns = torch.arange(width, device=device, dtype=dtype)
        # largest fixed-point coordinate inside the image, for x and for y
        self.limit = torch.tensor([width, height], device=device, dtype=dtype)[:, None, None, None] * FIXED_POINT - 1
        self.rotation = None
        if draws.degrees is not None:
            self.rotation = to_device(_inverse_rotation(draws.degrees, height, width))

    def __call__(self, start: int, stop: int) -> Tensor:
        """Store indices of samples [start, stop): [stop - start, height, width]."""
        origin, x_step = self.origin[start:stop], self.x_step[start:stop]
        if self.rotation is None:
            return origin + self.rows[:, None] * self.stride + self.columns * x_step
        per_column, per_row, constant = self.rotation[:, :, start:stop]  # each [2, batch]: for x and for y
        source = (constant[..., None] + per_row[..., None] * self.rows)[..., :, None] + (
            per_column[..., None] * self.columns
        )[..., None, :]
        # the sign bit of s | (limit - s) is set just where s is outside [0, limit]
        outside_x, outside_y = source | (self.limit - source)
        inside = ((outside_x | outside_y) >> (torch.iinfo(source.dtype).bits - 1)).bitwise_not_()
        x, y = source >> 16
        # all bits of `inside` are set, or none: then the index is 0, the black pixel
        return (y.mul_(self.stride) + x.mul_(x_step)).add_(origin).bitwise_and_(inside)


def _inverse_rotation(degrees: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fixed-point coefficients that take an output pixel to its source: [3 (column, row, constant), 2 (x, y), n].

    The arithmetic is that of Pillow's nearest-neighbour rotation about the image centre.
    """
    angle = -np.radians(degrees)
    cos, sin = np.cos(angle), np.sin(angle)
    center_x, center_y = width / 2, height / 2
    x = [cos, sin, center_x - cos * center_x - sin * center_y]
    y = [-sin, cos, center_y + sin * center_x - cos * center_y]
    for row in (x, y):
        row[2] = row[2] + 0.5 * (row[0] + row[1])  # pixel centres
    coefficients = np.stack([x, y], axis=1)
    return np.floor(coefficients * FIXED_POINT + 0.5).astype(np.int64)
