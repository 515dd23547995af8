"""RandAugment (Cubuk et al., 2020, https://arxiv.org/abs/1909.13719) and Cutout for many images at once.

Each operation gives Pillow's pixels, bit by bit, in integers or in the floating-point type that Pillow computes in. All
choices are drawn on the host for a whole epoch, so that which images an operation gets is known without asking the
device.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from common.data.augmentation import AugmentedPixels, fixed_point, overshoot, rotations, warp
from common.errors import UserError

# Operations that look up every channel's value in a table of 256, operations that move pixels, and the others.
TABLES = ("AutoContrast", "Equalize", "Invert", "Posterize", "Solarize", "SolarizeAdd", "Contrast", "Brightness")
MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
KINDS = (*TABLES, *MOVES, "Color", "Sharpness", "Cutout")
GRAY = (125, 123, 114)  # that Cutout fills with: pytorch-randaugment's, the mean of ImageNet
MIDDLE = 128  # from where on SolarizeAdd inverts
CHANNEL_BYTES = (0, 1, 2) if sys.byteorder == "little" else (3, 2, 1)  # of a pixel in four bytes, from the lowest


class Operation(NamedTuple):
    """One of `KINDS`, with the interval that its magnitude is drawn from.

    Magnitudes are degrees for Rotate; pixels per pixel for ShearX and ShearY; fractions of the side for TranslateX,
    TranslateY and Cutout; bits that are kept for Posterize; the value from which on Solarize inverts; what SolarizeAdd
    adds; and for Color, Contrast, Brightness and Sharpness the weight of the image against its gray, its mean gray,
    black, or its blurred version.
    """

    name: str
    low: float = 0.0
    high: float = 0.0


# The operations of RandAugment's list in the form that PyTorch trainers use (pytorch-randaugment, `augment_list`), with
# the intervals of FixMatch (Sohn et al., 2020, table 12) where it has the operation.
RANDAUGMENT = (
    Operation("AutoContrast"),
    Operation("Equalize"),
    Operation("Invert"),
    Operation("Rotate", -30, 30),
    Operation("Posterize", 4, 8),
    Operation("Solarize", 0, 256),
    Operation("SolarizeAdd", 0, 110),
    Operation("Color", 0.05, 0.95),
    Operation("Contrast", 0.05, 0.95),
    Operation("Brightness", 0.05, 0.95),
    Operation("Sharpness", 0.05, 0.95),
    Operation("ShearX", -0.3, 0.3),
    Operation("ShearY", -0.3, 0.3),
    Operation("TranslateX", -0.3, 0.3),
    Operation("TranslateY", -0.3, 0.3),
    Operation("Cutout", 0, 0.5),
)


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Some operations in a row, drawn for each image with replacement, then Cutout.

    Attributes:
        operations: to draw from, all equally likely.
        count: how many each image gets.
        cutout: the largest side of the square that is grayed out at the end, as a fraction of the width; the side is
            drawn from [0, cutout].

    Raises:
        UserError: an unknown operation, or numbers out of range.
    """

    operations: Sequence[Operation] = RANDAUGMENT
    count: int = 2
    cutout: float = 0.5

    def __post_init__(self) -> None:
        if unknown := sorted({operation.name for operation in self.operations} - set(KINDS)):
            raise UserError(f"RandAugment knows no operation '{unknown[0]}': one of {', '.join(KINDS)}")
        if self.count < 0 or (self.count and not self.operations):
            raise UserError(f"RandAugment cannot take {self.count} of {len(self.operations)} operations")
        if not 0 <= self.cutout <= 1:
            raise UserError(f"the side of RandAugment's cutout must be from 0 to 1 of an image's, not {self.cutout}")

    def draw(self, random: np.random.Generator, count: int) -> RandAugmentDraws:
        """The random choices for `count` samples."""
        choices = (*self.operations, Operation("Cutout", 0, self.cutout))
        rounds = self.count + (self.cutout > 0)
        chosen = np.full((rounds, count), len(self.operations))
        chosen[: self.count] = random.integers(max(1, len(self.operations)), size=(self.count, count))
        names, low, high = (np.array(column) for column in zip(*choices, strict=True))
        return RandAugmentDraws(
            kinds=np.array([KINDS.index(name) for name in names])[chosen],
            magnitudes=low[chosen] + (high - low)[chosen] * random.random((rounds, count)),
            centers=random.random((rounds, 2, count)),
        )


