"""What a student took from its teachers: `python -m common.analyze STUDENT --teacher TEACHER [--against OTHER]`.

STUDENT, TEACHER and OTHER are checkpoints or directories of runs, of any family, released ones included (runs of MLKD:
mlkd/analyze.py). A run's own teachers are taken where --teacher is left out; OTHER is a second student, and whether the
two differ is tested. Prints tables; docs/metrics.md has the definitions.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from common.analyze.flags import (
    add_analysis_flags,
    analyze_named,
    named_students,
    record_of,
    recorded_teachers,
    report,
    require_purpose,
)
from common.analyze.sources import ImagesInMemory, open_source, require_family
from common.command_line import ArgumentParser, cli_main, positive_int, resolve_path
from common.data import ImageArrays, load_dataset
from common.data.flags import add_data_flags
from common.errors import UserError
from common.training.runtime import TRAINING_ONLY, Runtime, add_runtime_flags, runtime_from

BATCH_SIZE = 250


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m common.analyze", description=__doc__)
    add_analysis_flags(parser, "a checkpoint; FAMILY/NETWORK:FILE says of which network")
    parser.add_argument("--dataset", metavar="NAME", help="default: of the student's run, else cifar100")
    parser.add_argument("--batch-size", type=positive_int, default=BATCH_SIZE, metavar="N", help="images at a time")
    add_data_flags(parser, training=False, folders=False)
    add_runtime_flags(parser, without=TRAINING_ONLY)
    return parser.parse_args(arguments)


def analyze(args: argparse.Namespace, runtime: Runtime) -> dict[str, Any]:
    """What `Analysis` says of the networks that the flags name."""
    for text in (*named_students(args), *args.teacher):
        if named := record_of(text):
            require_family(named, text)
    teachers = args.teacher or [path for _, path in recorded_teachers(args.student)]
    require_purpose(args, has_teachers=bool(teachers), is_there=os.path.exists(args.student))
    record = record_of(args.student)
    name = args.dataset or (record.data.get("name") if record else None) or "cifar100"
    data = load_dataset(name, resolve_path(args.data_dir, ""), download=not args.no_download)
    if not isinstance(data.test, ImageArrays):
        raise UserError(f"{data.name} is not held in memory: analyze its runs by their own run.json")
    images = ImagesInMemory(data, args.batch_size, runtime.device)
    return analyze_named(args, teachers, lambda text: open_source(text, data, args.epoch), data, images, runtime)


@cli_main
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        report(args, analyze(args, runtime))


if __name__ == "__main__":
    main()
