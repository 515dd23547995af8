"""Sets of large images, ImageNet's above all: decoded, cut and augmented again each time by worker processes."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, default_collate
from torch.utils.data import Dataset as TorchDataset

from common.data.augmentation import Normalization
from common.data.datasets import Dataset, ImageSet, describe_provenance
from common.data.device_loader import Batch, batch_bounds, evenly_spaced
from common.data.image_folder import list_splits
from common.data.images import Members, check_splits_nonempty, fingerprint, quiet_pillow, read_image, without_bad
from common.errors import TrainingError, UserError
from common.hardware import cpu_count

CROP, RESIZED = 224, 256
IMAGENET_COUNTS = (1000, 1_281_167, 50_000)  # classes, training images, validation images


@dataclasses.dataclass(frozen=True)
class ImageFiles(ImageSet):
    """Images on disk with their classes.

    Attributes:
        files: one path per image.
        targets: class indices, int64, [N].
    """

    files: tuple[Path, ...]
    targets: np.ndarray

    def take(self, positions: np.ndarray) -> ImageFiles:
        return ImageFiles(tuple(self.files[i] for i in positions), self.targets[positions])

    @classmethod
    def of(cls, members: Members) -> ImageFiles:
        return cls(tuple(file for file, _ in members), np.array([target for _, target in members], np.int64))


def load_imagenet(root: Path, *, skip_bad: bool = False) -> Dataset[ImageFiles]:
    """ImageNet in its folder layout: `root/imagenet/{train,val}/<wnid>/*`. It is never downloaded.

    Raises:
        UserError: absent, or classes that differ between the parts.
    """
    return load_image_files("imagenet", root, skip_bad=skip_bad)


def load_image_files(name: str, root: Path, *, skip_bad: bool = False) -> Dataset[ImageFiles]:
    """Large images in folders: `root/<name>/train/<class>/*` and `val` or `test` alike. They are never downloaded.

    Args:
        name: folder below `root`.
        root: directory of datasets.
        skip_bad: leave out images that cannot be read.

    Raises:
        UserError: absent, or classes that differ between the parts.
    """
    folder = root / name
    tested = next((split for split in ("val", "test") if (folder / split).is_dir()), None)
    if tested is None or not (folder / "train").is_dir():
        raise UserError(
            f"{'ImageNet' if name == 'imagenet' else name} is not in {folder}: it needs train/<class>/ and "
            "val/<class>/ with the images of each class (data/README.md); "
            "`python -m common.data.synthetic DEST --layout imagenet` writes a small stand-in"
        )
    classes, parts, messages = list_splits(folder)
    if missing := [classes[i] for i in sorted({*range(len(classes))} - {target for _, target in parts[1]})]:
        raise UserError(f"{folder / tested} lacks the class {missing[0]} that {folder / 'train'} has, or its images")
    content = "image folder"
    if name == "imagenet":
        published = (len(classes), *map(len, parts)) == IMAGENET_COUNTS
        content = "published layout and counts" if published else "other content in the published layout"
    parts, skipped = without_bad(root, name, parts, skip=skip_bad)
    check_splits_nonempty(folder, classes, parts)
    content, digest = describe_provenance(folder, content), fingerprint(root, name, parts)
    train, test = map(ImageFiles.of, parts)
    return Dataset(name, train, test, classes, content, digest, messages=(*messages, *skipped))


class ImageFileLoader:
    """Batches of images on disk, with the interface of `common.data.DeviceLoader`.

    Training images are cropped at random (8 to 100 % of the area, to a square) and flipped, others resized and cropped
    in the middle (256 to 224 pixels, or in that proportion). Order and augmentation are a pure function of
    (seed, epoch), whatever the number of workers.

    Args:
        images: the image set.
        batch_size: samples per step over all ranks; the last batch may be smaller.
        normalization: statistics to normalize by.
        device: where the batches go.
        train: shuffle, augment, and leave out a last batch that is too small (`batch_bounds`).
        size: side of the images, in pixels.
        interpolation: with which they are resized, `bilinear` or `bicubic`.
        jitter: brightness, contrast and saturation of training images vary by factors from 1 - jitter to 1 + jitter.
        workers: processes that decode; 0 decodes in this one.
        seed: of order and augmentation.
        rank, world_size: this process takes its share of every batch.
        limit: at most so many batches per epoch.

    Attributes:
        message: for the log, where samples are left out; else None.

    Raises:
        UserError: batches smaller than one sample per process.
    """

    def __init__(
        self,
        images: ImageFiles,
        batch_size: int,
        normalization: Normalization,
        device: torch.device | str = "cpu",
        *,
        train: bool = False,
        size: int = CROP,
        interpolation: str = "bilinear",
        jitter: float = 0.0,
        workers: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        limit: int | None = None,
    ) -> None:
        self.device = torch.device(device)
        self.train, self.seed = train, seed
        self._unaugmented = functools.partial(
            ImageFileLoader,
            batch_size=batch_size,
            normalization=normalization,
            device=device,
            size=size,
            interpolation=interpolation,
            workers=workers,
            rank=rank,
            world_size=world_size,
        )
        self._images = images
        self.targets = torch.from_numpy(images.targets)
        self._bounds, self.message = batch_bounds(len(images), batch_size, world_size, limit, train=train)
        self._order = _Order(self._bounds, len(images), train, seed, rank, world_size)
        self._loader = DataLoader(
            _Decoded(images, _transform(normalization, train, size, interpolation, jitter), train, seed),
            batch_sampler=self._order,
            num_workers=min(workers, cpu_count()),  # more than cores would only wait for each other
            pin_memory=self.device.type == "cuda",
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # of its own, so that the loop's stays as it is
            collate_fn=_collate,
        )

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self._bounds)

    @property
    def samples(self) -> int:
        """Samples per epoch, over all ranks."""
        return self._bounds[-1][1] if self._bounds else 0

    def unaugmented(self, count: int) -> ImageFileLoader:
        """At most `count` images of the set, evenly spaced, prepared as for an evaluation and in their order."""
        return self._unaugmented(self._images.take(evenly_spaced(len(self._images), count)))

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        """The batches of one epoch; this process's share of each."""
        self._order.epoch = epoch
        shared = [bound for bound in self._bounds if len(self._order.share(*bound))]
        for (first, last), batch in zip(shared, self._loader, strict=True):
            if isinstance(batch, _Unreadable):
                raise batch.error
            images, targets, indices = batch
            images = images.to(self.device, non_blocking=True).contiguous(memory_format=torch.channels_last)
            targets, indices = (tensor.to(self.device, non_blocking=True) for tensor in (targets, indices))
            yield Batch(images, targets, indices, last - first)