@dataclasses.dataclass(frozen=True)
class RandAugmentDraws:
    """Random choices of one epoch, one entry per sample; rounds follow one another, Cutout is the last one.

    Attributes:
        kinds: index of each operation in `KINDS`, [rounds, n].
        magnitudes: [rounds, n].
        centers: (x, y) of the square that Cutout fills, as fractions of the sides, [rounds, 2, n].
    """

    kinds: np.ndarray
    magnitudes: np.ndarray
    centers: np.ndarray

    def take(self, positions: np.ndarray) -> RandAugmentDraws:
        """The choices for the samples at `positions`, in that order."""
        return RandAugmentDraws(*(array[..., positions] for array in (self.kinds, self.magnitudes, self.centers)))


class RandAugmentedPixels:
    """Shows images as another view does, and then changed by RandAugment's choices, a block of samples at a time.

    Args:
        view: the images before.
        draws: the choices for the same samples.
        blocks: which of the samples are shown together.
        height, width: of the images.
        device: of the images.
    """

    def __init__(
        self,
        view: AugmentedPixels,
        draws: RandAugmentDraws,
        blocks: Sequence[slice],
        height: int,
        width: int,
        device: torch.device,
    ) -> None:
        self.view, self.blocks = view, blocks
        of_each = zip(draws.kinds, draws.magnitudes, draws.centers, strict=True)
        self.rounds = [_Round(*choices, blocks, height, width, device) for choices in of_each]

    def __getitem__(self, block: int) -> Tensor:
        """The samples of a block: int32, [m, height, width]."""
        pixels = self.view[self.blocks[block]]
        for one in self.rounds:
            pixels = one(pixels, block)
        return pixels


class _Round:
    """One operation for each sample. Samples of a block that get the same operation lie side by side on the device.

    Args:
        kinds, magnitudes, centers: as of `RandAugmentDraws`, of one round.
        blocks, height, width, device: as of `RandAugmentedPixels`.
    """

    def __init__(
        self,
        kinds: np.ndarray,
        magnitudes: np.ndarray,
        centers: np.ndarray,
        blocks: Sequence[slice],
        height: int,
        width: int,
        device: torch.device,
    ) -> None:
        def to_device(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array).to(device)

        self.starts = [block.start for block in blocks]
        sizes = [block.stop - block.start for block in blocks]
        block_of = np.repeat(np.arange(len(blocks)), sizes)
        order = np.lexsort((kinds, block_of))  # by block, then by kind
        counts = np.bincount(block_of * len(KINDS) + kinds, minlength=len(blocks) * len(KINDS))
        # where the samples of each kind begin and end within their block
        self.bounds = np.pad(np.cumsum(counts.reshape(-1, len(KINDS)), axis=1), ((0, 0), (1, 0))).tolist()
        self.members = to_device(order - np.repeat(self.starts, sizes))
        kinds, magnitudes, centers = kinds[order], magnitudes[order], centers[:, order]
        affine = _affine(kinds, magnitudes, height, width)
        self.frame = overshoot(affine, height, width)
        self.affine = to_device(affine)
        self.values = to_device(_values(kinds, magnitudes))
        self.squares = to_device(_squares(magnitudes, centers, height, width))

    def __call__(self, pixels: Tensor, block: int) -> Tensor:
        """Change the pixels of a block, int32, [m, height, width]; they may be overwritten."""
        for kinds, function in FAMILIES:
            begin, *_, end = bounds = self.bounds[block][KINDS.index(kinds[0]) : KINDS.index(kinds[-1]) + 2]
            if begin == end:
                continue
            here = slice(self.starts[block] + begin, self.starts[block] + end)
            everyone = len(kinds) == 1 and end - begin == len(pixels)  # who are in order, then
            members = self.members[here]
            changed = function(self, pixels if everyone else pixels.index_select(0, members), here, bounds)
            pixels = changed if everyone else pixels.index_copy_(0, members, changed)
        return pixels

    def _look_up(self, pixels: Tensor, here: slice, bounds: list[int]) -> Tensor:
        values, tables = self.values[here][:, None, None], []
        for kind, begin, end in zip(TABLES, bounds, bounds[1:], strict=False):
            some = slice(begin - bounds[0], end - bounds[0])
            if begin < end:
                tables.append(TABLE_OF[kind](pixels[some], values[some]).expand(-1, 3, -1))
        return _looked_up(pixels, torch.cat(tables))

    def _move(self, pixels: Tensor, here: slice, bounds: list[int]) -> Tensor:
        return warp(pixels, self.affine[:, :, here], self.frame)

    def _color(self, pixels: Tensor, here: slice, bounds: list[int]) -> Tensor:
        channels = _channels(pixels)
        return _packed(_blend(_gray(channels)[:, None], channels, self.values[here][:, None, None, None]))

    def _sharpness(self, pixels: Tensor, here: slice, bounds: list[int]) -> Tensor:
        channels = _channels(pixels)
        return _packed(_blend(_smooth(channels), channels, self.values[here][:, None, None, None]))

    def _cutout(self, pixels: Tensor, here: slice, bounds: list[int]) -> Tensor:
        rows, columns = (torch.arange(size, device=pixels.device, dtype=torch.int32) for size in pixels.shape[1:])
        left, top, right, bottom = self.squares[:, here, None]
        across, down = (left <= columns) & (columns <= right), (top <= rows) & (rows <= bottom)
        gray = _packed(torch.tensor(GRAY, dtype=torch.uint8, device=pixels.device)[None, :, None, None])
        return torch.where(down[:, :, None] & across[:, None], gray, pixels)


