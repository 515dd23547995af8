"""Strong views against Pillow, operation by operation and as a whole, and what pairs of views promise."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as vision
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from common.data import Augmentation, Batch, DeviceLoader, ImageArrays, Normalization, RandAugment
from common.data.rand_augment import KINDS, RANDAUGMENT, Operation, RandAugmentDraws
from common.errors import UserError

AS_IT_IS = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CROP_FLIP = Augmentation(padding=4, flip=True)


def images(count: int, height: int = 32, width: int = 32) -> ImageArrays:
    """Noise, noise of little contrast, smooth pictures, single colors, and channels of one value."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, height, width, 3))
    pixels[1::5] = random.integers(90, 140, pixels[1::5].shape)
    slope = np.linspace(0, 1, width)[:, None] * random.integers(0, 256, (len(pixels[2::5]), 1, 1, 3))
    pixels[2::5] = slope + random.integers(0, 4, (len(slope), height, width, 3))
    pixels[3::10] = random.integers(0, 256, (len(pixels[3::10]), 1, 1, 3))
    pixels[4::10, :, :, 1] = 200
    return ImageArrays(np.minimum(pixels, 255).astype(np.uint8), random.integers(0, 9, count))


def strong_pixels(batch: Batch) -> np.ndarray:
    """Back from [N, 3, H, W] in [0, 1] to uint8 [N, H, W, 3]."""
    return (batch.strong_images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


# --------------------------------------------------------------------------------------------- Pillow, image by image


def cutout(image: Image.Image, fraction: float, center: np.ndarray) -> Image.Image:
    side = fraction * image.width
    if side <= 0:
        return image
    left, top = (int(max(0, c * size - side / 2)) for c, size in zip(center, image.size, strict=True))
    corner = (min(image.width, left + side), min(image.height, top + side))
    ImageDraw.Draw(image).rectangle((left, top, *corner), (125, 123, 114))
    return image


def solarize_add(image: Image.Image, addition: float) -> Image.Image:
    added = np.clip(np.asarray(image).astype(int) + addition, 0, 255)
    return ImageOps.solarize(Image.fromarray(added.astype(np.uint8)), 128)


def moved(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix)


PILLOW = {
    "AutoContrast": lambda image, v: ImageOps.autocontrast(image),
    "Equalize": lambda image, v: ImageOps.equalize(image),
    "Invert": lambda image, v: ImageOps.invert(image),
    "Rotate": lambda image, v: image.rotate(v),
    "Posterize": lambda image, v: ImageOps.posterize(image, max(1, int(v))),
    "Solarize": lambda image, v: ImageOps.solarize(image, v),
    "SolarizeAdd": solarize_add,
    "Color": lambda image, v: ImageEnhance.Color(image).enhance(v),
    "Contrast": lambda image, v: ImageEnhance.Contrast(image).enhance(v),
    "Brightness": lambda image, v: ImageEnhance.Brightness(image).enhance(v),
    "Sharpness": lambda image, v: ImageEnhance.Sharpness(image).enhance(v),
    "ShearX": lambda image, v: moved(image, 1, v, 0, 0, 1, 0),
    "ShearY": lambda image, v: moved(image, 1, 0, 0, v, 1, 0),
    "TranslateX": lambda image, v: moved(image, 1, 0, v * image.width, 0, 1, 0),
    "TranslateY": lambda image, v: moved(image, 1, 0, 0, 0, 1, v * image.height),
}


def by_pillow(pixels: np.ndarray, draws: RandAugmentDraws, position: int) -> np.ndarray:
    """One image after all its rounds."""
    image = Image.fromarray(pixels)
    for kinds, magnitudes, centers in zip(draws.kinds, draws.magnitudes, draws.centers, strict=True):
        name, magnitude = KINDS[kinds[position]], float(magnitudes[position])
        change = partial(cutout, center=centers[:, position]) if name == "Cutout" else PILLOW[name]
        image = change(image, magnitude)
    return np.asarray(image)


def check(data: ImageArrays, strong: RandAugment, augmentation: Augmentation | None = None) -> None:
    """Every strong view of an epoch is what Pillow makes of the same choices."""
    _, height, width, _ = data.pixels.shape
    batches = DeviceLoader(data, 64, AS_IT_IS, augmentation=augmentation, strong=strong, shuffle=True, seed=3)
    random = np.random.default_rng([3, 2, 1])
    crops = (augmentation or Augmentation()).draw(random, len(data))
    draws = strong.draw(random, len(data))
    position = 0
    for batch in batches.epoch(2):
        for index, pixels in zip(batch.indices.tolist(), strong_pixels(batch), strict=True):
            image = vision.pad(Image.fromarray(data.pixels[index]), [augmentation.padding if augmentation else 0])
            image = vision.crop(image, *crops.top_left[position].tolist(), height, width)
            image = vision.horizontal_flip(image) if crops.flipped[position] else image
            assert np.array_equal(pixels, by_pillow(np.asarray(image), draws, position)), draws.take([position])
            position += 1
    assert position == len(data)


@pytest.mark.parametrize("size", [(32, 32), (17, 40), (64, 64)], ids=str)
@pytest.mark.parametrize("operation", RANDAUGMENT, ids=lambda operation: operation.name)
def test_each_operation_gives_pillows_pixels(operation, size):
    check(images(200, *size), RandAugment((operation,), count=1, cutout=0))


@pytest.mark.parametrize(
    "operation",
    [
        Operation("Color", 0.1, 1.9),
        Operation("Contrast", 0.1, 1.9),
        Operation("Brightness", 0.1, 1.9),
        Operation("Sharpness", 0.1, 1.9),
        Operation("Rotate", -180, 180),
        Operation("TranslateX", -1.2, 1.2),
        Operation("Posterize", 0, 8),
        Operation("Cutout", 0, 2),
        *(Operation(name, value, value) for name in ("Color", "Sharpness", "Brightness") for value in (0, 1)),
        Operation("ShearX", 0, 0),
        Operation("Solarize", 256, 256),
    ],
    ids=str,
)
def test_other_intervals_than_the_default_ones(operation):
    check(images(200), RandAugment((operation,), count=1, cutout=0))


@pytest.mark.parametrize("size", [(2, 5), (1, 1), (3, 3)], ids=str)
def test_tiny_images(size):
    check(images(200, *size), RandAugment())


def test_whole_views():
    """Crop, flip, two operations, cutout, in this order, and each on the image that the one before left."""
    check(images(1000), RandAugment(), CROP_FLIP)


def test_more_rounds_and_no_rounds():
    check(images(200), RandAugment(count=4, cutout=0.0), CROP_FLIP)
    check(images(200), RandAugment(count=0, cutout=0.3), CROP_FLIP)
    check(images(60), RandAugment((), count=0, cutout=0), CROP_FLIP)


@pytest.mark.slow
def test_tables_of_pillow_for_every_range_of_values():
    """AutoContrast rounds down in floating point: all lowest and highest values, not only those that noise has."""
    low, high = (half.ravel() for half in np.meshgrid(np.arange(256), np.arange(256)))
    low, high = low[low <= high][::7], high[low <= high][::7]
    pixels = np.linspace(low, high, 16 * 16).round().astype(np.uint8).T.reshape(-1, 16, 16, 1).repeat(3, axis=3)
    data = ImageArrays(pixels, np.zeros(len(pixels), int))
    check(data, RandAugment((Operation("AutoContrast"), Operation("Equalize")), count=1, cutout=0))


# ------------------------------------------------------------------------------------------------------------- chances


def test_draws_have_the_stated_distribution():
    """Operations, magnitudes and squares, each within five standard deviations, rounds independent of each other."""
    count = 40_000
    draws = RandAugment().draw(np.random.default_rng(1), count)
    assert draws.kinds.shape == (3, count)
    assert (draws.kinds[2] == KINDS.index("Cutout")).all()
    for kinds, magnitudes in zip(draws.kinds[:2], draws.magnitudes[:2], strict=True):
        for operation in RANDAUGMENT:
            chosen = kinds == KINDS.index(operation.name)
            assert abs(chosen.sum() - count / 16) < 5 * np.sqrt(count / 16)
            where = (magnitudes[chosen] - operation.low) / ((operation.high - operation.low) or 1)
            assert (where.min(), where.max()) == pytest.approx((0, 1 if operation.high else 0), abs=0.01)
    both = np.bincount(draws.kinds[0] * 16 + draws.kinds[1], minlength=256)
    assert np.abs(both - count / 256).max() < 5 * np.sqrt(count / 256)
    assert draws.magnitudes[2].max() == pytest.approx(0.5, abs=0.001)
    numbers = np.stack([draws.magnitudes[2], *draws.centers.reshape(6, count)])
    assert np.abs(np.corrcoef(numbers) - np.eye(7)).max() < 5 / np.sqrt(count)


# --------------------------------------------------------------------------------------------------------------- pairs


def loader(count: int = 200, **options) -> DeviceLoader:
    options = {"augmentation": CROP_FLIP, "strong": RandAugment(), "shuffle": True, "seed": 4, **options}
    return DeviceLoader(images(count), options.pop("batch_size", 16), AS_IT_IS, **options)


def test_order_and_weak_views_are_those_of_a_loader_without_pairs():
    for pair, single in zip(loader().epoch(3), loader(strong=None).epoch(3), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(pair[:3], single[:3], strict=True))
        assert single.strong_images is None
        assert len(single.inputs) == 3
        assert pair.strong_images.shape == pair.images.shape
        assert pair.strong_images.is_contiguous(memory_format=torch.channels_last)
        assert pair.inputs == (pair.images, pair.targets, pair.indices, pair.strong_images)


def test_crops_and_flips_of_both_views_are_drawn_apart():
    """With no operation at all a strong view is as weak as the other one, and the same crop by chance only."""
    (batch,) = loader(100, batch_size=100, strong=RandAugment(count=0, cutout=0.0)).epoch()
    noise = batch.indices % 5 == 0
    same = (batch.images == batch.strong_images).flatten(1).all(1)[noise]
    assert same.float().mean() < 0.2


def test_strong_views_depend_on_seed_and_epoch_alone():
    first, again = loader(), loader()
    for _ in first.epoch(0):
        pass
    torch.manual_seed(1)
    np.random.seed(1)
    for ours, theirs in zip(first.epoch(1), again.epoch(1), strict=True):
        assert torch.equal(ours.strong_images, theirs.strong_images)
    other_epoch, other_seed = next(first.epoch(2)), next(loader(seed=5).epoch(1))
    assert not torch.equal(other_epoch.strong_images, next(first.epoch(1)).strong_images)
    assert not torch.equal(other_seed.strong_images, next(first.epoch(1)).strong_images)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_share_each_pair(world_size, monkeypatch):
    """Also where they prepare other numbers of batches at once."""
    whole = list(loader().epoch(1))
    monkeypatch.setattr("common.data.device_loader.BLOCK_ON_CPU", 2 * 16 * 32 * 32)
    shares = [list(loader(rank=rank, world_size=world_size).epoch(1)) for rank in range(world_size)]
    for batch, *parts in zip(whole, *shares, strict=True):
        for view in ("images", "strong_images", "indices"):
            assert torch.equal(torch.cat([getattr(part, view) for part in parts]), getattr(batch, view))


def test_limit_cuts_an_epoch_of_pairs():
    limited, whole = list(loader(limit=2).epoch(1)), list(loader().epoch(1))
    assert len(limited) == 2
    assert all(torch.equal(a.strong_images, b.strong_images) for a, b in zip(limited, whole, strict=False))


def test_nothing_is_read_back_from_the_device():
    """A device without memory, which cannot be read from, makes pairs of the right kind all the same."""
    batches = loader(device="meta")
    assert [len(batch.strong_images) for batch in batches.epoch()] == [*[16] * 12, 8]
    assert all(batch.strong_images.device.type == "meta" for batch in batches.epoch())


def test_pairs_may_be_kept():
    kept, copies = zip(*((batch, batch.strong_images.clone()) for batch in loader().epoch()), strict=True)
    assert all(torch.equal(batch.strong_images, copy) for batch, copy in zip(kept, copies, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_pairs():
    for ours, theirs in zip(loader(2000).epoch(1), loader(2000, device="cuda").epoch(1), strict=True):
        assert torch.equal(ours.strong_images, theirs.strong_images.cpu())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": (Operation("Blur"),)}, "RandAugment knows no operation 'Blur'"),
        ({"count": -1}, "RandAugment cannot take -1 of 16 operations"),
        ({"operations": ()}, "RandAugment cannot take 2 of 0 operations"),
        ({"cutout": 1.5}, "must be from 0 to 1 of an image's, not 1.5"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(UserError, match=message):
        RandAugment(**options)
