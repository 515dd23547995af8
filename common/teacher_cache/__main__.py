"""Look after kept teachers' logits: `python -m common.teacher_cache list`, `verify [NAME ...]`, `delete NAME ...`.

They lie in `.cache/teachers/` below the directory of datasets. `verify` reads every row's checksum and computes some
rows again, which must have the same bits. All of it may be deleted at any time: what is missing is computed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch

from common.command_line import REPOSITORY, ArgumentParser, cli_main, nearest, positive_int
from common.data import Augmentation, DeviceLoader, Normalization, load_dataset
from common.data.cache import DIRECTORY
from common.data.device_loader import EpochViews
from common.errors import UserError
from common.field_types import require_field_types
from common.models import create_model
from common.teacher_cache.key import environment, images_digest, weights_digest
from common.teacher_cache.rows import SUFFIX, RowFile, RowFileError
from common.training.batch_norm import use_channels_last_batch_norm
from common.training.checkpoints import load_checkpoint
from common.training.layouts import CHANNELS_LAST, CONTIGUOUS, layout_name
from common.training.method import FrozenTeacher
from common.training.remember_teachers import TEACHERS
from common.training.runtime import AMP_DTYPES, Runtime, resolve_device, settings_put_back, use_tf32
from common.training.teacher_pass import LargeBatches, as_bytes, gigabytes


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m common.teacher_cache", description=__doc__)
    parser.add_argument("action", choices=("list", "verify", "delete"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="as `list` gives them; verify takes all by default")
    parser.add_argument("--data-dir", type=Path, default=REPOSITORY / "data", metavar="DIR", help="default: data/")
    parser.add_argument("--all", action="store_true", help="delete: all of them")
    parser.add_argument("--rows", type=positive_int, default=256, metavar="N", help="verify: rows to compute again")
    args = parser.parse_args()
    if args.action == "list" and args.names:
        parser.error("list takes no names")
    if args.action == "delete" and bool(args.names) == args.all:
        parser.error("delete takes names, or --all")
    return args


class _Views(TypedDict):
    padding: int
    flip: bool
    mean: list[float]
    std: list[float]


class _Environment(TypedDict):
    device: str
    processor: str
    threads: int | None
    torch: str
    precision: str


class _Key(TypedDict):
    """What is read here of `key.cache_key`."""

    weights: str
    images: str
    views: _Views
    layout: str
    chunk: int
    environment: _Environment


@dataclasses.dataclass(frozen=True)
class _Header:
    """What is read here of a file's header."""

    key: _Key
    teacher: dict[str, Any] | None
    folded: bool
    dataset: str


def opened(path: Path) -> RowFile:
    """A file of teachers' logits, to be read.

    Raises:
        RowFileError: it is none.
        OSError: it cannot be opened.
    """
    file = RowFile(path)
    try:
        require_field_types(_Header(**{field.name: file.header[field.name] for field in dataclasses.fields(_Header)}))
    except (KeyError, TypeError) as error:
        raise RowFileError("its header is not that of teachers' logits") from error
    return file


def describe(path: Path) -> str:
    """A line about a file."""
    on_disk = path.stat().st_blocks * 512 if path.exists() else 0
    try:
        file = opened(path)
        count = file.count_marks()
    except (RowFileError, OSError) as error:
        return f"{path.stem}: {gigabytes(on_disk)} on the disk; cannot be used: {error}"
    views, where = file.header["key"]["views"], file.header["key"]["environment"]
    seen = f"{file.header['dataset']}, padded by {views['padding']}{', flipped' if views['flip'] else ''}"
    filled = f"{count} of {file.rows} rows ({100 * count / file.rows:.1f} %)"
    return (
        f"{path.stem}: {seen}; {filled}, {gigabytes(on_disk)} on the disk; "
        f"{where['processor']}, {where['precision']}, torch {where['torch']}"
    )


class NotComparableError(Exception):
    """Rows that cannot be computed again here; says why."""


def verify(path: Path, root: Path, count: int) -> tuple[bool, str]:
    """Read all checksums, and compute some rows again.

    Returns:
        Whether nothing is wrong, and what was found.
    """
    try:
        file = opened(path)
        there, damaged = file.written()
    except (RowFileError, OSError) as error:
        return False, f"cannot be used: {error}"
    found = f"{len(there)} rows, {len(damaged)} damaged" + (" (they count as missing)" if len(damaged) else "")
    if not len(there):
        return not len(damaged), found
    some = np.random.default_rng().choice(there, min(count, len(there)), replace=False)
    try:
        with settings_put_back():
            different = int((recompute(file, path, root, some) != file.read(some)[0]).any(axis=1).sum())
    except NotComparableError as why:
        return not len(damaged), f"{found}; not computed again: {why}"
    return not (different or len(damaged)), f"{found}; of {len(some)} computed again {different} differ"


