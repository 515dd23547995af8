"""Train one experiment of the Tf-KD paper: `python main.py --model_dir experiments/base_experiments/base_resnet18/`.

`--model_dir` holds the experiment's `params.json`. Without a teacher in it, this trains the baseline (or with
`--regularization` Tf-KD_reg, with `--label_smoothing` label smoothing); with one, KD (or `--self_training`).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import nn

from common.command_line import ArgumentParser, entry_point
from common.data import Batches, Dataset
from common.data.flags import add_data_flags
from common.errors import UserError
from common.training.checkpoints import load_weights
from common.training.engine import CheckpointFiles, Trainer
from common.training.method import Method, load_method
from common.training.runs import RunDirectory, write_json
from common.training.runtime import Runtime, add_runtime_flags, runtime_from
from common.training.schedules import step_decay
from tfkd.experiment import PAPER, build_network, class_count, load_data, open_experiment, preparation
from tfkd.methods import Baseline, Distillation, LabelSmoothing, Regularization
from tfkd.params import Params
from tfkd.teachers import experiments_tree, find_teacher, load_teacher

# Literals of the published code
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
MILESTONES, GAMMA, PUBLISHED_EPOCHS = (60, 120, 160), 0.2, 200
RATE_BATCH_SIZE = 128  # the batch size that `learning_rate` is meant for

METHOD_FLAGS = ("regularization", "label_smoothing", "double_training", "self_training", "pt_teacher")
# Flags without which two runs are not the same; a run is resumed with the same ones only
FLAGS_THAT_MATTER = (
    *(*METHOD_FLAGS, "loss_form", "warm", "restore_file", "num_class"),
    *("image_size", "val_fraction", "limit_train_batches", "limit_eval_batches"),
)


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model_dir", default="experiments/base_experiments/base_resnet18/", help="directory with params.json")
    add("--restore_file", metavar="NAME", help="start from NAME.pth.tar of the run (weights and optimiser, not epoch)")
    add("--num_class", type=int, default=100, help="classes; 100 stands for as many as the data set has")
    add("-warm", type=int, default=1, help="epochs of warm-up; it ends with the first one, as published")
    add("--regularization", action="store_true", help="Tf-KD_reg: the manually designed teacher")
    add("--label_smoothing", action="store_true", help="label smoothing")
    add("--double_training", action="store_true", help="start from the trained baseline of the same model")
    add("--self_training", action="store_true", help="Tf-KD_self: taught by the model's own trained baseline")
    add("--pt_teacher", action="store_true", help="De-KD: a poorly trained teacher (0.pth.tar or 50.pth.tar)")
    ours = parser.add_argument_group("added here")
    ours.add_argument("--epochs", type=int, metavar="N", help="train N epochs; the milestones shrink in proportion")
    ours.add_argument("--loss_form", choices=("code", "paper"), default="code", help="see docs/divergences.md")
    ours.add_argument("--method", metavar="FILE.py:CLASS", help="a method of your own, in place of the paper's")
    add_data_flags(parser)
    add_runtime_flags(parser)
    args = parser.parse_args()
    if args.method and any(getattr(args, flag) for flag in ("regularization", "label_smoothing", "self_training")):
        parser.error("--method is a method of your own: leave the flags of the paper's methods out")
    if args.regularization and args.label_smoothing:
        parser.error("--regularization and --label_smoothing are two methods: give one of them")
    if args.restore_file and args.resume:
        parser.error("--restore_file starts a new run and --resume goes on with one: give one of them")
    if args.epochs is not None and args.epochs < 1:
        parser.error("--epochs must be at least 1")
    return args


def build_method(args: argparse.Namespace, model_dir: Path, params: Params, data: Dataset) -> tuple[Method, list[str]]:
    """The method that flags and params ask for, and remarks about its teacher.

    Raises:
        UserError: flags that do not go together, a key or a teacher that is missing.
    """
    file = model_dir / "params.json"
    num_classes = class_count(args.num_class, data)
    student = build_network(params.student, params, file, num_classes)
    if args.double_training:
        trained = find_teacher(params.student, model_dir)
        load_teacher(student, trained, params.student)
    if not params.has_teacher:
        for flag in ("self_training", "pt_teacher"):
            if getattr(args, flag):
                raise UserError(f"--{flag} needs a teacher, and {file} names none: give a kd_experiments directory")
        if args.regularization:
            keys = params.require(file, "--regularization", "reg_alpha", "reg_temperature", "multiplier")
            return Regularization(student, *keys, form=args.loss_form), []
        if args.label_smoothing:
            return LabelSmoothing(student, form=args.loss_form), []
        return load_method(args.method)(student) if args.method else Baseline(student), []

    for flag in ("regularization", "label_smoothing"):
        if getattr(args, flag):
            raise UserError(
                f"--{flag} takes no teacher, but {file} names {params.teacher}: give a base_experiments directory"
            )
    keys = params.require(file, "distillation", "alpha", "temperature")
    if args.self_training:
        if params.teacher != params.student:
            raise UserError(f"--self_training: in {file} {params.student} is taught by {params.teacher}, not by itself")
        keys += params.require(file, "--self_training", "multiplier")
    teacher = build_network(params.teacher, params, file, num_classes)
    found = find_teacher(params.teacher, model_dir, args.pt_teacher)
    checkpoint = load_teacher(teacher, found, params.teacher)
    remarks = [f"teacher {params.teacher} from {found.path}"]
    trained_on = checkpoint.get("training", {}).get("settings", {}).get("data")
    if trained_on not in (None, data.fingerprint):
        remarks.append(f"warning: this teacher was trained on other data ({trained_on}) than the student will be")
    if args.method:
        return load_method(args.method)(student, teacher), remarks
    return Distillation(student, teacher, *keys, form=args.loss_form), remarks


def experiment_name(args: argparse.Namespace, model_dir: Path) -> str:
    """What the tables know this run by: the directory in the tree of experiments, and the flags that change the method.

    For example `base_experiments/base_resnet18 --regularization`.
    """
    tree = experiments_tree(model_dir)
    directory = model_dir.resolve()
    name = directory.relative_to(tree) if directory.is_relative_to(tree) else directory
    flags = [f"--{flag}" for flag in METHOD_FLAGS if getattr(args, flag)]
    if args.loss_form != "code":
        flags.append(f"--loss_form {args.loss_form}")
    if args.method:
        flags.append(f"--method {args.method.rpartition(':')[2]}")
    return " ".join([str(name), *flags])


def output_directory(args: argparse.Namespace, model_dir: Path) -> Path:
    """The model directory; teacher-free variants, as published, and a method of one's own write to one in it."""
    if args.method:
        return model_dir / args.method.rpartition(":")[2]
    if args.regularization:
        return model_dir / "Tf-KD_regularization"
    return model_dir / "label_smoothing" if args.label_smoothing else model_dir


