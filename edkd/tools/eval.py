"""Evaluate a network on a test set: `python tools/eval.py -m resnet20 -c FILE -d cifar100 -bs 64`.

`-c pretrain` evaluates the teacher of that name, looked for where training looks for it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

from common.command_line import ArgumentParser, cli_main, positive_int, resolve_path, settings_from
from common.data.flags import DataSource, add_data_flags
from common.errors import UserError
from common.training.evaluation import evaluate
from common.training.runtime import TRAINING_ONLY, Runtime, add_runtime_flags, runtime_from
from common.training.teachers import TeacherCheckpoint
from edkd.engine.cfg import CFG
from edkd.engine.experiment import PAPER, PREFIXES, build_network, evaluation_batches, load_data, require_network
from edkd.engine.teachers import find_teacher, training_command

PRETRAINED = "pretrain"


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("-m", "--model", default="", help="published name of the network")
    parser.add_argument("-c", "--ckpt", default=PRETRAINED, metavar="FILE", help="checkpoint, or pretrain")
    parser.add_argument("-d", "--dataset", default="cifar100", choices=list(PREFIXES), help="dataset")
    parser.add_argument("-bs", "--batch-size", type=positive_int, default=64, metavar="N", help="images per batch")
    add_data_flags(parser, training=False, folders=False)
    add_runtime_flags(parser, without=TRAINING_ONLY)
    args = parser.parse_args()
    return args


def run(args: argparse.Namespace, runtime: Runtime) -> None:
    require_network(args.model, args.dataset, "-m")
    found = checkpoint_of(args)
    data = load_data(settings_from(DataSource, args), args.dataset)
    network = build_network(args.model, args.dataset, data.num_classes, "-m")
    found.load_into(network, "student.")
    network.to(runtime.device)
    batches = evaluation_batches(
        args.dataset, data.test, runtime, batch_size=args.batch_size, workers=CFG.DATASET.NUM_WORKERS
    )
    if runtime.is_main:
        print(f"{args.model} from {found.path} ({found.origin})")
        print(f"on {batches.samples} test images of {data.name} ({data.content}):", flush=True)
    figures = evaluate(network, batches, runtime)
    if runtime.is_main:
        print(f"accuracy {figures['accuracy']:.2f}, top-5 {figures['top5']:.2f}, loss {figures['loss']:.4f}")


def checkpoint_of(args: argparse.Namespace) -> TeacherCheckpoint:
    """The file of `-c`.

    Raises:
        UserError: there is none.
    """
    if args.ckpt == PRETRAINED:
        return find_teacher(args.model, args.dataset, Path(CFG.LOG.PREFIX), given_by="-c FILE")
    path = resolve_path(args.ckpt, PAPER)
    if not path.is_file():
        raise UserError(f"-c: no file {args.ckpt} here, in {PAPER}/ or in the repository")
    return TeacherCheckpoint(args.model, path, training_command(args.model, args.dataset))


@cli_main
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        run(args, runtime)


if __name__ == "__main__":
    main()
