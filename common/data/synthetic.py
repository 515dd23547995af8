"""The generated set: learnable images in the layouts of the real data sets.

    python -m common.data.synthetic DEST [--layout cifar-100] [--train-per-class N] [--test-per-class N] [--seed S]

With it everything can be run on a machine without network, through the same readers as the real data. A picture shows
an object on a textured ground. Classes come in groups of five: a group has its own ground, palette and outline; its
members differ only in how the object is marked, by amounts that overlap between neighbours. So groups are learned
before classes, and what a teacher is unsure about says something. What a class looks like is fixed; the seed draws the
pictures.

The files are a function of the settings, byte for byte. To that end pictures are painted with basic arithmetic only
(no sine, exponential or matrix product, whose last bit depends on the processor), and the CIFAR pickles are written
opcode by opcode. The bytes of JPEGs depend, besides, on the libjpeg inside Pillow.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import secrets
import shutil
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.data.datasets import MARKER
from common.errors import UserError

GROUP_SIZE = 5

_VERSION = 1  # of pictures and files: raise it when the same settings come to give other bytes
_MAX_PER_CLASS = 5000  # CIFAR's pickle protocol cannot hold a file of 2 GiB, which 100 times this many stay below
_PETS_CATS = 12  # of the 37 classes of Oxford-IIIT Pet; the others are dogs


@dataclass(frozen=True)
class Settings:
    """What a generated set is a function of; stored in its marker."""

    layout: str
    classes: int
    train_per_class: int
    test_per_class: int
    seed: int
    version: int = _VERSION

    def random(self, split: str) -> np.random.Generator:
        """The random numbers of one split ("train" or "test"), independent of those of the other."""
        return np.random.default_rng([self.seed, zlib.crc32(f"{self.layout} {split}".encode())])


def class_groups(classes: int) -> np.ndarray:
    """The group of every class, [classes]: five consecutive classes look alike (CIFAR-100's coarse labels)."""
    return np.arange(classes) // GROUP_SIZE


def class_names(classes: int) -> list[str]:
    """Names that nobody takes for real ones."""
    return [f"generated_{c:03d}" for c in range(classes)]


# ---------------------------------------------------------------------------------------------------------- pictures

# A group's outline: the object lies where a*max(|u|, |v|) + b*min(|u|, |v|) + c*|(u, v)| < 1 (one formula, so that all
# groups are painted at once), u to the right and v downwards in units of its radius, v divided by the stretch.
_OUTLINES = np.array(
    [  # a, b, c, stretch
        [0.0, 0.0, 1.0, 1.0],  # disc
        [1.2, 0.0, 0.0, 1.0],  # square
        [0.8, 2.0, 0.0, 1.0],  # four-pointed star
        [0.0, 0.0, 1.2, 0.6],  # flat ellipse
    ],
    dtype=np.float32,
)
# A group's ground: weights of the stripes along x and along y (upright, level, both, plain).
_GROUNDS = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], [0.0, 0.0]], dtype=np.float32)
# Five palettes go with four outlines and grounds by remainders: 20 groups are the 20 combinations.
_PALETTES = 5
_GOLDEN = 0.618034  # its multiples, modulo 1, spread evenly over the circle of hues, however many there are

# Members of a group on three scales, each in an order of its own. Pictures vary around these values (`_draw_scene`) by
# so much that a single scale tells neighbours apart only now and then.
_BAND_FREQUENCY = np.array([1.0, 1.5, 2.0, 2.5, 3.0], dtype=np.float32)  # bands on the object, per radius
_SPOT_HEIGHT = np.array([0.0, 0.4, -0.4, 0.2, -0.2], dtype=np.float32)  # of the spot on the object, in radii, downwards
_MARK_HUE = np.array([0.08, -0.16, 0.0, 0.16, -0.08], dtype=np.float32)  # of the bands, from the object's own hue

_SPOT_RADIUS = np.float32(0.22)  # in radii of the object
_NOISE = 0.08  # standard deviation of the pixel noise, of the range from black to white


