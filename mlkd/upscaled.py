"""Small images in memory (CIFAR), cut, upscaled and jittered as whole batches on the training device.

The published code upscales one image at a time, in worker processes, with Pillow. Here a batch's crops are upscaled by
two matrix products, whose rows are Pillow's bicubic weights; Pillow's rounding to whole gray levels is left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from common.data import Batch, DeviceLoader, Normalization
from common.losses import add_up

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of random crops: torchvision's defaults
ATTEMPTS = 10  # to draw a crop that fits, as in torchvision
GRAY = (0.2989, 0.587, 0.114)  # how bright red, green and blue are


@dataclasses.dataclass(frozen=True)
class CropParams:
    """What is shown of each of n images, on the training device.

    Attributes:
        top_left, extent: of the crop, in pixels, [2 (y, x), n].
        flipped: [n].
        factors: of brightness, contrast and saturation, [3, n].
    """

    top_left: Tensor
    extent: Tensor
    flipped: Tensor
    factors: Tensor

    def of(self, indices: Tensor) -> CropParams:
        """Those of some of the images."""
        return CropParams(
            *(tensor[..., indices] for tensor in (self.top_left, self.extent, self.flipped, self.factors))
        )


class UpscaledLoader:
    """Batches of upscaled images, with the interface of `common.data.DeviceLoader`.

    Training images are cropped at random, flipped and jittered; others are upscaled as a whole and cropped in the
    middle. What is drawn is a pure function of (seed, epoch).

    Args:
        small: the images as they are, in [0, 1].
        size: side of the upscaled images, in pixels.
        resized: side to which whole images are upscaled before their middle is taken.
        normalization: statistics to normalize by.
        jitter: factors are drawn from 1 - jitter to 1 + jitter; training only.
        train: whether to augment.
    """

    def __init__(
        self, small: DeviceLoader, size: int, resized: int, normalization: Normalization, *, jitter: float, train: bool
    ) -> None:
        self.small, self.size, self.resized, self.jitter, self.train = small, size, resized, jitter, train
        self.normalization = normalization
        self.mean, self.std = (
            torch.tensor(values, device=small.device)[:, None, None]
            for values in (normalization.mean, normalization.std)
        )

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.small)

    @property
    def samples(self) -> int:
        """Samples per epoch, over all ranks."""
        return self.small.samples

    @property
    def message(self) -> str | None:
        """For the log, where samples are left out."""
        return self.small.message

    def unaugmented(self, count: int) -> UpscaledLoader:
        """At most `count` images of the set, evenly spaced, upscaled as a whole and in their order."""
        small = self.small.unaugmented(count)
        return UpscaledLoader(small, self.size, self.resized, self.normalization, jitter=0.0, train=False)

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch; this process's share of each."""
        random = np.random.default_rng([self.small.seed, epoch, 1])
        views = self._draw(random) if self.train else None
        for number, batch in enumerate(self.small.epoch(epoch)):
            if views is None:
                images = self._middle(batch.images)
            else:
                # all images of a batch are jittered in one order, each batch's drawn again
                order = np.random.default_rng([self.small.seed, epoch, 2, number]).permutation(3)
                images = self._views(batch.images, views.of(batch.indices), order.tolist())
            images = ((images - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
            yield batch._replace(images=images)

    def _draw(self, random: np.random.Generator) -> CropParams:
        """The random choices of one epoch, for every image of the set."""
        count = self.small.count
        top_left, extent = draw_crops(random, count, self.small.height, self.small.width)
        flipped = random.random(count) < 0.5
        factors = random.uniform(1 - self.jitter, 1 + self.jitter, (3, count))
        arrays = (top_left, extent, flipped, factors.astype(np.float32))
        return CropParams(*(torch.from_numpy(array).to(self.small.device) for array in arrays))

    def _views(self, images: Tensor, views: CropParams, order: list[int]) -> Tensor:
        """Crop, upscale, flip, jitter."""
        rows, columns = (torch.arange(self.size, device=images.device).expand(len(images), -1) for _ in range(2))
        columns = torch.where(views.flipped[:, None], self.size - 1 - columns, columns)
        lengths = (self.small.height, self.small.width)
        vertical, horizontal = (
            bicubic_weights(length, views.top_left[i], views.extent[i], self.size, positions)
            for i, (length, positions) in enumerate(zip(lengths, (rows, columns), strict=True))
        )
        return jittered(upscale(images, vertical, horizontal), views.factors, order)

    def _middle(self, images: Tensor) -> Tensor:
        """Enlarge whole images and take their middle."""
        margin = (self.resized - self.size) // 2
        positions = torch.arange(margin, margin + self.size, device=images.device)[None]
        zero = torch.zeros(1, dtype=torch.int64, device=images.device)
        vertical, horizontal = (
            bicubic_weights(length, zero, zero + length, self.resized, positions)
            for length in (self.small.height, self.small.width)
        )
        return upscale(images, vertical, horizontal)


def draw_crops(random: np.random.Generator, count: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Top left and extent of crops drawn as torchvision's `RandomResizedCrop` does, both [2 (y, x), count]."""
    area = height * width * random.uniform(*AREA, (ATTEMPTS, count))
    narrowest, widest = np.log(RATIO)
    ratio = np.exp(random.uniform(narrowest, widest, (ATTEMPTS, count)))
    extents = np.rint(np.sqrt(np.stack([area / ratio, area * ratio]))).astype(np.int64)
    sides = np.array([height, width])[:, None]
    fits = ((extents > 0) & (extents <= sides[:, None])).all(0)
    extent = np.take_along_axis(extents, fits.argmax(0)[None, None], axis=1)[:, 0]
    extent = np.where(fits.any(0), extent, sides)  # the whole image, where none has fitted
    return np.floor(random.random((2, count)) * (sides - extent + 1)).astype(np.int64), extent


def bicubic_weights(length: int, start: Tensor, extent: Tensor, resized: int, positions: Tensor) -> Tensor:
    """Weights by which Pillow's bicubic filter resizes a row of pixels, of which nothing outside the crop is seen.

    Args:
        length: pixels of the row.
        start, extent: of the crop, [n].
        resized: pixels that the crop is resized to.
        positions: which of these are wanted, [n, p].

    Returns:
        [n, p, length], each row of which adds up to 1.
    """
    scale = (extent / resized)[:, None]
    support = scale.clamp(min=1)[..., None]  # where it makes images smaller, the filter grows
    pixels = torch.arange(length, device=start.device) - start[:, None, None]
    distance = ((pixels + 0.5 - ((positions + 0.5) * scale)[..., None]) / support).abs()
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0))
    weights = torch.where((pixels >= 0) & (pixels < extent[:, None, None]), weights, 0)
    return weights / weights.sum(-1, keepdim=True)


def upscale(images: Tensor, vertical: Tensor, horizontal: Tensor) -> Tensor:
    """[n, 3, H, W], [n or 1, h, H] and [n or 1, w, W] -> [n, 3, h, w]; each direction's overshoot is cut off."""
    wide = (images @ horizontal[:, None].transpose(-1, -2)).clamp(0, 1)
    return (vertical[:, None] @ wide).clamp(0, 1)


def jittered(images: Tensor, factors: Tensor, order: list[int]) -> Tensor:
    """Brightness (0), contrast (1) and saturation (2) of images in [0, 1] by `factors`, [3, n], in the given order."""
    for kind in order:
        gray = add_up(share * channel for share, channel in zip(GRAY, images.split(1, dim=1), strict=True))
        towards = (torch.zeros_like(gray), gray.mean((2, 3), keepdim=True), gray)[kind]
        images = torch.lerp(towards, images, factors[kind][:, None, None, None]).clamp(0, 1)
    return images
