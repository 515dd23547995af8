"""Writing a synthetic dataset whole or not at all, and telling one that is there."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from dataclasses import asdict
from pathlib import Path

from common.data.datasets import MARKER
from common.data.synthetic.layouts import LAYOUTS
from common.data.synthetic.settings import Settings
from common.errors import UserError

MAX_PER_CLASS = 5000  # CIFAR's pickle protocol cannot hold a file of 2 GiB, which 100 times this many stay below


def make_settings(
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
    if form.fixed and classes != form.classes:
        raise UserError(f"layout {layout} has {form.classes} classes, not {classes}")
    if not 2 <= classes <= form.max_classes:
        raise UserError(f"layout {layout} can have 2 to {form.max_classes} classes, not {classes}")
    for option, number in (("train-per-class", train_per_class), ("test-per-class", test_per_class)):
        if not 1 <= number <= MAX_PER_CLASS:
            raise UserError(f"--{option} must be from 1 to {MAX_PER_CLASS}, not {number}")
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


def already_there(folder: Path, settings: Settings) -> bool:
    """Whether `folder` holds this very set; False where there is nothing yet.

    Raises:
        UserError: it holds something else, which is never overwritten.
    """
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = read_marker(folder)
    if marker is None:
        raise UserError(f"{folder} exists and is not a synthetic dataset: it is left untouched; choose another DEST")
    found, asked = marker["settings"], asdict(settings)
    if found != asked:
        difference = ", ".join(
            f"{key} {found.get(key)}, not {asked[key]}" for key in asked if found.get(key) != asked[key]
        )
        raise UserError(
            f"{folder} holds a synthetic dataset of other settings ({difference}): remove it or choose another DEST"
        )
    if _count_files(folder) < marker.get("files", 0):
        raise UserError(f"{folder} holds a synthetic dataset that lacks files: remove it and run again")
    return True


def write_dataset(folder: Path, settings: Settings) -> None:
    """Writes a set under another name beside `folder`, and gives it its name when it is complete.

    A killed process leaves `.<folder>.*.partial` behind, which no reader takes for a dataset.
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
            if not already_there(folder, settings):
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
    """Writes a synthetic dataset below `dest`, unless it is there already.

    Args:
        dest: directory of datasets, the `root` of the readers.
        layout: one of `LAYOUTS`.
        train_per_class, test_per_class: numbers of images per class; the layout's defaults where None.
        seed: of the pictures.
        classes: number of classes, in the layouts that do not fix it.

    Returns:
        The folder of the set, for example `dest/cifar-100-python`.

    Raises:
        UserError: settings out of range, something else in that place, or a failure to write.
    """
    settings = make_settings(layout, classes, train_per_class, test_per_class, seed)
    folder = Path(dest) / LAYOUTS[layout].folder
    if not already_there(folder, settings):
        write_dataset(folder, settings)
    return folder