class _Order(Sampler):
    """Which images each batch holds, each with the epoch that its augmentation is drawn for."""

    def __init__(
        self, bounds: list[tuple[int, int]], count: int, shuffle: bool, seed: int, rank: int, world_size: int
    ) -> None:
        self.bounds, self.count, self.shuffle = bounds, count, shuffle
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.epoch = 0

    def __len__(self) -> int:
        return sum(len(self.share(*bound)) > 0 for bound in self.bounds)

    def share(self, first: int, last: int) -> range:
        """This process's part of a batch; where one is evaluated that is smaller than the processes, maybe nothing."""
        ends = np.linspace(first, last, self.world_size + 1).astype(int).tolist()
        return range(ends[self.rank], ends[self.rank + 1])

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(self.count) if self.shuffle else np.arange(self.count)
        for bound in self.bounds:
            if share := self.share(*bound):
                yield [(int(order[i]), self.epoch) for i in share]


def _transform(
    normalization: Normalization, train: bool, size: int, interpolation: str, jitter: float
) -> Callable[[Image.Image], Tensor]:
    """From a PIL image to a normalized tensor, [3, size, size]."""
    from torchvision.transforms import v2  # as slow to import as all of PyTorch

    mode = v2.InterpolationMode(interpolation)
    if train:
        cut = [v2.RandomResizedCrop(size, interpolation=mode), v2.RandomHorizontalFlip()]
        cut += [v2.ColorJitter(jitter, jitter, jitter)] if jitter else []
    else:
        cut = [v2.Resize(size * RESIZED // CROP, interpolation=mode), v2.CenterCrop(size)]
    as_tensor = [v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*cut, *as_tensor, v2.Normalize(normalization.mean, normalization.std)])


@dataclasses.dataclass(frozen=True)
class _Unreadable:
    """Stands for an image that cannot be read: an exception would come out of a worker with its traceback as text."""

    error: UserError | TrainingError


def _collate(items: list[tuple[Tensor, int, int] | _Unreadable]) -> list[Tensor] | _Unreadable:
    return next((item for item in items if isinstance(item, _Unreadable)), None) or default_collate(items)


class _Decoded(TorchDataset):
    """Images by (position, epoch)."""

    def __init__(self, images: ImageFiles, transform: Callable[[Image.Image], Tensor], train: bool, seed: int) -> None:
        self.images, self.transform, self.train, self.seed = images, transform, train, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int, int] | _Unreadable:
        index, epoch = key
        try:
            with quiet_pillow():
                image = read_image(self.images.files[index])
        except UserError as error:
            return _Unreadable(UserError(f"{error} (--skip-bad-images leaves such images out)"))
        except TrainingError as error:
            return _Unreadable(error)
        if not self.train:
            return self.transform(image), int(self.images.targets[index]), index
        seed = int(np.random.SeedSequence([self.seed, epoch, index]).generate_state(1, np.uint64)[0])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.transform(image), int(self.images.targets[index]), index
