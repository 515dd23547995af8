"""Trained students that are offered in the repository, small enough to lie in it.

`python -m common.training.offered_weights RUN_DIRECTORY/student_best -n NAME` writes the weights in half precision to
`experiments/weights/NAME.pt`. Evaluate that file with its paper's own script, and give what that says:
`--accuracy 68.31 --command "python tools/eval.py ..."` writes `NAME.json` beside it.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from common.command_line import REPOSITORY, ArgumentParser, cli_main, plain_name, real_number
from common.errors import UserError
from common.run_record import require_record
from common.training.checkpoints import load_checkpoint, model_weights, save_checkpoint
from common.training.runs import write_json

DIRECTORY = REPOSITORY / "experiments" / "weights"
LARGEST = 2_000_000  # bytes


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m common.training.offered_weights", description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="of a run, in whose directory it lies")
    parser.add_argument("-n", "--name", type=plain_name, required=True, help="of the files")
    parser.add_argument(
        "--accuracy", type=real_number(0, 100), metavar="PERCENT", help="test accuracy of the file as it is offered"
    )
    parser.add_argument("--command", default="", help="that gives this accuracy, with the directory to type it in")
    return parser.parse_args()


def digest_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cli_main
def main() -> None:
    args = parse_arguments()
    weights = model_weights(load_checkpoint(args.checkpoint), args.checkpoint)
    record, file = require_record(args.checkpoint.parent), DIRECTORY / f"{args.name}.pt"
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    offered = {key: v.half() if v.is_floating_point() else v for key, v in weights.items()}
    if file.exists():
        before = load_checkpoint(file)
        if before.keys() != offered.keys() or not all(torch.equal(offered[key], before[key]) for key in offered):
            raise UserError(f"{file} holds other weights, which somebody may have: give another --name, or remove it")
    save_checkpoint(offered, file)
    if (size := file.stat().st_size) > LARGEST:
        file.unlink()
        raise UserError(f"{args.name} has {size / 1e6:.1f} MB, and no more than {LARGEST / 1e6:.0f} MB are offered")
    print(f"{file}: {size / 1e3:.0f} kB")
    if args.accuracy is None:
        return
    content = {
        "student": record.student,
        "accuracy": args.accuracy,
        "command": args.command,
        "sha256": digest_of(file),
        "data": record.data,
        "paper": record.paper,
        "experiment": record.experiment,
        "seed": record.seed,
        "budget": record.budget,
        "epochs_done": record.epochs_done,
        "status": record.status,
        "accuracy_of_run": record.accuracy,
        "commit": [segment.commit for segment in record.computed],
        "hardware": [segment.hardware["cpu"] for segment in record.computed],
    }
    write_json(file.with_suffix(".json"), content)


if __name__ == "__main__":
    main()
