"""Strong views against Pillow, operation by operation and as a whole, and what pairs of views promise."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as vision
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from common.data import Augmentation, Batch, Batches, ImageArrays, Normalization, RandAugment
from common.data.rand_augment import KINDS, RANDAUGMENT, Operation, RandAugmentDraws

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
    batches = Batches(data, 64, AS_IT_IS, augmentation=augmentation, strong=strong, shuffle=True, seed=3)
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


def test_tables_of_pillow_for_every_range_of_values():
    """AutoContrast rounds down in floating point: all lowest and highest values, not only those that noise has."""
    low, high = (half.ravel() for half in np.meshgrid(np.arange(256), np.arange(256)))
    low, high = low[low <= high][::7], high[low <= high][::7]
    pixels = np.linspace(low, high, 16 * 16).round().astype(np.uint8).T.reshape(-1, 16, 16, 1).repeat(3, axis=3)
    data = ImageArrays(pixels, np.zeros(len(pixels), int))
    check(data, RandAugment((Operation("AutoContrast"), Operation("Equalize")), count=1, cutout=0))
