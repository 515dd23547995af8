"""`python -m common.data.synthetic DEST`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from common.command_line import ArgumentParser, cli_main, positive_int, seed_number
from common.data.synthetic.layouts import LAYOUTS
from common.data.synthetic.writing import already_there, make_settings, write_dataset


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="python -m common.data.synthetic",
        description="Write a generated, learnable set of images in the layout of a real dataset.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="defaults:\n"
        + "\n".join(
            f"  {name:18} {form.classes} classes with {form.train_per_class} training and {form.test_per_class} test "
            f"images each, in DEST/{form.folder}"
            for name, form in LAYOUTS.items()
        ),
    )
    parser.add_argument("dest", type=Path, metavar="DEST", help="directory of datasets; the set gets a folder in it")
    parser.add_argument("--layout", default="cifar-100", choices=[*LAYOUTS, "all"], help="default: cifar-100")
    parser.add_argument("--train-per-class", type=positive_int, metavar="N", help="training images per class")
    parser.add_argument("--test-per-class", type=positive_int, metavar="N", help="test images per class")
    parser.add_argument("--classes", type=positive_int, metavar="N", help="not of layouts cifar-10 and oxford-iiit-pet")
    parser.add_argument(
        "--seed", type=seed_number, default=0, metavar="S", help="other seeds, other pictures; default: 0"
    )
    return parser


@cli_main
def main() -> None:
    args = _parser().parse_args()
    layouts = list(LAYOUTS) if args.layout == "all" else [args.layout]
    planned = []
    for layout in layouts:  # all are checked before the first is written
        classes = None if args.layout == "all" and LAYOUTS[layout].fixed else args.classes
        settings = make_settings(layout, classes, args.train_per_class, args.test_per_class, args.seed)
        folder = args.dest / LAYOUTS[layout].folder
        planned.append((folder, settings, already_there(folder, settings)))
    for folder, settings, present in planned:
        if present:
            print(f"{folder}: already there")
            continue
        start = time.perf_counter()
        write_dataset(folder, settings)
        print(
            f"{folder}: generated, {settings.classes} classes with {settings.train_per_class} training and "
            f"{settings.test_per_class} test images each ({time.perf_counter() - start:.1f} s)"
        )


if __name__ == "__main__":
    main()
