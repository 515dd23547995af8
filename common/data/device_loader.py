"""Device-resident batches: no worker processes, no per-sample Python, no host synchronization."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from common.data.augmentation import Augmentation, AugmentationParams, AugmentedPixels, Normalization
from common.data.datasets import ImageArrays
from common.data.rand_augment import RandAugment, RandAugmentedPixels
from common.errors import UserError

# Pixels that are prepared at once: on a CPU what its caches hold, elsewhere enough to make launches rare.
BLOCK_ON_CPU, BLOCK = 1 << 18, 1 << 23
STRONG = 1  # sets what is drawn for strong views apart from all else that is drawn for an epoch


class Batch(NamedTuple):
    """One batch on the training device.

    Attributes:
        images: normalized, [N, 3, H, W], channels-last in memory.
        targets: class indices, [N].
        indices: position of each sample in its image set, [N].
        global_size: samples of this batch over all ranks (N when there is one).
        strong_images: a second view of the same samples, augmented more strongly, like `images`; None where the loader
            makes none.
    """

    images: Tensor
    targets: Tensor
    indices: Tensor
    global_size: int
    strong_images: Tensor | None = None

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a training step takes: images, targets, indices and, where there are some, the strong images."""
        return self[:3] if self.strong_images is None else (*self[:3], self.strong_images)


class BatchLoader(Protocol):
    """What training and evaluation ask of a loader."""

    def __len__(self) -> int:
        """Batches per epoch."""
        ...

    @property
    def samples(self) -> int:
        """Samples per epoch, over all ranks."""
        ...

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch; this process's share of each."""
        ...


def batch_bounds(
    count: int, batch_size: int, world_size: int, limit: int | None, *, train: bool
) -> tuple[list[tuple[int, int]], str | None]:
    """From where to where in an epoch's order each batch reaches: the same rule for every loader.

    In training, a last batch of fewer than two samples per process is left out: batch norm, and losses that compare
    samples, have no value for one. In evaluation all samples count.

    Args:
        count: samples of the set.
        batch_size: samples per step over all ranks.
        world_size: processes that share each batch.
        limit: at most so many batches.
        train: whether the batches are trained on.

    Returns:
        The bounds, and a message for the log where samples are left out.

    Raises:
        UserError: batches smaller than one sample per process.
    """
    if batch_size < world_size:
        raise UserError(f"a batch of {batch_size} cannot be divided among {world_size} processes")
    bounds = [(begin, min(begin + batch_size, count)) for begin in range(0, count, batch_size)]
    rest, message = count % batch_size, None
    if train and rest in range(1, min(2 * world_size, batch_size)):
        bounds.pop()
        if limit is None or limit > len(bounds):
            samples = "1 sample" if rest == 1 else f"{rest} samples"
            message = (
                f"each epoch leaves out the last {samples} of its order: a training batch needs two on each rank "
                "(another batch size takes all in)"
            )
    return bounds[:limit], message


def evenly_spaced(size: int, count: int) -> np.ndarray:
    """At most `count` positions among `size`, evenly spaced: of sets in the order of their classes some of each."""
    return np.unique(np.linspace(0, size - 1, min(size, count)).round().astype(np.int64))


class _Block(NamedTuple):
    """Batches that are prepared at once.

    Attributes:
        batches: which of the epoch's.
        samples: which of this process's samples of the epoch they hold.
        sizes: this process's samples of each batch.
    """

    batches: slice
    samples: slice
    sizes: list[int]


class EpochViews(NamedTuple):
    """Which images a process sees in an epoch, and how: known on the host before the epoch begins.

    Attributes:
        seen: positions in the epoch's order of this process's samples, [n].
        indices: positions in the image set of the same samples, [n].
        draws: the augmentation's choices for them.
    """

    seen: np.ndarray
    indices: np.ndarray
    draws: AugmentationParams


