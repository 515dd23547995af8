"""Train a teacher: `python train_baseline.py --model resnet32x4`.

It goes to `<checkpoint-dir>/teachers/models/<model>_<dataset>_lr_<rate>_decay_<decay>_trial_<trial>/`, where the
default paths of `setting.py` find it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

import torch
import torch.nn.functional as F
from torch import Tensor

from common.command_line import (
    cli_main,
    decay_factor,
    momentum_number,
    nonnegative_float,
    nonnegative_int,
    plain_name,
    positive_float,
    positive_int,
    settings_from,
)
from common.data.flags import visible
from common.errors import UserError
from common.models import Network
from common.models.network import require_takes
from common.training.checkpoints import CheckpointFiles
from common.training.engine import Trainer
from common.training.method import Method, StepOutput
from common.training.run_training import RunSpec, run_training
from common.training.runs import RunDirectory, RunFiles, write_json
from common.training.runtime import Runtime, end_if_checked, runtime_from
from common.training.schedules import step_decay
from mtkd_rl.experiment import (
    DATASETS,
    GAMMA,
    MILESTONES,
    PAPER,
    PUBLISHED_BATCH_SIZE,
    PUBLISHED_EPOCHS,
    Processes,
    RunFlags,
    add_flags_without_effect,
    build_network,
    experiment_name,
    image_size,
    in_proportion,
    load_data,
    make_batches,
    make_budget,
    make_parser,
    require_networks,
    run_config,
    start_processes,
)
from mtkd_rl.setting import LIGHT_MODELS, teacher_directory

DATA_FOLDER = "/data/winycg/dataset"  # published default, a directory of its authors'
DIST_URL = "tcp://127.0.0.1:23451"
CHOSEN = "KD_CHOSEN_GPUS"  # in the environment: by which --gpu_id CUDA_VISIBLE_DEVICES has been narrowed
LIGHT_LR = 0.01
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

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        return StepOutput(logits, {"cross_entropy": F.cross_entropy(logits, targets)})


def int_list(text: str) -> list[int]:
    """Type of a flag: numbers with commas between them."""
    try:
        return [nonnegative_int(part.strip()) for part in text.split(",")]
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{text[:40]} is not a list like 150,180,210") from error


def visible_gpus(chosen: str, visible: str | None) -> str:
    """What `--gpu_id` leaves of the GPUs that a scheduler lets this process see; it counts within these.

    Raises:
        UserError: no list of different numbers, or a GPU that is not among them.
    """
    numbers = chosen.split(",")
    if not all(re.fullmatch("[0-9]{1,4}", number) for number in numbers) or len({*map(int, numbers)}) < len(numbers):
        raise UserError(f"--gpu_id {chosen[:40]} is not a list of GPUs such as 0 or 0,1")
    if visible is None:
        return chosen
    names = [name for name in visible.split(",") if name.strip()]
    names = list(itertools.takewhile(lambda name: name.strip() != "-1", names))  # which ends the list for CUDA
    if missing := [number for number in numbers if int(number) >= len(names)]:
        raise UserError(
            f"--gpu_id {missing[0]}: CUDA_VISIBLE_DEVICES={visible} leaves {len(names)} GPUs, counted from 0"
        )
    return ",".join(names[int(number)] for number in numbers)


def choose_gpus(chosen: str) -> None:
    """Let this process see the GPUs of `--gpu_id` alone, and the processes that it starts by the same flags no fewer.

    Raises:
        UserError: as of `visible_gpus`.
    """
    if chosen not in ("0", os.environ.get(CHOSEN)):
        os.environ["CUDA_VISIBLE_DEVICES"] = visible_gpus(chosen, os.environ.get("CUDA_VISIBLE_DEVICES"))
        os.environ[CHOSEN] = chosen


@dataclasses.dataclass(frozen=True)
class Flags(RunFlags):
    """All flags but those of runtime and processes, under their names."""

    model: str
    learning_rate: float
    lr_decay_epochs: Sequence[float]
    lr_decay_rate: float
    momentum: float
    data_folder: str
    num_workers: int


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__doc__)
    add = parser.add_argument
    add("--model", default="resnet110", help="network")
    add("--dataset", choices=DATASETS, default="cifar100", help="published with cifar100 alone")
    add(
        "--epochs",
        type=positive_int,
        default=PUBLISHED_EPOCHS,
        help="a shorter run moves default milestones in proportion",
    )
    add("--batch_size", type=positive_int, default=PUBLISHED_BATCH_SIZE, help="images per step, over all ranks")
    add(
        "--learning_rate",
        type=positive_float,
        default=0.05,
        help=f"{LIGHT_LR} always for {', '.join(LIGHT_MODELS)}",
    )
    add("--lr_decay_epochs", type=int_list, default=MILESTONES, help="after so many epochs the learning rate drops")
    add("--lr_decay_rate", type=decay_factor, default=GAMMA, help="factor of each drop")
    add("--weight_decay", type=nonnegative_float, default=5e-4, help="of SGD, without Nesterov")
    add("--momentum", type=momentum_number, default=0.9, help="of SGD")
    add("--data-folder", default=DATA_FOLDER, help="directory of datasets; the published default means --data-dir")
    add("--checkpoint-dir", default="./checkpoint", help="where runs go")
    add("-t", "--trial", type=plain_name, default="0", help="names the run")
    add("--num_workers", type=nonnegative_int, default=8, help="processes that decode large images")
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
    args.learning_rate = LIGHT_LR if args.model in LIGHT_MODELS else args.learning_rate
    args.lr_decay_epochs = in_proportion(args.lr_decay_epochs, args.epochs)
    return args


def name_of(flags: Flags) -> str:
    """What the tables know this run by, for example `teacher resnet32x4`."""
    return experiment_name(f"teacher {flags.model}", vars(flags), NAMED)


def specify(flags: Flags, runtime: Runtime) -> RunSpec:
    """The run that the flags ask for."""
    require_networks([flags.model], "--model")
    end_if_checked(flags.check_settings)
    data = load_data(flags, None if flags.data_folder == DATA_FOLDER else flags.data_folder)
    data = visible(data, no_test=flags.no_test, val_fraction=flags.val_fraction)
    student = build_network(flags.model, data.num_classes, "--model")
    size = image_size(flags, data)
    require_takes(student, flags.model, size, size, data.num_classes)
    place = teacher_directory(flags.model, flags.dataset, flags.learning_rate, flags.weight_decay, flags.trial)
    directory = Path(flags.checkpoint_dir, place)
    last, best = (directory / f"{flags.model}_{which}.pth" for which in ("last", "best"))
    checkpoints = CheckpointFiles(last, best, weights_key="model", optimizer_key="optimizer", accuracy_key="best_acc")
    own = ("model", "learning_rate", "lr_decay_epochs", "lr_decay_rate", "momentum")
    return RunSpec(
        paper=PAPER,
        experiment=name_of(flags),
        student=flags.model,
        method=Baseline(student),
        make_optimizer=lambda parameters: torch.optim.SGD(
            parameters, lr=flags.learning_rate, momentum=flags.momentum, weight_decay=flags.weight_decay
        ),
        schedule=step_decay(flags.learning_rate, flags.lr_decay_epochs, flags.lr_decay_rate),
        loaders=make_batches(flags, data, flags.num_workers, runtime),
        data=data,
        budget=make_budget(flags, runtime),
        files=RunFiles(directory, checkpoints, directory / "events", directory / "log.txt"),
        length=("epochs", "lr_decay_epochs"),
        settings={"method": Baseline.__name__, **run_config(flags, own)},
        after_save=write_best,
    )


def write_best(trainer: Trainer, run: RunDirectory, test: dict[str, float], is_best: bool) -> None:
    """The published file of the best epoch."""
    if is_best:
        metrics = {"test_loss": test["loss"], "test_acc": test["accuracy"], "test_acc_top5": test["top5"]}
        write_json(run.path / "test_best_metrics.json", {**metrics, "epoch": len(trainer.state.history)})


@cli_main
def main() -> None:
    args = parse_arguments()
    choose_gpus(args.gpu_id)
    start_processes(settings_from(Processes, args), DIST_URL)
    with runtime_from(args) as runtime:
        spec = specify(settings_from(Flags, args), runtime)
        run_training(spec, runtime, resume=args.resume, overwrite=args.overwrite)


if __name__ == "__main__":
    main()
