"""The flags that every analysis shares, and what becomes of them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from common.analysis.networks import finite, with_mean
from common.analyze.analysis import Analysis, Images, Networks, Split
from common.analyze.report import render
from common.command_line import nonnegative_int, output_file, positive_float
from common.data import Dataset
from common.errors import UserError
from common.run_record import NAME, RunRecord, read_record
from common.training.final_analysis import TRAIN_IMAGES
from common.training.runs import write_json
from common.training.runtime import Runtime


def add_analysis_flags(parser: argparse.ArgumentParser, network: str) -> None:
    """Which networks, and what is said of them.

    Args:
        parser: of a script.
        network: what names a network besides a run's directory, for people.
    """
    add = parser.add_argument
    add("student", metavar="STUDENT", help=f"directory of a run, or {network}")
    add("--teacher", action="append", default=[], metavar="TEACHER", help="likewise; repeat it for several")
    add("--against", metavar="OTHER", help="a second student, compared on the same test images (McNemar's test)")
    add("--epoch", choices=("last", "best"), default="last", help="of runs: the last, or the one that was the best")
    add(
        "--temperature",
        type=positive_float,
        metavar="T",
        help="for a second divergence (default: of the student's method)",
    )
    add(
        "--train-images", type=nonnegative_int, default=TRAIN_IMAGES, metavar="N", help="of the training split, at most"
    )
    add(
        "--json",
        type=output_file('{\n  "data": {'),
        metavar="FILE",
        help="also write everything, with classes and bins",
    )


def named_students(args: argparse.Namespace) -> list[str]:
    """One or two."""
    return [args.student, args.against] if args.against else [args.student]


def record_of(text: str) -> RunRecord | None:
    """The record of the run whose directory or `run.json` is named; None for anything else."""
    path = Path(text)
    directory = path.parent if path.name == NAME else path
    return read_record(directory) if os.path.isdir(directory) else None


def recorded_teachers(student: str) -> list[tuple[str, str]]:
    """Names and checkpoints of the teachers of a student's run, as its record has them.

    Raises:
        UserError: one is no longer where it was.
    """
    record = record_of(student)
    teachers = (
        [(teacher.get("name", ""), teacher["path"]) for teacher in record.teachers if "path" in teacher]
        if record
        else []
    )
    if missing := [path for _, path in teachers if not os.path.isfile(path)]:
        raise UserError(f"the teacher of {student} is no longer at {missing[0]}: give --teacher FILE")
    return teachers


def require_purpose(args: argparse.Namespace, *, has_teachers: bool, is_there: bool) -> None:
    """Something to compare the student with.

    Args:
        args: flags.
        has_teachers: whether it has any.
        is_there: whether the student, unless it is named with its network, is.

    Raises:
        UserError: no teacher, and no other student; or no student.
    """
    if not has_teachers and not args.against:
        if not is_there and ":" not in args.student:
            raise UserError(f"no checkpoint and no run {args.student}")
        raise UserError(
            f"agreement needs a teacher, and {args.student} names none: give --teacher FILE, a checkpoint or a run"
        )


def analyze_named(
    args: argparse.Namespace,
    teachers: Sequence[str],
    open_source: Callable[[str], Networks],
    data: Dataset[Split],
    images: Images[Networks, Split],
    runtime: Runtime,
    add_mean: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] = with_mean,
) -> dict[str, Any]:
    """What `Analysis` says of the students that the flags name.

    Args:
        args: flags.
        teachers: what names theirs.
        open_source: gives the network of such a name.
        data, images, runtime, add_mean: as of `Analysis`.
    """
    limit = args.limit_eval_batches
    test_images = None if limit is None else limit * args.batch_size
    analysis = Analysis(data, images, runtime, test_images, args.train_images, args.temperature, add_mean)
    students = [open_source(text) for text in named_students(args)]
    return analysis(students, [open_source(text) for text in teachers])


def report(args: argparse.Namespace, result: Mapping[str, Any]) -> None:
    """Print it, and write `--json`."""
    if args.json:
        write_json(args.json, finite(result))
    print(render(result), end="")