class DeviceLoader:
    """Batches of an image set, augmented and normalized as whole batches on `device`.

    Order and augmentation are a pure function of (seed, epoch), drawn on the host once per epoch, so that a resumed
    or re-sharded run sees what an uninterrupted one would, on every device.

    Args:
        images: the image set.
        batch_size: samples per step over all ranks; the last batch may be smaller.
        normalization: statistics to normalize by.
        device: where the images live and the batches are made.
        augmentation: None reads the images as they are.
        strong: makes a second view of each sample, `Batch.strong_images`: by `augmentation`, drawn once more, and then
            by this. Order and first view are the same with and without it.
        shuffle: for training: a new order each epoch, and no last batch that is too small (`batch_bounds`). Else the
            order of the set, and all of it.
        seed: of order and augmentation.
        rank, world_size: this process takes its share of every batch.
        limit: at most so many batches per epoch.

    Attributes:
        message: for the log, where samples are left out; else None.
        normalization: statistics to normalize by.
        origin: of `ImageArrays`.

    Raises:
        UserError: batches smaller than one sample per process.
    """

    def __init__(
        self,
        images: ImageArrays,
        batch_size: int,
        normalization: Normalization,
        device: torch.device | str = "cpu",
        *,
        augmentation: Augmentation | None = None,
        strong: RandAugment | None = None,
        shuffle: bool = False,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        limit: int | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.rank, self.world_size = rank, world_size
        self.augmentation = augmentation or Augmentation()
        self.normalization = normalization
        self.origin = images.origin
        self.strong = strong
        self.shuffle = shuffle
        self.seed = seed
        self.count, self.height, self.width, _ = images.pixels.shape
        self.targets = torch.from_numpy(images.targets).to(self.device)
        self.padded = _padded_pixels(images.pixels, self.augmentation.padding).to(self.device)
        # repeated over a row of pixels, so that the arithmetic runs along whole rows
        self.scale = torch.tensor([1 / (255 * s) for s in normalization.std], device=self.device).repeat(self.width)
        shift = [-m / s for m, s in zip(normalization.mean, normalization.std, strict=True)]
        self.shift = torch.tensor(shift, device=self.device).repeat(self.width)
        self._divide(limit)

    def _divide(self, limit: int | None) -> None:
        """Divide an epoch into batches, at most `limit`, and these into what is prepared at once."""
        size, ranks = self.batch_size, self.world_size
        self._bounds, self.message = batch_bounds(self.count, size, ranks, limit, train=self.shuffle)
        # from where to where in the epoch's order this process's share of each batch reaches
        self._shares = [np.linspace(*bound, ranks + 1).astype(int)[self.rank :][:2] for bound in self._bounds]
        block = BLOCK_ON_CPU if self.device.type == "cpu" else BLOCK
        self._blocks = self._cut(max(1, block * ranks // (size * self.height * self.width)))

    def unaugmented(self, count: int) -> DeviceLoader:
        """At most `count` images of the set, evenly spaced, as they are and in their order: to evaluate on."""
        chosen = evenly_spaced(self.count, count)
        margin, loader = self.augmentation.padding, copy.copy(self)
        inside = self.padded[:, margin : margin + self.height, margin : margin + self.width]
        loader.padded, loader.targets = inside[chosen].contiguous(), self.targets[chosen]
        loader.count, loader.augmentation, loader.strong, loader.shuffle = len(chosen), Augmentation(), None, False
        loader._divide(None)
        return loader

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._bounds)

    @property
    def samples(self) -> int:
        """Samples per epoch, over all ranks."""
        return self._bounds[-1][1] if self._bounds else 0

    def _cut(self, batches: int) -> list[_Block]:
        """Blocks of so many batches."""
        sizes = self.shares
        ends = np.cumsum([0, *sizes]).tolist()
        blocks = []
        for first in range(0, len(sizes), batches):
            here = slice(first, min(first + batches, len(sizes)))
            blocks.append(_Block(here, slice(ends[here.start], ends[here.stop]), sizes[here]))
        return blocks

    @property
    def shares(self) -> list[int]:
        """Samples of this process in each batch of an epoch."""
        return [int(stop - start) for start, stop in self._shares]

    def views(self, epoch: int = 0) -> EpochViews:
        """What this process sees in an epoch, in the order of `epoch`."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(self.count) if self.shuffle else np.arange(self.count)
        draws = self.augmentation.draw(random, self.count)
        seen = np.concatenate([np.arange(*share) for share in self._shares]) if self._shares else np.arange(0)
        return EpochViews(seen, order[seen], draws.take(seen))

    def render(self, views: EpochViews, positions: np.ndarray, size: int) -> Iterator[Tensor]:
        """The images of an epoch at some `positions` in `views`, so many at a time, as its batches have them."""
        indices = torch.from_numpy(views.indices[positions]).to(self.device)
        pixels = AugmentedPixels(self.padded, indices, views.draws.take(positions), self.height, self.width)
        for first in range(0, len(positions), size):
            yield self._normalized(pixels[first : first + size])

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch; this process's share of each."""
        seen, order, draws = self.views(epoch)
        indices = torch.from_numpy(order).to(self.device)
        targets = self.targets[indices]
        pixels = AugmentedPixels(self.padded, indices, draws, self.height, self.width)
        strong_pixels = self._strong_pixels(epoch, seen, indices)
        for number, block in enumerate(self._blocks):
            parts = zip(
                self._normalized(pixels[block.samples]).split(block.sizes),
                targets[block.samples].split(block.sizes),
                indices[block.samples].split(block.sizes),
                [None] * len(block.sizes)
                if strong_pixels is None
                else self._normalized(strong_pixels[number]).split(block.sizes),
                self._bounds[block.batches],
                strict=True,
            )
            for images, labels, positions, strong_images, (first, last) in parts:
                if len(images):
                    yield Batch(images, labels, positions, last - first, strong_images)

    def _strong_pixels(self, epoch: int, seen: np.ndarray, indices: Tensor) -> RandAugmentedPixels | None:
        """The strong views of an epoch, drawn apart from the order and the first views; None without `strong`.

        Args:
            seen: positions in the epoch's order of this process's samples.
            indices: the same samples' positions in the set.
        """
        if self.strong is None:
            return None
        random = np.random.default_rng([self.seed, epoch, STRONG])
        crops = self.augmentation.draw(random, self.count).take(seen)
        draws = self.strong.draw(random, self.count).take(seen)
        view = AugmentedPixels(self.padded, indices, crops, self.height, self.width)
        blocks = [block.samples for block in self._blocks]
        return RandAugmentedPixels(view, draws, blocks, self.height, self.width, self.device)

    def _normalized(self, pixels: Tensor) -> Tensor:
        """From four-byte pixels, [N, H, W], to normalized images, [N, 3, H, W] in channels-last memory."""
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