FAMILIES = (
    (TABLES, _Round._look_up),
    (MOVES, _Round._move),
    (("Color",), _Round._color),
    (("Sharpness",), _Round._sharpness),
    (("Cutout",), _Round._cutout),
)


# --------------------------------------------------------------------------------- from magnitudes to what is computed


def _values(kinds: np.ndarray, magnitudes: np.ndarray) -> np.ndarray:
    """The number that each sample's operation computes with, [n]: whole where the image's values are compared to it."""
    values = magnitudes.astype(np.float32)
    for name, convert in (
        ("Posterize", lambda bits: 256 - 2.0 ** (8 - np.maximum(1, np.floor(bits)))),  # a mask
        ("Solarize", np.ceil),
        ("SolarizeAdd", np.floor),
    ):
        chosen = kinds == KINDS.index(name)
        values[chosen] = convert(magnitudes[chosen])
    return values


def _affine(kinds: np.ndarray, magnitudes: np.ndarray, height: int, width: int) -> np.ndarray:
    """Fixed-point coefficients, [3, 2, n]; those of the identity for operations that do not move pixels."""
    affine = np.zeros((3, 2, len(kinds)))
    affine[0, 0] = affine[1, 1] = 1

    def chosen(name: str) -> np.ndarray:
        return kinds == KINDS.index(name)

    affine[..., chosen("Rotate")] = rotations(magnitudes[chosen("Rotate")], height, width)
    affine[1, 0, chosen("ShearX")] = magnitudes[chosen("ShearX")]
    affine[0, 1, chosen("ShearY")] = magnitudes[chosen("ShearY")]
    # where nothing else happens Pillow rounds the pixel's center, in floating point
    affine[2, 0, chosen("TranslateX")] = np.floor(magnitudes[chosen("TranslateX")] * width + 0.5)
    affine[2, 1, chosen("TranslateY")] = np.floor(magnitudes[chosen("TranslateY")] * height + 0.5)
    return fixed_point(affine)


def _squares(magnitudes: np.ndarray, centers: np.ndarray, height: int, width: int) -> np.ndarray:
    """Left, top, right and bottom of the squares that Cutout fills, all inclusive, int32, [4, n].

    As in pytorch-randaugment: the upper left corner is cut off at the border before the side is added, and both ends
    are painted.
    """
    side = magnitudes * width
    corner = np.maximum(0, centers * np.array([[width], [height]]) - side / 2).astype(np.int32)
    ends = np.where(side > 0, corner + side, -1).astype(np.int32)
    return np.concatenate([corner, ends])


# -------------------------------------------------------------------------------------------------------------- pixels


def _channels(pixels: Tensor) -> Tensor:
    """int32, [n, H, W] -> int32 from 0 to 255, [n, 3, H, W]."""
    channels = [pixels.bitwise_right_shift(8 * byte).bitwise_and_(255) for byte in CHANNEL_BYTES]
    return torch.stack(channels, dim=1)


def _packed(channels: Tensor) -> Tensor:
    """uint8, [n, 3, H, W] -> int32, [n, H, W]."""
    red, green, blue = (
        c.to(torch.int32) << 8 * byte for c, byte in zip(channels.unbind(1), CHANNEL_BYTES, strict=True)
    )
    return red.bitwise_or_(green).bitwise_or_(blue)


def _gray(channels: Tensor) -> Tensor:
    """Pillow's conversion to gray: int32, [n, 3, H, W] -> int32, [n, H, W]."""
    red, green, blue = channels.unbind(1)
    return (red * 19595 + green * 38470 + blue * 7471 + (1 << 15)) >> 16


def _smooth(channels: Tensor) -> Tensor:
    """Pillow's SMOOTH filter, of weights 1 and, in the middle, 5; pixels at the border stay: [n, 3, H, W], float."""
    smooth = channels.float()
    if min(channels.shape[2:]) < 3:
        return smooth
    rows = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * smooth[:, :, 1:-1, 1:-1]
    # never within 1/26 of where it is rounded the other way
    smooth[:, :, 1:-1, 1:-1] = (total / 13 + 0.5).floor_()
    return smooth


