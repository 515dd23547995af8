"""Make a teacher: fine-tune a network of timm's, `python3 train_teacher.py --model resnetv2_152x2_bit -n resnet152`.

Its weights go to `models/<name>.pth` (lowest validation loss), where `mlkd.py --checkpoint` takes them from.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not

import torch

from common.command_line import ArgumentParser, entry_point, plain_name, positive
from common.training.evaluation import evaluate
from common.training.launch import is_launched, launch_processes
from common.training.runtime import Runtime, add_runtime_flags, runtime_from
from common.training.schedules import step_decay
from mlkd.data import SEED, add_data_flags, dataset_name, load_data, make_batches, network_input
from mlkd.methods import FineTuning
from mlkd.mixing import Mixing
from mlkd.run_files import RunFiles
from mlkd.session import Session
from mlkd.teachers import create_network, require_architecture

# Nothing of this is published: the page begins where the teachers are trained
EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 30, 1e-4, 1e-4
MILESTONES, GAMMA = (0.6, 0.85), 0.1  # in parts of the training


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("-m", "--model", required=True, help="timm's name; a tag chooses the weights that training starts from")
    add("-n", "--name", type=plain_name, required=True, help="of the teacher's files")
    add("--no-pretrained", action="store_true", help="start from random weights, not from timm's")
    add("--world-size", type=positive, default=1, metavar="N", help="processes on this machine, one a GPU")
    add_data_flags(parser)
    add("-e", "--epochs", type=positive, default=EPOCHS, help="how many to train")
    add("--lr", type=float, default=LEARNING_RATE, help="a tenth of it after 60, and again after 85 %% of the training")
    add("--mixup-alpha", type=float, default=0.0, help="of mixup; 0 for none")
    add("--cutmix-alpha", type=float, default=0.0, help="of CutMix; 0 for none")
    add("-s", "--save-frequency", type=positive, default=50, metavar="N", help="keep the network every N epochs")
    add_runtime_flags(parser)
    parser.set_defaults(seed=SEED)
    args = parser.parse_args()
    if not (args.lr > 0 and args.mixup_alpha >= 0 and args.cutmix_alpha >= 0):
        parser.error("--lr must be above 0, --mixup-alpha and --cutmix-alpha not negative")
    return args


def train(args: argparse.Namespace, runtime: Runtime) -> None:
    require_architecture(args.model)
    data = load_data(args)
    torch.manual_seed(args.seed)
    network = create_network(args.model, network_input(args, data), pretrained=not args.no_pretrained)
    session = Session(
        args,
        data,
        make_batches(args, data, runtime),
        FineTuning(network, Mixing(data.num_classes, args.mixup_alpha, args.cutmix_alpha)),
        step_decay(args.lr, [part * args.epochs for part in MILESTONES], GAMMA),
        WEIGHT_DECAY,
        RunFiles(args.name),
        {key: getattr(args, key) for key in ("model", "no_pretrained", "lr")},
        runtime,
    )
    session.run(
        f"{dataset_name(args)} teacher {args.model}",
        EPOCHS,
        [f"{args.model} from {'random' if args.no_pretrained else 'pretrained'} weights"],
        lambda network: {"final": evaluate(network, session.test, runtime)["accuracy"]},
    )


@entry_point
def main() -> None:
    args = parse_arguments()
    if args.world_size > 1 and not is_launched():
        launch_processes(args.world_size)
    with runtime_from(args) as runtime:
        train(args, runtime)


if __name__ == "__main__":
    main()
