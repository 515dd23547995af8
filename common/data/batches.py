"""Device-resident batches: no worker processes, no per-sample Python, no host synchronisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.data.augmentation import Augmentation, Normalization, PixelIndex
from common.data.datasets import ImageArrays
from common.errors import UserError


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
        self.rank, self.world_size = rank, world_size
        self.count, self.height, self.width, _ = images.pixels.shape
        self.targets = torch.from_numpy(images.targets).to(self.device)
        self.store = _pixel_store(images.pixels, self.augmentation.padding).to(self.device)
        scale = [1 / (255 * s) for s in normalization.std] + [0.0]
        shift = [-m / s for m, s in zip(normalization.mean, normalization.std, strict=True)] + [0.0]
        # repeated over a row of pixels, so that the arithmetic runs along whole rows
        self.scale = torch.tensor(scale, device=self.device).repeat(self.width)
        self.shift = torch.tensor(shift, device=self.device).repeat(self.width)
        self._bounds = [(b, min(b + batch_size, self.count)) for b in range(0, self.count, batch_size)]
        if shuffle and self.count % batch_size in range(1, min(2 * world_size, batch_size)):
            self._bounds.pop()
        self._bounds = self._bounds[:limit]

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
        pixel_index = PixelIndex(order, draws, self.height, self.width, self.augmentation.padding, self.device)
        indices = torch.from_numpy(order).to(self.device)
        targets = self.targets[indices]
        for first, last in self._bounds:
            share = np.linspace(first, last, self.world_size + 1).astype(int)
            start, stop = int(share[self.rank]), int(share[self.rank + 1])
            if start < stop:
                images = self._normalized(pixel_index(start, stop))
                yield Batch(images, targets[start:stop], indices[start:stop], last - first)

    def _normalized(self, pixel_index: Tensor) -> Tensor:
        """Look pixels up and normalise them: [N, H, W] indices -> [N, 3, H, W] in channels-last memory."""
        pixels = self.store.index_select(0, pixel_index.flatten())
        rows = pixels.view(torch.uint8).view(-1, self.width * 4).float()
        torch.addcmul(self.shift, rows, self.scale, out=rows)
        images = rows.view(*pixel_index.shape, 4).permute(0, 3, 1, 2)[:, :3]
        return images.contiguous(memory_format=torch.channels_last)


def _pixel_store(pixels: np.ndarray, padding: int) -> Tensor:
    """Images as a flat row of four-byte pixels, one black pixel first: one lookup then moves all three channels.

    Args:
        pixels: uint8, [N, H, W, 3].
        padding: black pixels around each image.

    Returns:
        int32, [1 + N * (H + 2 padding) * (W + 2 padding)].
    """
    count, height, width, _ = pixels.shape
    area = (height + 2 * padding) * (width + 2 * padding)
    store = torch.zeros(1 + count * area, dtype=torch.int32)
    padded = store[1:].view(torch.uint8).view(count, height + 2 * padding, width + 2 * padding, 4)
    padded[:, padding : padding + height, padding : padding + width, :3] = torch.from_numpy(pixels)
    return store
