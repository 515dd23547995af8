"""Train one experiment of the Tf-KD paper: `python main.py --model_dir experiments/base_experiments/base_resnet18/`.

`--model_dir` holds the experiment's `params.json`. Without a teacher in it, this trains the baseline (or with
`--regularization` Tf-KD_reg, with `--label_smoothing` label smoothing); with one, KD (or `--self_training`).
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not

import torch
from torch import nn

from common.command_line import ArgumentParser, entry_point, inner_name, natural, positive
from common.data.flags import add_data_flags
from common.training.checkpoints import load_weights
from common.training.engine import Accuracies, Trainer
from common.training.runs import RunDirectory, is_done
from common.training.runtime import Runtime, add_runtime_flags, runtime_from
from common.training.schedules import step_decay
from tfkd.choice import build_method
from tfkd.experiment import PAPER, load_data, make_batches, open_experiment
from tfkd.params import Params
from tfkd.run_files import (
    METHOD_FLAGS,
    PUBLISHED_EPOCHS,
    checkpoint_files,
    events_directory,
    experiment_name,
    output_directory,
    write_results,
)

# Literals of the published code
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
MILESTONES, GAMMA = (60, 120, 160), 0.2
RATE_BATCH_SIZE = 128  # the batch size that `learning_rate` is meant for

# Flags beside which the published script ignores --double_training
OTHER_METHODS = ("regularization", "label_smoothing", "self_training", "pt_teacher", "method")

# Flags without which two runs are not the same; a run is resumed with the same ones only
FLAGS_THAT_MATTER = (
    *(*METHOD_FLAGS, "loss_form", "warm", "restore_file", "num_class"),
    *("image_size", "val_fraction", "limit_train_batches", "limit_eval_batches"),
)


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model_dir", default="experiments/base_experiments/base_resnet18/", help="directory with params.json")
    add(
        "--restore_file",
        type=inner_name,
        metavar="NAME",
        help="start from NAME.pth.tar of model_dir (weights, optimiser, not epoch)",
    )
    add("--num_class", type=int, default=100, help="classes; 100 stands for as many as the data set has")
    add("-warm", type=natural, default=1, help="epochs of warm-up; it ends with the first one, as published")
    add("--regularization", action="store_true", help="Tf-KD_reg: the manually designed teacher")
    add("--label_smoothing", action="store_true", help="label smoothing")
    add("--double_training", action="store_true", help="start from the trained baseline of the same model")
    add("--self_training", action="store_true", help="Tf-KD_self: taught by the model's own trained baseline")
    add("--pt_teacher", action="store_true", help="De-KD: a poorly trained teacher (0.pth.tar or 50.pth.tar)")
    ours = parser.add_argument_group("added here")
    ours.add_argument("--epochs", type=positive, metavar="N", help="train N epochs; milestones shrink in proportion")
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


def train(args: argparse.Namespace, runtime: Runtime) -> Accuracies:
    model_dir, params = open_experiment(args.model_dir)
    data = load_data(args, params)
    method, remarks = build_method(args, model_dir, params, data)
    batches = make_batches(args, params, data, runtime)
    directory = output_directory(args, model_dir)

    epochs = args.epochs or params.num_epochs
    milestones = MILESTONES if args.epochs is None else [m * epochs / PUBLISHED_EPOCHS for m in MILESTONES]
    base_lr = params.learning_rate * params.batch_size / RATE_BATCH_SIZE
    settings = {
        **{key: value for key, value in dataclasses.asdict(params).items() if value is not None},
        "method": type(method).__name__,
        "epochs": epochs,
        "milestones": list(milestones),
        "data": data.fingerprint,
        "seed": args.seed,
        "amp": args.amp,
        **{key: getattr(args, key) for key in FLAGS_THAT_MATTER},
    }
    trainer = Trainer(
        method,
        lambda parameters: make_optimizer(params, base_lr, parameters),
        step_decay(base_lr, milestones, GAMMA, warmup_epochs=args.warm),
        epochs,
        runtime=runtime,
        files=checkpoint_files(args, params, directory, epochs),
        settings=settings,
        **batches,
    )
    resumed = args.resume and trainer.resume()
    if resumed and is_done(directory):
        return trainer.accuracies
    if args.restore_file and not resumed:
        # of the model directory, also where the method writes to one in it, as published
        checkpoint = load_weights(method.student, model_dir / f"{args.restore_file}.pth.tar", params.student)
        trainer.restore_optimizer(checkpoint)
    run = None
    if runtime.is_main:
        run = RunDirectory(
            directory,
            {
                "paper": PAPER,
                "experiment": experiment_name(args, model_dir),
                "settings": trainer.settings,
                "runtime": runtime.settings(),
                "data": data.describe(),
                "budget": {"epochs": epochs, "published_epochs": PUBLISHED_EPOCHS, "batches": args.limit_train_batches},
            },
            events=events_directory(args, params, directory),
            log_file=model_dir / "train.log",
            history=trainer.history,
        )
        if resumed:
            remarks.append(f"resuming after epoch {trainer.epochs_done}/{epochs}")
        for remark in (*remarks, f"{settings['method']} of {params.student} on {data.name} ({data.content})"):
            run.log(remark)
    return trainer.fit(run, lambda test, is_best: write_results(directory, params, test, is_best))


@entry_point
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        accuracies = train(args, runtime)
        if runtime.is_main:
            print(accuracies)


if __name__ == "__main__":
    main()