def make_batches(args: argparse.Namespace, params: Params, data: Dataset, runtime: Runtime) -> dict[str, Batches]:
    """Batches of the training, test and (with --val-fraction) validation part."""
    normalization, augmentation = preparation(params.dataset)
    train, validation = data.train, None
    if not 0 <= args.val_fraction < 1:
        raise UserError(f"--val-fraction {args.val_fraction} must be at least 0 and below 1")
    if params.subset_percent < 1:
        _, train = train.split(params.subset_percent)
    if args.val_fraction:
        train, validation = train.split(args.val_fraction)
    where = {"device": runtime.device, "rank": runtime.rank, "world_size": runtime.world_size}
    evaluation = {**where, "limit": args.limit_eval_batches}
    batches = {
        "train": Batches(
            train,
            params.batch_size,
            normalization,
            augmentation=augmentation if params.augmentation == "yes" else None,
            shuffle=True,
            seed=args.seed,
            limit=args.limit_train_batches,
            **where,
        ),
        "test": Batches(data.test, params.batch_size, normalization, **evaluation),
    }
    if validation is not None:
        batches["validation"] = Batches(validation, params.batch_size, normalization, **evaluation)
    for part, cut in batches.items():
        if not len(cut):
            raise UserError(f"no {part} images are left to make a batch of")
    return batches


def make_optimizer(params: Params, base_lr: float, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD as published; Adam without weight decay for the small plain network."""
    if params.student == "cnn":
        return torch.optim.Adam(parameters, lr=base_lr)
    return torch.optim.SGD(parameters, lr=base_lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def checkpoint_files(args: argparse.Namespace, params: Params, directory: Path, epochs: int) -> CheckpointFiles:
    """The published names; a baseline also keeps the snapshots that De-KD takes for poorly trained teachers."""
    snapshots = {}
    if not (params.has_teacher or args.regularization or args.label_smoothing or args.method):
        fiftieth = 50 if args.epochs is None else max(1, round(epochs * 50 / PUBLISHED_EPOCHS))
        snapshots = {directory / "0.pth.tar": 1, directory / "50.pth.tar": fiftieth}
    return CheckpointFiles(directory / "last.pth.tar", directory / "best.pth.tar", snapshots)


def train(args: argparse.Namespace, runtime: Runtime) -> None:
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
    if args.restore_file:
        checkpoint = load_weights(method.student, directory / f"{args.restore_file}.pth.tar", params.student)
        trainer.restore_optimizer(checkpoint)
    resumed = args.resume and trainer.resume()
    run = None
    if runtime.is_main:
        run = RunDirectory(
            directory,
            {
                "paper": PAPER,
                "experiment": experiment_name(args, model_dir),
                "settings": settings,
                "runtime": runtime.settings(),
                "data": data.describe(),
                "budget": {"epochs": epochs, "published_epochs": PUBLISHED_EPOCHS, "batches": args.limit_train_batches},
            },
            events=directory / events_name(args, params),
            log_file=model_dir / "train.log",
            first_epoch=trainer.first_epoch,
        )
        if resumed:
            remarks.append(f"resuming after epoch {trainer.first_epoch}/{epochs}")
        for remark in (*remarks, f"{settings['method']} of {params.student} on {data.name} ({data.content})"):
            run.log(remark)
    # the teacher path writes "result", the others "results", as published
    suffix = "result" if params.has_teacher else "results"

    def write_results(test: dict[str, float], is_best: bool) -> None:
        figures = {"accuracy": test["accuracy"], "loss": test["loss"]}
        write_json(directory / f"eval_last_{suffix}.json", figures)
        if is_best:
            write_json(directory / f"eval_best_{suffix}.json", figures)

    accuracies = trainer.fit(run, write_results)
    if runtime.is_main:
        print(f"test accuracy: last epoch {accuracies.last:.2f}, best epoch {accuracies.best:.2f}", end="")
        print("" if accuracies.selected is None else f", chosen by validation {accuracies.selected:.2f}")


def events_name(args: argparse.Namespace, params: Params) -> str:
    """Directory of TensorBoard events within the run's, as published."""
    if params.has_teacher:
        return "tensorboard"
    return "." if args.regularization or args.label_smoothing else "base_train"


@entry_point
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        train(args, runtime)


if __name__ == "__main__":
    main()
