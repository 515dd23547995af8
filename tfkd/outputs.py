"""Where a run writes, under the published names, and what the tables call it."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.command_line import REPOSITORY
from common.run_record import read_record
from common.training.checkpoints import CheckpointFiles
from common.training.runs import RunFiles, write_json
from tfkd.params import Params, read_params
from tfkd.teachers import experiments_tree

PUBLISHED_EPOCHS = 200
METHOD_FLAGS = ("regularization", "label_smoothing", "matched_scale", "double_training", "self_training", "pt_teacher")


def published_batch_size(model_dir: Path) -> int:
    """That of the published `params.json` of the same name; of an experiment of one's own, its own."""
    directory, tree = model_dir.resolve(), experiments_tree(model_dir)
    if directory.is_relative_to(tree):
        published = REPOSITORY / "experiments" / directory.relative_to(tree) / "params.json"
        directory = published.parent if published.is_file() else directory
    return read_params(directory / "params.json").batch_size


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
    """The model directory; what is not published by itself has one in it, so that no run is in another's way.

    Teacher-free variants have theirs as published. Earlier versions wrote `--pt_teacher`, `--double_training` and the
    others to the model directory, too: a run that is found there goes on there.
    """
    if args.method:
        return model_dir / args.method.rpartition(":")[2]
    words = ["Tf-KD_regularization"] if args.regularization else ["label_smoothing"] if args.label_smoothing else []
    published = model_dir.joinpath(*words)
    words += [flag for flag in ("matched_scale", "double_training", "pt_teacher") if getattr(args, flag)]
    words += [f"loss_form_{args.loss_form}"] if args.loss_form != "code" else []
    directory = model_dir / "_".join(words)
    if directory != published and read_record(directory) is None:
        former = read_record(published)
        if former is not None and former.experiment == experiment_name(args, model_dir):
            return published
    return directory


def run_files(args: argparse.Namespace, params: Params, model_dir: Path, epochs: int) -> RunFiles:
    """The published names, in a directory that other runs may share."""
    directory = output_directory(args, model_dir)
    results = tuple(directory / f"eval_{which}_{_suffix(params)}.json" for which in ("best", "last"))
    return RunFiles(
        directory,
        checkpoint_files(args, params, directory, epochs),
        events=events_directory(args, params, directory),
        log=model_dir / "train.log",
        others=results,
        shared=True,
    )


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
    figures = {"accuracy": test["accuracy"], "loss": test["loss"]}
    write_json(directory / f"eval_last_{_suffix(params)}.json", figures)
    if is_best:
        write_json(directory / f"eval_best_{_suffix(params)}.json", figures)


def _suffix(params: Params) -> str:
    return "result" if params.has_teacher else "results"
