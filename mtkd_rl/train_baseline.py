"""Train a teacher: `python train_baseline.py --model resnet32x4`.

It goes to `<checkpoint-dir>/teachers/models/<model>_<dataset>_lr_<rate>_decay_<decay>_trial_<trial>/`, where the
default paths of `setting.py` find it.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not

import torch
import torch.nn.functional as F
from torch import Tensor

from common.command_line import entry_point, natural, plain_name, positive
from common.models import Network
from common.training.engine import Accuracies, CheckpointFiles, Trainer
from common.training.method import Method, Step
from common.training.runs import RunDirectory, is_done, write_json
from common.training.runtime import Runtime, runtime_from
from common.training.schedules import step_decay
from mtkd_rl.experiment import (
    DATASETS,
    GAMMA,
    MILESTONES,
    PUBLISHED_BATCH_SIZE,
    PUBLISHED_EPOCHS,
    add_flags_without_effect,
    amount,
    build_network,
    experiment_name,
    load_data,
    make_batches,
    make_parser,
    require_networks,
    run_record,
    settings_of,
    shortened,
    start_processes,
)
from mtkd_rl.setting import LIGHT_MODELS, teacher_directory

DATA_FOLDER = "/data/winycg/dataset"  # published default, a directory of its authors'
DIST_URL = "tcp://127.0.0.1:23451"
LIGHT_RATE = 0.01
# flags that make another experiment, with the values of the one that needs no mention
NAMED = {
    "--dataset": "cifar100",
    "--weight_decay": 5e-4,
    "--momentum": 0.9,
    "--lr_decay_rate": GAMMA,
}


class Baseline(Method):
    """Plain training by cross-entropy."""

    graph_capturable = True
    epoch_dependent_until = 0

    def __init__(self, student: Network) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> Step:
        logits = self.student(images)
        return Step(logits, {"cross_entropy": F.cross_entropy(logits, targets)})


def numbers(text: str) -> list[int]:
    """Type of a flag: numbers with commas between them."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is not a list like 150,180,210")
    return [int(part) for part in parts]


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--model", default="resnet110", help="network")
    add("--dataset", choices=DATASETS, default="cifar100", help="published with cifar100 alone")
    add(
        "--epochs", type=positive, default=PUBLISHED_EPOCHS, help="a shorter run moves default milestones in proportion"
    )
    add("--batch_size", type=positive, default=PUBLISHED_BATCH_SIZE, help="images a step, over all processes")
    add("--learning_rate", type=amount, default=0.05, help=f"{LIGHT_RATE} always for {', '.join(LIGHT_MODELS)}")
    add("--lr_decay_epochs", type=numbers, default=MILESTONES, help="after so many epochs the rate drops")
    add("--lr_decay_rate", type=amount, default=GAMMA, help="factor of each drop")
    add("--weight_decay", type=amount, default=5e-4, help="of SGD, without Nesterov")
    add("--momentum", type=amount, default=0.9, help="of SGD")
    add("--data-folder", default=DATA_FOLDER, help="directory of data sets; the published default means --data-dir")
    add("--checkpoint-dir", default="./checkpoint", help="where runs go")
    add("-t", "--trial", type=plain_name, default="0", help="names the run")
    add("--num_workers", type=natural, default=8, help="processes that decode large images")
    add("--gpu_id", default="0", help="GPUs to use, such as 0 or 0,1")
    add("--multiprocessing-distributed", action="store_true", help="one process a GPU")
    add("--dist-url", default=DIST_URL, help="where these processes meet (default: a free port)")
    without_effect = {
        ("--print-freq",): {"type": int, "default": 200, "help": "no effect: a progress bar shows every batch"},
        ("--save_freq",): {"type": int, "default": 40},
        ("--dali",): {"choices": ("cpu", "gpu"), "help": "no effect: data live on the training device anyway"},
    }
    add_flags_without_effect(parser, without_effect)
    args = parser.parse_args()
    args.learning_rate = LIGHT_RATE if args.model in LIGHT_MODELS else args.learning_rate
    args.lr_decay_epochs = shortened(args.lr_decay_epochs, args.epochs)
    return args


def train(args: argparse.Namespace, runtime: Runtime) -> Accuracies:
    require_networks([args.model], "--model")
    data = load_data(args, None if args.data_folder == DATA_FOLDER else args.data_folder)
    student = build_network(args.model, data.num_classes, "--model")
    place = teacher_directory(args.model, args.dataset, args.learning_rate, args.weight_decay, args.trial)
    directory = Path(args.checkpoint_dir, place)
    flags = ("model", "learning_rate", "lr_decay_epochs", "lr_decay_rate", "momentum")
    settings = {"method": Baseline.__name__, **settings_of(args, data, flags)}
    trainer = Trainer(
        Baseline(student),
        lambda parameters: torch.optim.SGD(
            parameters, lr=args.learning_rate, momentum=args.momentum, weight_decay=args.weight_decay
        ),
        step_decay(args.learning_rate, args.lr_decay_epochs, args.lr_decay_rate),
        args.epochs,
        runtime=runtime,
        files=CheckpointFiles(
            *(directory / f"{args.model}_{which}.pth" for which in ("last", "best")),
            weights_key="model",
            optimizer_key="optimizer",
            accuracy_key="best_acc",
        ),
        settings=settings,
        **make_batches(args, data, args.num_workers, runtime),
    )
    resumed = args.resume and trainer.resume()
    if resumed and is_done(directory):
        return trainer.accuracies
    run = None
    if runtime.is_main:
        run = RunDirectory(
            directory,
            run_record(args, experiment_name(f"teacher {args.model}", args, NAMED), trainer.settings, data, runtime),
            events=directory / "events",
            log_file=directory / "log.txt",
            history=trainer.history,
        )
        run.log(f"{args.model} on {data.name} ({data.content})")
        if resumed:
            run.log(f"resuming after epoch {trainer.epochs_done}/{args.epochs}")

    def write_best(test: dict[str, float], is_best: bool) -> None:
        if is_best:
            figures = {"test_loss": test["loss"], "test_acc": test["accuracy"], "test_acc_top5": test["top5"]}
            write_json(directory / "test_best_metrics.json", {**figures, "epoch": len(trainer.history)})

    return trainer.fit(run, write_best)


@entry_point
def main() -> None:
    args = parse_arguments()
    if args.gpu_id != "0":
        os.environ["CUDA_VISIBLE_DEVICES"] = args.gpu_id
    start_processes(args, DIST_URL)
    with runtime_from(args) as runtime:
        accuracies = train(args, runtime)
        if runtime.is_main:
            print(accuracies)


if __name__ == "__main__":
    main()
