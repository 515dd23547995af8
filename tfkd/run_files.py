"""Where a run writes, under the published names, and what the tables call it."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.training.engine import CheckpointFiles
from common.training.runs import write_json
from tfkd.params import Params
from tfkd.teachers import experiments_tree

PUBLISHED_EPOCHS = 200
METHOD_FLAGS = ("regularization", "label_smoothing", "matched_scale", "double_training", "self_training", "pt_teacher")


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


def checkpoint_files(args: argparse.Namespace, params: Params, directory: Path, epochs: int) -> CheckpointFiles:
    """The published names; a baseline from scratch also keeps the snapshots that De-KD takes for poor teachers."""
    snapshots = {}
    other_methods = params.has_teacher or args.regularization or args.label_smoothing or args.method
    if not (other_methods or args.double_training or args.restore_file):
        fiftieth = 50 if args.epochs is None else max(1, round(epochs * 50 / PUBLISHED_EPOCHS))
        snapshots = {directory / "0.pth.tar": 1, directory / "50.pth.tar": fiftieth}
    return CheckpointFiles(directory / "last.pth.tar", directory / "best.pth.tar", snapshots)


def events_directory(args: argparse.Namespace, params: Params, directory: Path) -> Path:
    """Of TensorBoard, within the run's `directory`."""
    if params.has_teacher:
        return directory / "tensorboard"
    return directory if args.regularization or args.label_smoothing else directory / "base_train"


def write_results(directory: Path, params: Params, test: dict[str, float], is_best: bool) -> None:
    """The published result files; those of runs with a teacher are called "result", the others "results"."""
    suffix = "result" if params.has_teacher else "results"
    figures = {"accuracy": test["accuracy"], "loss": test["loss"]}
    write_json(directory / f"eval_last_{suffix}.json", figures)
    if is_best:
        write_json(directory / f"eval_best_{suffix}.json", figures)
