"""Device-resident batches: no worker processes, no per-sample Python, no host synchronisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.augmentation import Augmentation, AugmentedPixels, Normalization
from common.data.datasets import ImageArrays
from common.errors import UserError

# Pixels that are prepared at once: on a CPU what its caches hold, elsewhere enough to make launches rare.
BLOCK_ON_CPU, BLOCK = 1 << 18, 1 << 23


class Batch(NamedTuple):
    """One batch on the training device.

    Attributes:
        images: normalised, [N, 3, H, W], channels-last in memory.
        targets: class indices, [N].
        indices: position of each sample in its image set, [N].
        global_size: samples of this batch over all processes (N when there is one).
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    global_size: int


class Batches:
    """Batches of an image set, augmented and normalised as whole batches on `device`.

    Order and augmentation are a pure function of (seed, epoch), drawn on the host once an epoch, so that a resumed
    or re-sharded run sees what an unbroken one would, on every device.

    Args:
        images: the image set.
        batch_size: samples a step over all processes; the last batch may be smaller.
        normalization: statistics to normalise by.
        device: where the images live and the batches are made.
        augmentation: None reads the images as they are.
        shuffle: for training: a new order each epoch, and a last batch of fewer than two samples a process is left
            out, because batch norm cannot train on one. Else the order of the set, and all of it.
        seed: of order and augmentation.
        rank, world_size: this process takes its share of every batch.
        limit: at most so many batches an epoch.

    Raises:
        UserError: batches smaller than one sample a process.
    """

    def __init__(
        self,
        images: ImageArrays,
        batch_size: int,
        normalization: Normalization,
        device: torch.device | str = "cpu",
        *,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        limit: int | None = None,
    ) -> None:
        if batch_size < world_size:
            raise UserError(f"a batch of {batch_size} cannot be divided among {world_size} processes")
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.augmentation = augmentation or Augmentation()
        self.shuffle = shuffle
        self.seed = seed
        self.count, self.height, self.width, _ = images.pixels.shape
        self.targets = torch.from_numpy(images.targets).to(self.device)
        self.padded = _padded_pixels(images.pixels, self.augmentation.padding).to(self.device)
        # repeated over a row of pixels, so that the arithmetic runs along whole rows
        self.scale = torch.tensor([1 / (255 * s) for s in normalization.std], device=self.device).repeat(self.width)
        shift = [-m / s for m, s in zip(normalization.mean, normalization.std, strict=True)]
        self.shift = torch.tensor(shift, device=self.device).repeat(self.width)
        self._bounds = [(b, min(b + batch_size, self.count)) for b in range(0, self.count, batch_size)]
        if shuffle and self.count % batch_size in range(1, min(2 * world_size, batch_size)):
            self._bounds.pop()
        self._bounds = self._bounds[:limit]
        # from where to where in the epoch's order this process's share of each batch reaches
        self._shares = [np.linspace(*bound, world_size + 1).astype(int)[rank:][:2] for bound in self._bounds]
        block = BLOCK_ON_CPU if self.device.type == "cpu" else BLOCK
        self._batches_a_block = max(1, block * world_size // (batch_size * self.height * self.width))

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._bounds)

    @property
    def samples(self) -> int:
        """Samples an epoch, over all processes."""
        return self._bounds[-1][1] if self._bounds else 0

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch; this process's share of each."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(self.count) if self.shuffle else np.arange(self.count)
        draws = self.augmentation.draw(random, self.count)
        seen = np.concatenate([np.arange(*share) for share in self._shares]) if self._shares else np.arange(0)
        indices = torch.from_numpy(order[seen]).to(self.device)
        targets = self.targets[indices]
        pixels = AugmentedPixels(self.padded, indices, draws.take(seen), self.height, self.width)
        position = 0
        for block in range(0, len(self._shares), self._batches_a_block):
            here = slice(block, block + self._batches_a_block)
            sizes = [int(stop - start) for start, stop in self._shares[here]]
            some = slice(position, position + sum(sizes))
            position = some.stop
            parts = [whole.split(sizes) for whole in (self._normalized(pixels[some]), targets[some], indices[some])]
            for *batch, (first, last) in zip(*parts, self._bounds[here], strict=True):
                if len(batch[0]):
                    yield Batch(*batch, last - first)

    def _normalized(self, pixels: Tensor) -> Tensor:
        """From four-byte pixels, [N, H, W], to normalised images, [N, 3, H, W] in channels-last memory."""
        channels = pixels.view(torch.uint8).view(*pixels.shape, 4)
        images = torch.empty(*pixels.shape, 3, device=self.device)
        for channel in range(3):  # one at a time: PyTorch's copies are slow along a dimension as short as this
            images[..., channel] = channels[..., channel]
        rows = images.view(-1, self.width * 3)
        torch.addcmul(self.shift, rows, self.scale, out=rows)
        return images.permute(0, 3, 1, 2)


def _padded_pixels(pixels: np.ndarray, padding: int) -> Tensor:
    """Images with black around them, a pixel in four bytes: what moves a pixel then moves all its channels.

    Args:
        pixels: uint8, [N, H, W, 3].
        padding: black pixels around each image.

    Returns:
        int32, [N, H + 2 padding, W + 2 padding].
    """
    count, height, width, _ = pixels.shape
    padded = torch.zeros(count, height + 2 * padding, width + 2 * padding, dtype=torch.int32)
    channels = padded.view(torch.uint8).view(*padded.shape, 4)
    inside = channels[:, padding : padding + height, padding : padding + width]
    for channel in range(3):
        inside[..., channel] = torch.from_numpy(pixels[..., channel])
    return padded