def recompute(file: RowFile, path: Path, root: Path, numbers: np.ndarray) -> np.ndarray:
    """The rows of these numbers as they are computed now, uint8, [n, bytes].

    Raises:
        NotComparableError: they would be other rows, or are those of another machine.
    """
    key = file.header["key"]
    runtime = _runtime(key["environment"])
    views = key["views"]
    try:
        data = load_dataset(file.header["dataset"], root, download=False)
    except UserError as error:
        raise NotComparableError(str(error)) from error
    if images_digest(data.train.pixels) != key["images"]:
        raise NotComparableError(f"the training images of {file.header['dataset']} in {root} are others")
    augmentation = Augmentation(padding=views["padding"], flip=views["flip"])
    normalization = Normalization(tuple(views["mean"]), tuple(views["std"]))
    loader = DeviceLoader(data.train, key["chunk"], normalization, runtime.device, augmentation=augmentation)
    layout = CHANNELS_LAST if key["layout"] == layout_name(CHANNELS_LAST) else CONTIGUOUS
    teacher = _teacher(file.header, path.with_suffix(".pth"), runtime, layout)
    images, view_numbers = np.divmod(numbers, augmentation.upright_views)
    positions = np.arange(len(numbers))
    shown = EpochViews(positions, images, augmentation.draws_of(view_numbers))
    batches = LargeBatches(loader, runtime, layout, key["chunk"]).logits(teacher, shown, positions)
    return as_bytes(torch.cat([logits for _, logits in batches]))


def _runtime(made_with: dict[str, Any]) -> Runtime:
    """The way to compute that a file was made with.

    Raises:
        NotComparableError: this machine, or its software, is another.
    """
    try:
        device = resolve_device(made_with["device"])
    except UserError as error:
        raise NotComparableError(str(error)) from error
    if made_with["threads"]:
        torch.set_num_threads(made_with["threads"])
    precision = made_with["precision"]
    runtime = Runtime(device, amp=precision if precision in AMP_DTYPES else "off", tf32=precision == "tf32")
    use_tf32(runtime.tf32)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    here = environment(runtime)
    if other := [name for name in here if here[name] != made_with.get(name)]:
        name = other[0]
        raise NotComparableError(f"made with {name} {made_with.get(name)}, and here it is {here[name]}")
    return runtime


def _teacher(header: dict[str, Any], weights: Path, runtime: Runtime, layout: torch.memory_format) -> torch.nn.Module:
    """The teacher as it computed.

    Raises:
        NotComparableError: its network or weights are not known any more.
    """
    if header["teacher"] is None:
        raise NotComparableError("its network is none of `python -m common.models`")
    try:
        teacher = create_model(**header["teacher"]).eval()
        if header["folded"]:
            teacher = FrozenTeacher(teacher)
            teacher.fold()
        teacher.to(memory_format=layout)
        if runtime.device.type == "cpu" and layout == CHANNELS_LAST:
            use_channels_last_batch_norm(teacher)
        teacher.load_state_dict(load_checkpoint(weights)["model"])
    except (UserError, KeyError, RuntimeError, TypeError) as error:
        raise NotComparableError(str(error).partition("\n")[0]) from error
    teacher.to(runtime.device).requires_grad_(False).eval()
    if weights_digest(teacher) != header["key"]["weights"]:
        raise NotComparableError(f"{weights} holds other weights")
    return teacher


def chosen(directory: Path, names: list[str]) -> list[Path]:
    """The files of these names, or all.

    Raises:
        UserError: there is none of a name.
    """
    files = {path.stem: path for path in sorted(directory.glob(f"*{SUFFIX}"))}
    for name in names:
        if name not in files:
            hint = nearest(name, files, "python -m common.teacher_cache list") if files else "there are none"
            raise UserError(f"no teacher's logits '{name}' in {directory}: {hint}")
    return [files[name] for name in dict.fromkeys(names)] or list(files.values())


def delete(path: Path) -> tuple[bool, str]:
    """Remove a file of rows and the weights beside it; a run that uses it goes on with what it has open.

    Returns:
        Whether they are gone, and how much of the disk is free again or why not.
    """
    freed = 0
    for file in (path, path.with_suffix(".pth")):
        if os.path.lexists(file):
            blocks = file.lstat().st_blocks
            try:
                file.unlink()
            except OSError as error:
                return False, f"cannot be deleted ({error.strerror})"
            freed += blocks * 512
    return True, f"deleted, {gigabytes(freed)}"


@cli_main
def main() -> None:
    args = parse_arguments()
    directory = args.data_dir / DIRECTORY / TEACHERS
    if not args.data_dir.is_dir():
        raise UserError(f"no directory {args.data_dir}: --data-dir is that of the datasets")
    paths = chosen(directory, args.names)
    if not paths:
        print(f"no teachers' logits in {directory}")
    right = True
    for path in paths:
        if args.action == "list":
            print(describe(path))
            continue
        if args.action == "verify":
            holds, found = verify(path, args.data_dir, args.rows)
            found = f"{'ok' if holds else 'NO'}: {found}"
        else:
            holds, found = delete(path)
        right = right and holds
        print(f"{path.stem}: {found}", flush=True)
    if not right:
        sys.exit(1)


if __name__ == "__main__":
    main()
