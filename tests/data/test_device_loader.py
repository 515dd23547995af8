"""Batches against Pillow and torchvision, sample by sample, and what they promise about order and shares."""

from itertools import chain

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as vision
from PIL import Image

from common.data import Augmentation, Batch, DeviceLoader, ImageArrays, Normalization
from common.data.augmentation import AugmentationParams
from common.errors import UserError

NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
CROP_FLIP_ROTATE = Augmentation(padding=4, flip=True, rotation=15)


def images(count: int = 40, height: int = 32, width: int = 32, classes: int = 7) -> ImageArrays:
    random = np.random.default_rng(0)
    pixels = random.integers(1, 256, (count, height, width, 3), dtype=np.uint8)  # 0 is left to what fills
    return ImageArrays(pixels, random.integers(0, classes, count))


def to_pixels(batch: torch.Tensor) -> np.ndarray:
    """Back from normalized [N, 3, H, W] to uint8 [N, H, W, 3]."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (NORMALIZATION.mean, NORMALIZATION.std))
    return ((batch * std + mean) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def orders(batches: DeviceLoader, epoch: int) -> list[list[int]]:
    return [batch.indices.tolist() for batch in batches.epoch(epoch)]


# -------------------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(
    ("augmentation", "height", "width"),
    [
        (CROP_FLIP_ROTATE, 32, 32),
        (Augmentation(flip=True, rotation=20), 64, 64),
        (Augmentation(padding=4, flip=True), 32, 32),
        (Augmentation(padding=3, flip=True, rotation=180), 17, 24),
        (Augmentation(rotation=15), 33, 20),
        (Augmentation(), 8, 8),
    ],
    ids=str,
)
def test_every_pixel_is_where_torchvision_puts_it(augmentation, height, width):
    data = images(300, height, width)
    batches = DeviceLoader(data, 70, NORMALIZATION, augmentation=augmentation, shuffle=True, seed=5)
    random = np.random.default_rng([5, 2])
    order, draws = random.permutation(len(data)), augmentation.draw(random, len(data))
    position = 0
    for batch in batches.epoch(2):
        for pixels in to_pixels(batch.images):
            expected = vision.pad(Image.fromarray(data.pixels[order[position]]), augmentation.padding)
            top, left = draws.top_left[position].tolist()
            expected = vision.crop(expected, top, left, height, width)
            if draws.flipped[position]:
                expected = vision.hflip(expected)
            if draws.degrees is not None:
                expected = vision.rotate(expected, float(draws.degrees[position]))
            assert np.array_equal(pixels, np.asarray(expected)), (position, draws.degrees)
            position += 1
    assert position == len(data)


def test_normalization_is_torchvisions():
    data = images(10)
    (batch,) = DeviceLoader(data, 10, NORMALIZATION).epoch()
    for image, pixels in zip(batch.images, data.pixels, strict=True):
        expected = vision.normalize(vision.to_tensor(Image.fromarray(pixels)), NORMALIZATION.mean, NORMALIZATION.std)
        torch.testing.assert_close(image, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(batch.targets, torch.from_numpy(data.targets))


def test_images_are_channels_last():
    for batch in DeviceLoader(images(), 16, NORMALIZATION, augmentation=CROP_FLIP_ROTATE, shuffle=True).epoch():
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.images.dtype == torch.float32
        assert batch.targets.dtype == batch.indices.dtype == torch.int64


@pytest.mark.parametrize("augmentation", [CROP_FLIP_ROTATE, Augmentation(padding=4, flip=True), None], ids=str)
def test_batches_are_the_same_however_many_are_made_at_once(augmentation, monkeypatch):
    def epoch() -> list[Batch]:
        return list(DeviceLoader(images(), 16, NORMALIZATION, augmentation=augmentation, shuffle=True, seed=2).epoch(1))

    together = epoch()
    monkeypatch.setattr("common.data.device_loader.BLOCK_ON_CPU", 1)
    alone = epoch()
    # one block of three, and three blocks
    assert [len({part.images.untyped_storage().data_ptr() for part in parts}) for parts in (together, alone)] == [1, 3]
    for ours, theirs in zip(together, alone, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours[:3], theirs[:3], strict=True))


@pytest.mark.parametrize("augmentation", [CROP_FLIP_ROTATE, Augmentation(padding=4, flip=True), None], ids=str)
def test_nothing_is_read_back_from_the_device(augmentation):
    """A device without memory, which cannot be read from, makes batches of the right kind all the same."""
    batches = DeviceLoader(images(), 16, NORMALIZATION, "meta", augmentation=augmentation, shuffle=True)
    assert [len(batch.images) for batch in batches.epoch()] == [16, 16, 8]
    assert all(tensor.device.type == "meta" for batch in batches.epoch() for tensor in batch[:3])


def test_batches_may_be_kept(monkeypatch):
    monkeypatch.setattr("common.data.device_loader.BLOCK_ON_CPU", 2 * 16 * 32 * 32)
    batches = DeviceLoader(images(), 16, NORMALIZATION, augmentation=CROP_FLIP_ROTATE, shuffle=True)
    kept, copies = zip(*((batch, batch.images.clone()) for batch in batches.epoch()), strict=True)
    assert len(kept) == 3
    assert all(torch.equal(batch.images, copy) for batch, copy in zip(kept, copies, strict=True))


# ------------------------------------------------------------------------------------------------------- chances


def test_draws_have_the_published_distribution():
    """Crops, flips and angles, each within five standard deviations, and independent of each other."""
    count = 90_000
    draws = CROP_FLIP_ROTATE.draw(np.random.default_rng(1), count)
    for axis in (0, 1):
        frequencies = np.bincount(draws.top_left[:, axis], minlength=9)
        assert len(frequencies) == 9
        assert np.abs(frequencies - count / 9).max() < 5 * np.sqrt(count / 9)
    assert abs(draws.flipped.mean() - 0.5) < 5 * 0.5 / np.sqrt(count)
    assert draws.degrees.min() >= -15
    assert draws.degrees.max() <= 15
    deciles = np.histogram(draws.degrees, bins=10, range=(-15, 15))[0]
    assert np.abs(deciles - count / 10).max() < 5 * np.sqrt(count / 10)
    columns = np.stack([*draws.top_left.T, draws.flipped, draws.degrees])
    correlations = np.corrcoef(columns) - np.eye(4)
    assert np.abs(correlations).max() < 5 / np.sqrt(count)


def test_without_augmentation_nothing_is_drawn():
    draws = Augmentation().draw(np.random.default_rng(0), 5)
    assert isinstance(draws, AugmentationParams)
    assert not draws.top_left.any()
    assert not draws.flipped.any()
    assert draws.degrees is None


# --------------------------------------------------------------------------------------------------------- order


def test_order_and_augmentation_depend_on_seed_and_epoch_alone():
    options = {"augmentation": CROP_FLIP_ROTATE, "shuffle": True}
    first = DeviceLoader(images(), 16, NORMALIZATION, seed=3, **options)
    for epoch in (0, 1):
        for _ in first.epoch(epoch):
            pass
    torch.manual_seed(1)
    np.random.seed(1)
    second = DeviceLoader(images(), 16, NORMALIZATION, seed=3, **options)
    for ours, theirs in zip(first.epoch(2), second.epoch(2), strict=True):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.indices, theirs.indices)
    other = DeviceLoader(images(), 16, NORMALIZATION, seed=4, **options)
    assert orders(first, 2) != orders(first, 3)
    assert orders(first, 2) != orders(other, 2)


@pytest.mark.parametrize("augmentation", [None, CROP_FLIP_ROTATE])
def test_an_epoch_has_every_sample_once(augmentation):
    batches = DeviceLoader(images(), 16, NORMALIZATION, augmentation=augmentation, shuffle=True)
    assert [len(batch) for batch in orders(batches, 0)] == [16, 16, 8]
    assert sorted(chain(*orders(batches, 0))) == list(range(40))
    data = images()
    for batch in batches.epoch(0):
        assert torch.equal(batch.targets, torch.from_numpy(data.targets)[batch.indices])


def test_evaluation_keeps_the_order_of_the_set():
    assert list(chain(*orders(DeviceLoader(images(), 16, NORMALIZATION), 7))) == list(range(40))


# -------------------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("shuffle", [True, False])
def test_processes_share_each_batch(world_size, shuffle):
    options = {"augmentation": CROP_FLIP_ROTATE, "shuffle": shuffle, "seed": 1}
    whole = list(DeviceLoader(images(), 16, NORMALIZATION, **options).epoch(1))
    shares = [
        list(DeviceLoader(images(), 16, NORMALIZATION, rank=rank, world_size=world_size, **options).epoch(1))
        for rank in range(world_size)
    ]
    for batch, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part.images for part in parts]), batch.images)
        assert torch.equal(torch.cat([part.indices for part in parts]), batch.indices)
        sizes = [len(part.targets) for part in parts]
        assert max(sizes) - min(sizes) <= 1
        assert all(part.global_size == len(batch.targets) for part in parts)


@pytest.mark.parametrize(
    ("count", "world_size", "sizes"),
    [
        (34, 1, [16, 16, 2]),
        (33, 1, [16, 16]),  # one sample is too few for batch norm
        (35, 2, [16, 16]),
        (36, 2, [16, 16, 4]),
        (2, 1, [2]),
        (1, 1, []),
    ],
)
def test_last_batch_of_training_has_two_samples_a_process(count, world_size, sizes):
    batches = DeviceLoader(images(count), 16, NORMALIZATION, shuffle=True, world_size=world_size)
    assert [batch.global_size for batch in batches.epoch()] == sizes
    assert (len(batches), batches.samples) == (len(sizes), sum(sizes))


@pytest.mark.parametrize("count", [1, 31, 32, 33, 34])
def test_evaluation_leaves_no_sample_out(count):
    shares = [DeviceLoader(images(count), 16, NORMALIZATION, rank=rank, world_size=2) for rank in (0, 1)]
    assert sorted(chain(*(order for share in shares for order in orders(share, 0)))) == list(range(count))
    assert all(len(batch.targets) for share in shares for batch in share.epoch())


def test_single_samples_train_where_that_is_what_was_asked_for():
    assert len(DeviceLoader(images(3), 1, NORMALIZATION, shuffle=True)) == 3


def test_batches_smaller_than_the_processes():
    with pytest.raises(UserError, match="a batch of 3 cannot be divided among 4 processes"):
        DeviceLoader(images(), 3, NORMALIZATION, world_size=4)


def test_limit():
    batches = DeviceLoader(images(), 16, NORMALIZATION, shuffle=True, limit=2)
    assert (len(batches), batches.samples) == (2, 32)
    unlimited = DeviceLoader(images(), 16, NORMALIZATION, shuffle=True)
    assert orders(batches, 4) == orders(unlimited, 4)[:2]
    assert len(DeviceLoader(images(), 16, NORMALIZATION, limit=9)) == 3
