"""Train one experiment of the Tf-KD paper: `python main.py --model_dir experiments/base_experiments/base_resnet18/`.

`--model_dir` holds the experiment's `params.json`. Without a teacher in it, this trains the baseline (or with
`--regularization` Tf-KD_reg, with `--label_smoothing` label smoothing); with one, KD (or `--self_training`).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

import torch
from torch import nn

from common.command_line import (
    ArgumentParser,
    cli_main,
    inner_name,
    nonnegative_int,
    positive_int,
    resolve_path,
    settings_from,
)
from common.data.flags import DataSource, add_data_flags, visible
from common.own_code import error_in, failures_told, provenance
from common.training.checkpoints import load_weights
from common.training.engine import Trainer
from common.training.method import load_method
from common.training.run_training import Budget, RunSpec, run_training
from common.training.runtime import Runtime, add_runtime_flags, end_if_checked, runtime_from
from common.training.schedules import step_decay
from tfkd.build import build_method, load_teacher, require_method
from tfkd.experiment import PAPER, load_data, make_batches, open_experiment, resolve_num_classes
from tfkd.flags import METHOD_FLAGS, Flags
from tfkd.outputs import (
    PUBLISHED_EPOCHS,
    experiment_name,
    published_batch_size,
    run_files,
    write_results,
)
from tfkd.params import Params

# Literals of the published code
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
MILESTONES, GAMMA = (60, 120, 160), 0.2
LR_BATCH_SIZE = 128  # the batch size that `learning_rate` is meant for

# Flags beside which the published script ignores --double_training
OTHER_METHODS = ("regularization", "label_smoothing", "self_training", "pt_teacher", "method")

# Flags without which two runs are not the same; a run is resumed with the same ones only
SAME_FLAGS = (*METHOD_FLAGS, "loss_form", "warm", "restore_file", "num_class", "image_size", "val_fraction")


@dataclasses.dataclass(frozen=True)
class RunFlags(DataSource, Flags):
    """All flags but those of the runtime, under their names."""

    model_dir: str
    image_size: int | None
    val_fraction: float
    no_test: bool
    check_settings: bool


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model_dir", default="experiments/base_experiments/base_resnet18/", help="directory with params.json")
    add(
        "--restore_file",
        type=inner_name,
        metavar="NAME",
        help="start from NAME.pth.tar of model_dir (weights, optimizer, not epoch)",
    )
    add("--num_class", type=positive_int, default=100, help="classes; 100 stands for as many as the dataset has")
    add("-warm", type=nonnegative_int, default=1, help="epochs of warm-up; it ends with the first one, as published")
    add("--regularization", action="store_true", help="Tf-KD_reg: the manually designed virtual teacher")
    add("--label_smoothing", action="store_true", help="label smoothing")
    add("--double_training", action="store_true", help="start from the trained baseline of the same model")
    add("--self_training", action="store_true", help="Tf-KD_self: taught by the model's own trained baseline")
    add("--pt_teacher", action="store_true", help="De-KD: a poorly trained teacher (0.pth.tar or 50.pth.tar)")
    ours = parser.add_argument_group("added here")
    ours.add_argument(
        "--epochs", type=positive_int, metavar="N", help="train N epochs; milestones shrink in proportion"
    )
    ours.add_argument("--loss_form", choices=("code", "paper"), default="code", help="see docs/divergences.md")
    ours.add_argument("--matched_scale", action="store_true", help="scale label smoothing's loss to that of Tf-KD_reg")
    ours.add_argument("--method", metavar="FILE.py:CLASS", help="a method of your own, in place of the paper's")
    add_data_flags(parser)
    add_runtime_flags(parser)
    args = parser.parse_args()
    if args.method and any(getattr(args, flag) for flag in ("regularization", "label_smoothing", "self_training")):
        parser.error("--method is a method of your own: leave the flags of the paper's methods out")
    if args.regularization and args.label_smoothing:
        parser.error("--regularization and --label_smoothing are two methods: give one of them")
    if args.matched_scale and not args.label_smoothing:
        parser.error("--matched_scale is a control for --regularization: give it with --label_smoothing")
    if args.double_training and (other := next((flag for flag in OTHER_METHODS if getattr(args, flag)), None)):
        parser.error(f"--double_training trains the plain baseline a second time: give it without --{other}")
    return args


def make_optimizer(params: Params, base_lr: float, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD as published; Adam without weight decay for the small plain network."""
    if params.student == "cnn":
        return torch.optim.Adam(parameters, lr=base_lr)
    return torch.optim.SGD(parameters, lr=base_lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def specify(flags: RunFlags, runtime: Runtime) -> RunSpec:
    """The run that the flags ask for."""
    model_dir, params = open_experiment(flags.model_dir)
    keys = require_method(flags, model_dir / "params.json", params)
    end_if_checked(flags.check_settings)
    data = load_data(flags, params, flags.image_size)
    data = visible(data, no_test=flags.no_test, val_fraction=flags.val_fraction)
    method, teachers = build_method(flags, model_dir, params, keys, data)
    epochs = flags.epochs or params.num_epochs
    milestones = MILESTONES if flags.epochs is None else [m * epochs / PUBLISHED_EPOCHS for m in MILESTONES]
    base_lr = params.learning_rate * params.batch_size / LR_BATCH_SIZE
    files = run_files(flags, params, model_dir, epochs)
    told_apart, own_files = provenance(type(method) if flags.method else None)

    def restore(trainer: Trainer) -> None:
        if flags.restore_file:
            # of the model directory, also where the method writes to one in it, as published
            checkpoint = load_weights(method.student, model_dir / f"{flags.restore_file}.pth.tar", params.student)
            trainer.state.restore_optimizer(checkpoint)

    return RunSpec(
        paper=PAPER,
        experiment=experiment_name(flags, model_dir),
        student=params.student,
        method=method,
        make_optimizer=lambda parameters: make_optimizer(params, base_lr, parameters),
        schedule=step_decay(base_lr, milestones, GAMMA, warmup_epochs=flags.warm),
        loaders=make_batches(params, data, flags.val_fraction, runtime),
        data=data,
        budget=Budget(
            epochs, params.batch_size, PUBLISHED_EPOCHS, published_batch_size(model_dir), runtime.limit_train_batches
        ),
        files=files,
        settings={
            **{key: value for key, value in dataclasses.asdict(params).items() if value is not None},
            "method": type(method).__name__,
            "epochs": epochs,
            "milestones": list(milestones),
            **{key: getattr(flags, key) for key in SAME_FLAGS},
            **told_apart,
        },
        teachers=teachers,
        load_teacher=lambda teacher: load_teacher(
            teacher, params, model_dir / "params.json", resolve_num_classes(flags.num_class, data)
        ),
        details=own_files,
        initialize=restore,
        after_save=lambda trainer, run, test, is_best: write_results(run.path, params, test, is_best),
    )


def _own_failures(flags: RunFlags, runtime: Runtime) -> contextlib.AbstractContextManager:
    """Tells errors in the code of `--method`, whose traceback the log gets."""
    if not (method := flags.method):
        return contextlib.nullcontext()
    log = resolve_path(flags.model_dir, PAPER) / "train.log"
    return failures_told(
        lambda error: error_in(method, load_method(method, PAPER), error), log, is_main=runtime.is_main
    )


@cli_main
def main() -> None:
    args = parse_arguments()
    flags = settings_from(RunFlags, args)
    with runtime_from(args) as runtime, _own_failures(flags, runtime):
        run_training(specify(flags, runtime), runtime, resume=args.resume, overwrite=args.overwrite)


if __name__ == "__main__":
    main()