def _blend(other: Tensor, image: Tensor, weight: Tensor) -> Tensor:
    """other + weight (image - other), cut off at 0 and 255 and rounded down: Pillow's `Image.blend`, uint8.

    Args:
        other, image: values from 0 to 255 of any type.
        weight: float32.
    """
    return ((image.to(weight.dtype) - other) * weight).add_(other).clamp_(0, 255).to(torch.uint8)


def _looked_up(pixels: Tensor, tables: Tensor) -> Tensor:
    """Every channel's value replaced by what its table says.

    Args:
        pixels: int32, [n, H, W].
        tables: uint8, [n, 3, 256].
    """
    tables = functional.pad(tables, (0, 0, 0, 1))  # of the fourth byte, which is 0
    index = pixels.view(torch.uint8).view(len(pixels), -1).to(torch.int32)
    images, channels = (
        torch.arange(0, size, step, device=pixels.device, dtype=torch.int32)
        for size, step in ((tables.numel(), 4 * 256), (4 * 256, 256))
    )
    index.add_(channels.repeat(index.shape[1] // 4)).add_(images[:, None])
    return tables.flatten().index_select(0, index.flatten()).view(torch.int32).view_as(pixels)


# ------------------------------------------------------------------------- tables: (pixels, values) -> [n, 3 or 1, 256]


def _inputs(pixels: Tensor, dtype: torch.dtype = torch.int32) -> Tensor:
    """0 to 255."""
    return torch.arange(256, device=pixels.device, dtype=dtype)


def _auto_contrast(pixels: Tensor, values: Tensor) -> Tensor:
    """Stretches each channel to the whole range."""
    inputs = _inputs(pixels, torch.float64)  # Pillow computes in doubles, and rounds down
    channels = _channels(pixels).flatten(2)
    low, high = (end[..., None].double() for end in (channels.amin(2), channels.amax(2)))
    scale = inputs[-1] / (high - low)  # by a number, PyTorch would multiply with the rounded inverse
    stretched = (inputs * scale + -low * scale).clamp_(0, 255)
    return torch.where(high > low, stretched, inputs).to(torch.uint8)


def _equalize(pixels: Tensor, values: Tensor) -> Tensor:
    """Spreads the values of each channel evenly."""
    channels = _channels(pixels).flatten(2).long()
    ones = torch.ones((), dtype=torch.int32, device=pixels.device).expand_as(channels)
    histogram = torch.zeros(*channels.shape[:2], 256, dtype=torch.int32, device=pixels.device)
    histogram.scatter_add_(2, channels, ones)
    highest = histogram.gather(2, channels.amax(2, keepdim=True))
    step = torch.div(channels.shape[2] - highest, 255, rounding_mode="floor")
    below = histogram.cumsum(2, dtype=torch.int32) - histogram
    spread = torch.div(below + torch.div(step, 2, rounding_mode="floor"), step.clamp(min=1), rounding_mode="floor")
    return torch.where(step > 0, spread.clamp_(max=255), _inputs(pixels)).to(torch.uint8)


def _invert(pixels: Tensor, values: Tensor) -> Tensor:
    return (255 - _inputs(pixels, torch.uint8)).expand(len(pixels), 1, -1)


def _posterize(pixels: Tensor, values: Tensor) -> Tensor:
    """Keeps the highest bits."""
    return (_inputs(pixels) & values.to(torch.int32)).to(torch.uint8)


def _solarize(pixels: Tensor, values: Tensor) -> Tensor:
    """Inverts what is not below the threshold."""
    inputs = _inputs(pixels)
    return torch.where(inputs < values, inputs, 255 - inputs).to(torch.uint8)


def _solarize_add(pixels: Tensor, values: Tensor) -> Tensor:
    """Adds to all values, and then inverts the upper half."""
    added = (_inputs(pixels) + values).clamp_(max=255)
    return torch.where(added < MIDDLE, added, 255 - added).to(torch.uint8)


def _contrast(pixels: Tensor, values: Tensor) -> Tensor:
    """Towards the mean of the gray image, rounded to a whole value."""
    gray = _gray(_channels(pixels)).flatten(1)
    pixel_count = gray.shape[1]
    mean = torch.div(2 * gray.sum(1) + pixel_count, 2 * pixel_count, rounding_mode="floor")
    return _blend(mean[:, None, None], _inputs(pixels), values)


def _brightness(pixels: Tensor, values: Tensor) -> Tensor:
    """Towards black."""
    inputs = _inputs(pixels)
    return _blend(torch.zeros_like(inputs), inputs, values)


TABLE_OF = dict(
    zip(
        TABLES,
        (_auto_contrast, _equalize, _invert, _posterize, _solarize, _solarize_add, _contrast, _brightness),
        strict=True,
    )
)
