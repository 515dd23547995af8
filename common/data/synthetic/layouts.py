"""The on-disk formats: what is in the folder of each dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from common.data.synthetic.pickles import write_pickle
from common.data.synthetic.scenes import draw_scenes, object_box, paint
from common.data.synthetic.settings import Settings, class_groups, class_names

_PETS_CATS = 12  # of the 37 classes of Oxford-IIIT Pet; the others are dogs


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
            pixels[start : start + chunk] = paint(draw_scenes(part, random), 32, 32, random)
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
        write_pickle(folder / split, batch)
    coarse_names = [f"generated_group_{g:02d}" for g in range(groups[-1] + 1)]
    write_pickle(
        folder / "meta", {"fine_label_names": class_names(settings.classes), "coarse_label_names": coarse_names}
    )


def _write_cifar10(folder: Path, settings: Settings) -> None:
    def write(name: str, title: str, pixels: np.ndarray, labels: np.ndarray, files: list[str]) -> None:
        batch = {"batch_label": title, "labels": labels.tolist(), "data": pixels, "filenames": files}
        write_pickle(folder / name, batch)

    pixels, labels, files = _cifar_part(settings, "train", settings.train_per_class)
    size = len(labels) // 5  # a whole number, with ten classes
    for i in range(5):
        part = slice(i * size, (i + 1) * size)
        write(f"data_batch_{i + 1}", f"training batch {i + 1} of 5", pixels[part], labels[part], files[part])
    write("test_batch", "testing batch 1 of 1", *_cifar_part(settings, "test", settings.test_per_class))
    meta = {"num_cases_per_batch": size, "label_names": class_names(settings.classes), "num_vis": 3072}
    write_pickle(folder / "batches.meta", meta)


def _write_jpegs(
    pictures: Sequence[tuple[Path, int]],
    settings: Settings,
    split: str,
    *,
    sides: tuple[int, int],
    gray_every: int | None = None,
) -> list[tuple[int, int, int, int]]:
    """Paints and saves pictures one by one, each of a size of its own.

    Args:
        pictures: path and class of each.
        settings: those of the set.
        split: "train" or "test".
        sides: least and greatest height and width, in pixels.
        gray_every: one picture in so many is saved as grayscale (JPEG mode L), as a few of the originals are.

    Returns:
        The object's box in each picture: x0, y0, x1, y1 in pixels.
    """
    random = settings.random(split)
    boxes = []
    progress = tqdm(pictures, desc=f"{settings.layout} {split}", unit="img", leave=False, disable=None)
    for i, (path, label) in enumerate(progress):
        height, width = random.integers(sides[0], sides[1] + 1, 2).tolist()
        scene = draw_scenes(np.array([label]), random)
        image = Image.fromarray(np.ascontiguousarray(paint(scene, height, width, random)[0].transpose(1, 2, 0)))
        if gray_every is not None and i % gray_every == gray_every - 1:
            image = image.convert("L")
        image.save(path, "JPEG", quality=90)
        boxes.append(object_box(scene, height, width))
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
    boxes = _write_jpegs(pictures, settings, "train", sides=(64, 64), gray_every=50)
    rows = ["\t".join([path.name, *map(str, box)]) for (path, _), box in zip(pictures, boxes, strict=True)]
    for c, wnid in enumerate(wnids):
        of_class = slice(c * settings.train_per_class, (c + 1) * settings.train_per_class)
        _write_lines(folder / "train" / wnid / f"{wnid}_boxes.txt", rows[of_class])

    (folder / "val" / "images").mkdir(parents=True)
    labels = _shuffled_labels(settings, settings.test_per_class, settings.random("test order"))
    pictures = [(folder / "val" / "images" / f"val_{i}.JPEG", c) for i, c in enumerate(labels.tolist())]
    boxes = _write_jpegs(pictures, settings, "test", sides=(64, 64), gray_every=50)
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
    _write_jpegs(pictures, settings, "train", sides=(160, 320), gray_every=50)
    labels = _shuffled_labels(settings, settings.test_per_class, settings.random("test order"))
    pictures = [
        (folder / "val" / wnids[c] / f"ILSVRC2012_val_{i:08d}.JPEG", c) for i, c in enumerate(labels.tolist(), 1)
    ]
    _write_jpegs(pictures, settings, "test", sides=(160, 320), gray_every=50)


class _Layout(NamedTuple):
    """One on-disk format: its folder below DEST, what is written by default, and by whom."""

    folder: str
    classes: int
    max_classes: int
    train_per_class: int
    test_per_class: int
    write: Callable[[Path, Settings], None]
    fixed: bool = False  # the format has `classes` of them, no more and no fewer


LAYOUTS = {
    "cifar-100": _Layout("cifar-100-python", 100, 100, 100, 20, _write_cifar100),
    "cifar-10": _Layout("cifar-10-batches-py", 10, 10, 500, 100, _write_cifar10, fixed=True),
    "oxford-iiit-pet": _Layout("oxford-iiit-pet", 37, 37, 10, 5, _write_pets, fixed=True),
    "tiny-imagenet-200": _Layout("tiny-imagenet-200", 20, 200, 50, 10, _write_tiny_imagenet),
    "imagenet": _Layout("imagenet", 10, 1000, 20, 5, _write_imagenet),
}