class _Scene(NamedTuple):
    """What n pictures show, drawn at random before any pixel. Arrays are [n, 1, 1] unless said otherwise.

    Lengths are in half short sides of the picture, x to the right, y downwards, the origin in the middle.
    """

    cos: np.ndarray  # of the angle by which the scene is turned
    sin: np.ndarray
    x: np.ndarray  # middle of the object
    y: np.ndarray
    radius: np.ndarray  # of the object
    outline: np.ndarray  # rows of `_OUTLINES`, [n, 4, 1, 1]
    ground: np.ndarray  # rows of `_GROUNDS`, [n, 2, 1, 1]
    ground_frequency: np.ndarray
    phase: np.ndarray  # of the ground's stripes along x and y, and of the bands, [n, 3, 1, 1]
    band_frequency: np.ndarray
    spot_x: np.ndarray  # in radii, from the middle of the object
    spot_y: np.ndarray
    colours: np.ndarray  # RGB in 0..1 of the ground's dark and light, the object, its bands and its spot, [n, 5, 3]


def _rgb(hue: np.ndarray, saturation: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Colours in RGB, [n, 3], from hue (of period 1), saturation and value, [n] each."""
    sector = (hue[:, None] * 6 + np.array([0, 4, 2], dtype=np.float32)) % 6
    pure = np.clip(np.abs(sector - 3) - 1, 0, 1)
    return value[:, None] * (1 - saturation[:, None] * (1 - pure))


def _draw_scene(labels: np.ndarray, random: np.random.Generator) -> _Scene:
    """Draws all but the pixel noise for pictures of the given classes, [n].

    Left and right are alike in distribution, and scenes are turned a little: augmentations that flip, rotate by some
    degrees and shift leave the class recognisable.
    """
    n = len(labels)
    group, member = labels // GROUP_SIZE, labels % GROUP_SIZE

    def uniform(low: float, high: float) -> np.ndarray:
        return (low + (high - low) * random.random(n)).astype(np.float32)

    def around(middle: np.ndarray, reach: float) -> np.ndarray:
        """Values within `reach` of a class's own, the nearer the likelier (a triangular distribution)."""
        return middle + uniform(-reach / 2, reach / 2) + uniform(-reach / 2, reach / 2)

    palette = group % _PALETTES + _PALETTES * (group // (_PALETTES * len(_OUTLINES)))
    hue = around((_GOLDEN * palette).astype(np.float32), 0.1)
    object_hue = hue + np.float32(0.4)
    mark_hue = object_hue + around(_MARK_HUE[member], 0.2)
    brightness = uniform(0.6, 1.1)
    tint = np.stack([uniform(0.8, 1.2) for _ in range(3)], axis=1)  # colour of the light
    ground_value = brightness * uniform(0.45, 0.9)
    colours = [
        _rgb(hue, uniform(0.3, 0.7), ground_value * np.float32(0.6)),
        _rgb(hue, uniform(0.3, 0.7), ground_value),
        # Lighter or darker than the ground, as it happens: pixel values by themselves say little about the class.
        _rgb(object_hue, uniform(0.4, 0.8), brightness * uniform(0.5, 0.9)),
        _rgb(mark_hue, uniform(0.5, 0.9), brightness * uniform(0.6, 1.0)),
        _rgb(mark_hue + np.float32(0.5), uniform(0.2, 0.5), brightness),
    ]
    tangent = uniform(-0.09, 0.09)  # of half the angle (up to 10 degrees), whence cosine and sine by arithmetic
    per_picture = {
        "cos": (1 - tangent * tangent) / (1 + tangent * tangent),
        "sin": 2 * tangent / (1 + tangent * tangent),
        "x": uniform(-0.25, 0.25),
        "y": uniform(-0.25, 0.25),
        "radius": uniform(0.6, 0.8),
        "outline": _OUTLINES[group % len(_OUTLINES)],
        "ground": _GROUNDS[group % len(_GROUNDS)],
        "ground_frequency": uniform(2.0, 2.6),
        "phase": random.random((n, 3)).astype(np.float32),
        "band_frequency": around(_BAND_FREQUENCY[member], 0.9),
        "spot_x": uniform(-0.25, 0.25),
        "spot_y": around(_SPOT_HEIGHT[member], 0.4),
    }
    return _Scene(
        **{name: values[..., None, None] for name, values in per_picture.items()},
        colours=np.stack(colours, axis=1) * tint[:, None],
    )


def _wave(t: np.ndarray) -> np.ndarray:
    """A sine-like wave of period 1 between 0 and 1, by basic arithmetic."""
    triangle = np.abs(2 * (t - np.floor(t)) - 1)
    return triangle * triangle * (3 - 2 * triangle)


def _coverage(distance: np.ndarray, pixel: np.ndarray) -> np.ndarray:
    """How much of each pixel lies where distance < 1, in 0..1, for pixels of the given size: soft borders."""
    return np.clip((1 - distance) / pixel + np.float32(0.5), 0, 1)


def _paint(scene: _Scene, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """Pictures of the scenes with pixel noise, uint8 [n, 3, height, width]."""
    short_side = min(height, width)
    x = ((2 * np.arange(width, dtype=np.float32) + 1 - width) / short_side)[None, None, :] - scene.x
    y = ((2 * np.arange(height, dtype=np.float32) + 1 - height) / short_side)[None, :, None] - scene.y
    # From here on arrays are [n, height, width]. The ground turns with the object.
    x, y = scene.cos * x - scene.sin * y, scene.sin * x + scene.cos * y

    stripes_x = _wave(scene.ground_frequency * x + scene.phase[:, 0])
    stripes_y = _wave(scene.ground_frequency * y + scene.phase[:, 1])
    ground = scene.ground[:, 0] * stripes_x + scene.ground[:, 1] * stripes_y

    u, v = x / scene.radius, y / (scene.radius * scene.outline[:, 3])
    abs_u, abs_v = np.abs(u), np.abs(v)
    distance = (
        scene.outline[:, 0] * np.maximum(abs_u, abs_v)
        + scene.outline[:, 1] * np.minimum(abs_u, abs_v)
        + scene.outline[:, 2] * np.sqrt(u * u + v * v)
    )
    pixel = 2 / (short_side * scene.radius)  # its side, in radii
    body = _coverage(distance, pixel)
    bands = _wave(scene.band_frequency * v + scene.phase[:, 2])
    spot_u, spot_v = u - scene.spot_x, v - scene.spot_y
    spot = _coverage(np.sqrt(spot_u * spot_u + spot_v * spot_v) / _SPOT_RADIUS, pixel / _SPOT_RADIUS) * body

    n = len(x)
    # The sum of two bytes (standard deviation 104.5) is near enough to normal, and quick to draw.
    noise_bytes = np.frombuffer(random.bytes(2 * n * 3 * height * width), np.uint8).reshape(2, n, 3, height, width)
    noise_scale = np.float32(_NOISE * 255 / 104.5)
    pictures = np.empty((n, 3, height, width), np.uint8)
    for channel in range(3):
        dark, light, own, band, dot = (scene.colours[:, i, channel, None, None] for i in range(5))
        value = dark + (light - dark) * ground
        value += (own + (band - own) * bands - value) * body
        value += (dot - value) * spot
        noise = noise_bytes[0, :, channel].astype(np.float32) + noise_bytes[1, :, channel] - np.float32(255)
        pictures[:, channel] = np.clip(value * np.float32(255) + noise * noise_scale + np.float32(0.5), 0, 255)
    return pictures


def _object_box(scene: _Scene, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels x0, y0, x1, y1 of the (unturned) object in a single scene, as Tiny-ImageNet gives boxes."""
    x, y, radius = scene.x.item(), scene.y.item(), scene.radius.item()
    a, _, c, stretch = scene.outline.ravel().tolist()
    half_x, half_y = radius / (a + c), radius / (a + c) * stretch

    def to_pixel(length: float, size: int) -> int:
        return int(min(max((length * min(height, width) + size) / 2, 0), size - 1))

    return (
        to_pixel(x - half_x, width),
        to_pixel(y - half_y, height),
        to_pixel(x + half_x, width),
        to_pixel(y + half_y, height),
    )


# -------------------------------------------------------------------------------------------------------- CIFAR files


def _opcodes(value: object) -> Iterator[bytes]:
    """Pickle of a value as Python 2 wrote it: what the published CIFAR files hold, and what readers of them expect.

    Python 3 would write other string types and, for arrays, module names that depend on the installed numpy.
    """
    if isinstance(value, bool):
        yield pickle.NEWTRUE if value else pickle.NEWFALSE
    elif value is None:
        yield pickle.NONE
    elif isinstance(value, int):
        yield pickle.BININT + struct.pack("<i", value)
    elif isinstance(value, (str, bytes)):
        content = value.encode("latin1") if isinstance(value, str) else value
        yield pickle.BINSTRING + struct.pack("<i", len(content))
        yield content
    elif isinstance(value, tuple):
        yield pickle.MARK
        for item in value:
            yield from _opcodes(item)
        yield pickle.TUPLE
    elif isinstance(value, list):
        yield pickle.EMPTY_LIST + pickle.MARK
        for item in value:
            yield from _opcodes(item)
        yield pickle.APPENDS
    elif isinstance(value, dict):
        yield pickle.EMPTY_DICT + pickle.MARK
        for key, item in value.items():
            yield from _opcodes(key)
            yield from _opcodes(item)
        yield pickle.SETITEMS
    elif isinstance(value, np.ndarray) and value.dtype == np.uint8:
        # _reconstruct(ndarray, (0,), "b"), then its state (1, shape, dtype("u1", 0, 1), False, content)
        yield pickle.GLOBAL + b"numpy.core.multiarray\n_reconstruct\n"
        yield pickle.MARK + pickle.GLOBAL + b"numpy\nndarray\n"
        yield from _opcodes((0,))
        yield from _opcodes("b")
        yield pickle.TUPLE + pickle.REDUCE + pickle.MARK
        yield from _opcodes(1)
        yield from _opcodes(value.shape)
        yield pickle.GLOBAL + b"numpy\ndtype\n"
        yield from _opcodes(("u1", 0, 1))
        yield pickle.REDUCE
        yield from _opcodes((3, "|", None, None, None, -1, -1, 0))
        yield pickle.BUILD
        yield from _opcodes(False)
        yield from _opcodes(value.tobytes())
        yield pickle.TUPLE + pickle.BUILD
    else:
        raise TypeError(f"CIFAR files hold no {type(value).__name__}")


def _write_pickle(path: Path, value: dict) -> None:
    with path.open("wb") as file:
        file.write(pickle.PROTO + b"\x02")
        file.writelines(_opcodes(value))
        file.write(pickle.STOP)


def _shuffled_labels(settings: Settings, per_class: int, random: np.random.Generator) -> np.ndarray:
    """Labels of a split, [classes * per_class], in random order."""
    return random.permutation(np.repeat(np.arange(settings.classes), per_class))


def _cifar_part(settings: Settings, split: str, per_class: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A split in CIFAR's form: pixels uint8 [n, 3072] (rows are channel by channel), labels [n], file names."""
    random = settings.random(split)
    labels = _shuffled_labels(settings, per_class, random)
    pixels = np.empty((len(labels), 3, 32, 32), np.uint8)
    chunk = 128  # pictures: what is painted at once stays in the processor's cache
    with tqdm(total=len(labels), desc=f"{settings.layout} {split}", unit="img", leave=False, disable=None) as progress:
        for start in range(0, len(labels), chunk):
            part = labels[start : start + chunk]
            pixels[start : start + chunk] = _paint(_draw_scene(part, random), 32, 32, random)
            progress.update(len(part))
    names = class_names(settings.classes)
    files = [f"{names[label]}_s_{i:06d}.png" for i, label in enumerate(labels)]
    return pixels.reshape(len(labels), -1), labels, files


def _write_cifar100(folder: Path, settings: Settings) -> None:
    groups = class_groups(settings.classes)
    for split, per_class, title in (
        ("train", settings.train_per_class, "training batch 1 of 1"),
        ("test", settings.test_per_class, "testing batch 1 of 1"),
    ):
        pixels, labels, files = _cifar_part(settings, split, per_class)
        batch = {
            "filenames": files,
            "batch_label": title,
            "fine_labels": labels.tolist(),
            "coarse_labels": groups[labels].tolist(),
            "data": pixels,
        }
        _write_pickle(folder / split, batch)
    coarse_names = [f"generated_group_{g:02d}" for g in range(groups[-1] + 1)]
    _write_pickle(
        folder / "meta", {"fine_label_names": class_names(settings.classes), "coarse_label_names": coarse_names}
    )


def _write_cifar10(folder: Path, settings: Settings) -> None:
    def write(name: str, title: str, pixels: np.ndarray, labels: np.ndarray, files: list[str]) -> None:
        batch = {"batch_label": title, "labels": labels.tolist(), "data": pixels, "filenames": files}
        _write_pickle(folder / name, batch)

    pixels, labels, files = _cifar_part(settings, "train", settings.train_per_class)
    size = len(labels) // 5  # a whole number, with ten classes
    for i in range(5):
        part = slice(i * size, (i + 1) * size)
        write(f"data_batch_{i + 1}", f"training batch {i + 1} of 5", pixels[part], labels[part], files[part])
    write("test_batch", "testing batch 1 of 1", *_cifar_part(settings, "test", settings.test_per_class))
    meta = {"num_cases_per_batch": size, "label_names": class_names(settings.classes), "num_vis": 3072}
    _write_pickle(folder / "batches.meta", meta)


# -------------------------------------------------------------------------------------------------------- JPEG folders


def _write_jpegs(
    pictures: Sequence[tuple[Path, int]],
    settings: Settings,
    split: str,
    *,
    sides: tuple[int, int],
    grey_every: int | None = None,
) -> list[tuple[int, int, int, int]]:
    """Paints and saves pictures one by one, each of a size of its own.

    Args:
        pictures: path and class of each.
        settings: those of the set.
        split: "train" or "test".
        sides: least and greatest height and width, in pixels.
        grey_every: one picture in so many is saved as greyscale (JPEG mode L), as a few of the originals are.

    Returns:
        The object's box in each picture: x0, y0, x1, y1 in pixels.
    """
    random = settings.random(split)
    boxes = []
    progress = tqdm(pictures, desc=f"{settings.layout} {split}", unit="img", leave=False, disable=None)
    for i, (path, label) in enumerate(progress):
        height, width = random.integers(sides[0], sides[1] + 1, 2).tolist()
        scene = _draw_scene(np.array([label]), random)
        image = Image.fromarray(np.ascontiguousarray(_paint(scene, height, width, random)[0].transpose(1, 2, 0)))
        if grey_every is not None and i % grey_every == grey_every - 1:
            image = image.convert("L")
        image.save(path, "JPEG", quality=90)
        boxes.append(_object_box(scene, height, width))
    return boxes


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _wnids(classes: int) -> list[str]:
    """Identifiers in the form of WordNet's, of numbers that WordNet does not have."""
    return [f"n99{c:06d}" for c in range(classes)]


def _write_pets(folder: Path, settings: Settings) -> None:
    """`images/<name>_<n>.jpg`, and `annotations/{list,trainval,test}.txt`: name, class from 1, 1 cat or 2 dog, breed.

    As in the original, the names of cats begin with a capital letter.
    """
    (folder / "images").mkdir()
    (folder / "annotations").mkdir()
    listed: list[str] = []
    numbers = {
        "trainval": range(1, settings.train_per_class + 1),
        "test": range(settings.train_per_class + 1, settings.train_per_class + settings.test_per_class + 1),
    }
    for part, split in (("trainval", "train"), ("test", "test")):
        pictures, lines = [], []
        for c, name in enumerate(class_names(settings.classes)):
            cat = c < _PETS_CATS
            for number in numbers[part]:
                image = f"{name.capitalize() if cat else name}_{number}"
                pictures.append((folder / "images" / f"{image}.jpg", c))
                lines.append(f"{image} {c + 1} {1 if cat else 2} {c + 1 if cat else c + 1 - _PETS_CATS}")
        _write_jpegs(pictures, settings, split, sides=(120, 260))
        _write_lines(folder / "annotations" / f"{part}.txt", lines)
        listed += lines
    header = ["#Image CLASS-ID SPECIES BREED ID", "#ID: 1:37 Class ids", "#SPECIES: 1:Cat 2:Dog"]
    in_class_order = sorted(listed, key=lambda line: int(line.split()[1]))
    _write_lines(folder / "annotations" / "list.txt", header + in_class_order)


def _write_tiny_imagenet(folder: Path, settings: Settings) -> None:
    """`train/<wnid>/images` with boxes, `val/images` with the classes in `val_annotations.txt`; all 64 x 64."""
    wnids = _wnids(settings.classes)
    names = class_names(settings.classes)
    order = settings.random("order").permutation(settings.classes)  # as in the original, wnids.txt is not sorted
    _write_lines(folder / "wnids.txt", [wnids[c] for c in order])
    _write_lines(folder / "words.txt", [f"{wnid}\t{name}" for wnid, name in zip(wnids, names, strict=True)])

    pictures = []
    for c, wnid in enumerate(wnids):
        images = folder / "train" / wnid / "images"
        images.mkdir(parents=True)
        pictures += [(images / f"{wnid}_{i}.JPEG", c) for i in range(settings.train_per_class)]
    boxes = _write_jpegs(pictures, settings, "train", sides=(64, 64), grey_every=50)
    rows = ["\t".join([path.name, *map(str, box)]) for (path, _), box in zip(pictures, boxes, strict=True)]
    for c, wnid in enumerate(wnids):
        of_class = slice(c * settings.train_per_class, (c + 1) * settings.train_per_class)
        _write_lines(folder / "train" / wnid / f"{wnid}_boxes.txt", rows[of_class])

    (folder / "val" / "images").mkdir(parents=True)
    labels = _shuffled_labels(settings, settings.test_per_class, settings.random("test order"))
    pictures = [(folder / "val" / "images" / f"val_{i}.JPEG", c) for i, c in enumerate(labels.tolist())]
    boxes = _write_jpegs(pictures, settings, "test", sides=(64, 64), grey_every=50)
    rows = ["\t".join([path.name, wnids[c], *map(str, box)]) for (path, c), box in zip(pictures, boxes, strict=True)]
    _write_lines(folder / "val" / "val_annotations.txt", rows)


def _write_imagenet(folder: Path, settings: Settings) -> None:
    """`{train,val}/<wnid>/*.JPEG` of varying size."""
    wnids = _wnids(settings.classes)
    for wnid in wnids:
        (folder / "train" / wnid).mkdir(parents=True)
        (folder / "val" / wnid).mkdir(parents=True)
    pictures = [
        (folder / "train" / wnid / f"{wnid}_{i}.JPEG", c)
        for c, wnid in enumerate(wnids)
        for i in range(settings.train_per_class)
    ]
    _write_jpegs(pictures, settings, "train", sides=(160, 320), grey_every=50)
    labels = _shuffled_labels(settings, settings.test_per_class, settings.random("test order"))
    pictures = [
        (folder / "val" / wnids[c] / f"ILSVRC2012_val_{i:08d}.JPEG", c) for i, c in enumerate(labels.tolist(), 1)
    ]
    _write_jpegs(pictures, settings, "test", sides=(160, 320), grey_every=50)


# ------------------------------------------------------------------------------------------------------ layouts, output


class _Layout(NamedTuple):
    """One on-disk format: its folder below DEST, what is written by default, and by whom."""

    folder: str
    classes: int
    max_classes: int  # equal to `classes` where the format fixes them
    train_per_class: int
    test_per_class: int
    write: Callable[[Path, Settings], None]


LAYOUTS = {
    "cifar-100": _Layout("cifar-100-python", 100, 100, 100, 20, _write_cifar100),
    "cifar-10": _Layout("cifar-10-batches-py", 10, 10, 500, 100, _write_cifar10),
    "oxford-iiit-pet": _Layout("oxford-iiit-pet", 37, 37, 10, 5, _write_pets),
    "tiny-imagenet-200": _Layout("tiny-imagenet-200", 20, 200, 50, 10, _write_tiny_imagenet),
    "imagenet": _Layout("imagenet", 10, 1000, 20, 5, _write_imagenet),
}


def _settings(
    layout: str, classes: int | None, train_per_class: int | None, test_per_class: int | None, seed: int
) -> Settings:
    """Settings with the layout's defaults filled in.

    Raises:
        UserError: unknown layout, or a number that the layout cannot have.
    """
    if layout not in LAYOUTS:
        raise UserError(f"unknown layout '{layout}': one of {', '.join(LAYOUTS)}")
    form = LAYOUTS[layout]
    classes = form.classes if classes is None else classes
    train_per_class = form.train_per_class if train_per_class is None else train_per_class
    test_per_class = form.test_per_class if test_per_class is None else test_per_class
    if form.classes == form.max_classes != classes:
        raise UserError(f"layout {layout} has {form.classes} classes, not {classes}")
    if not 2 <= classes <= form.max_classes:
        raise UserError(f"layout {layout} can have 2 to {form.max_classes} classes, not {classes}")
    for option, number in (("train-per-class", train_per_class), ("test-per-class", test_per_class)):
        if not 1 <= number <= _MAX_PER_CLASS:
            raise UserError(f"--{option} must be from 1 to {_MAX_PER_CLASS}, not {number}")
    if seed < 0:
        raise UserError(f"--seed must not be negative: {seed}")
    return Settings(layout, classes, train_per_class, test_per_class, seed)


def _count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def read_marker(folder: Path) -> dict | None:
    """What `folder/generated.json` holds; None where it is absent, or not one of ours."""
    try:
        marker = json.loads((folder / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) and isinstance(marker.get("settings"), dict) else None


def _already_there(folder: Path, settings: Settings) -> bool:
    """Whether `folder` holds this very set; False where there is nothing yet.

    Raises:
        UserError: it holds something else, which is never overwritten.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = read_marker(folder)
    if marker is None:
        raise UserError(f"{folder} exists and is not a generated set: it is left untouched; choose another DEST")
    found, asked = marker["settings"], asdict(settings)
    if found != asked:
        difference = ", ".join(
            f"{key} {found.get(key)}, not {asked[key]}" for key in asked if found.get(key) != asked[key]
        )
        raise UserError(
            f"{folder} holds a generated set of other settings ({difference}): remove it or choose another DEST"
        )
    if _count_files(folder) < marker.get("files", 0):
        raise UserError(f"{folder} holds a generated set that lacks files: remove it and run again")
    return True


def _write(folder: Path, settings: Settings) -> None:
    """Writes a set under another name beside `folder`, and gives it its name when it is complete.

    A killed process leaves `.<folder>.*.partial` behind, which no reader takes for a data set.
    """
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir(parents=True)
        LAYOUTS[settings.layout].write(partial, settings)
        marker = {
            "generated_by": "common.data.synthetic",
            "settings": asdict(settings),
            "files": _count_files(partial) + 1,  # the marker itself
        }
        (partial / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
        try:
            partial.rename(folder)
        except OSError:  # another process may have been quicker with the same set
            if not _already_there(folder, settings):
                raise
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_generated(
    dest: Path,
    layout: str = "cifar-100",
    train_per_class: int | None = None,
    test_per_class: int | None = None,
    seed: int = 0,
    classes: int | None = None,
) -> Path:
    """Writes a generated set below `dest`, unless it is there already.

    Args:
        dest: directory of data sets, the `root` of the readers.
        layout: one of `LAYOUTS`.
        train_per_class, test_per_class: numbers of images a class; the layout's defaults where None.
        seed: of the pictures.
        classes: number of classes, in the layouts that do not fix it.

    Returns:
        The folder of the set, for example `dest/cifar-100-python`.

    Raises:
        UserError: settings out of range, something else in that place, or a failure to write.
    """
    settings = _settings(layout, classes, train_per_class, test_per_class, seed)
    folder = Path(dest) / LAYOUTS[layout].folder
    if not _already_there(folder, settings):
        _write(folder, settings)
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m common.data.synthetic",
        description="Write a generated, learnable set of images in the layout of a real data set.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="defaults:\n"
        + "\n".join(
            f"  {name:18} {form.classes} classes with {form.train_per_class} training and {form.test_per_class} test "
            f"images each, in DEST/{form.folder}"
            for name, form in LAYOUTS.items()
        ),
    )
    parser.add_argument("dest", type=Path, metavar="DEST", help="directory of data sets; the set gets a folder in it")
    parser.add_argument("--layout", default="cifar-100", choices=[*LAYOUTS, "all"], help="default: cifar-100")
    parser.add_argument("--train-per-class", type=int, metavar="N", help="training images a class")
    parser.add_argument("--test-per-class", type=int, metavar="N", help="test images a class")
    parser.add_argument("--classes", type=int, metavar="N", help="layouts tiny-imagenet-200 and imagenet only")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="other seeds, other pictures; default: 0")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    args = _parser().parse_args(argv)
    layouts = list(LAYOUTS) if args.layout == "all" else [args.layout]
    try:
        planned = []
        for layout in layouts:  # all are checked before the first is written
            fixed = LAYOUTS[layout].classes == LAYOUTS[layout].max_classes
            classes = None if args.layout == "all" and fixed else args.classes
            settings = _settings(layout, classes, args.train_per_class, args.test_per_class, args.seed)
            folder = args.dest / LAYOUTS[layout].folder
            planned.append((folder, settings, _already_there(folder, settings)))
        for folder, settings, present in planned:
            if present:
                print(f"{folder}: already there")
                continue
            start = time.perf_counter()
            _write(folder, settings)
            print(
                f"{folder}: generated, {settings.classes} classes with {settings.train_per_class} training and "
                f"{settings.test_per_class} test images each ({time.perf_counter() - start:.1f} s)"
            )
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: the unfinished set was removed", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
