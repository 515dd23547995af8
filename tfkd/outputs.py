"""Where a run writes, under the published names, and what the tables call it."""

from __future__ import annotations

from pathlib import Path

from common.command_line import REPOSITORY
from common.run_record import read_record
from common.training.checkpoints import CheckpointFiles
from common.training.runs import RunFiles, write_json
from tfkd.flags import Flags
from tfkd.params import Params, read_params
from tfkd.teachers import experiments_tree

PUBLISHED_EPOCHS = 200


def published_batch_size(model_dir: Path) -> int:
    """That of the published `params.json` of the same name; of an experiment of one's own, its own."""
    directory, tree = model_dir.resolve(), experiments_tree(model_dir)
    if directory.is_relative_to(tree):
        published = REPOSITORY / "experiments" / directory.relative_to(tree) / "params.json"
        directory = published.parent if published.is_file() else directory
    return read_params(directory / "params.json").batch_size


def experiment_name(flags: Flags, model_dir: Path) -> str:
    """What the tables know this run by: the directory in the tree of experiments, and the flags that change the method.

    For example `base_experiments/base_resnet18 --regularization`.
    """
    tree = experiments_tree(model_dir)
    directory = model_dir.resolve()
    name = directory.relative_to(tree) if directory.is_relative_to(tree) else directory
    words = [f"--{flag}" for flag in flags.given]
    if flags.loss_form != "code":
        words.append(f"--loss_form {flags.loss_form}")
    if flags.method:
        words.append(f"--method {flags.method.rpartition(':')[2]}")
    return " ".join([str(name), *words])


def output_directory(flags: Flags, model_dir: Path) -> Path:
    """The model directory; what is not published by itself has one in it, so that no run is in another's way.

    Teacher-free variants have theirs as published. Earlier versions wrote `--pt_teacher`, `--double_training` and the
    others to the model directory, too: a run that is found there goes on there.
    """
    if flags.method:
        return model_dir / flags.method.rpartition(":")[2]
    words = ["Tf-KD_regularization"] if flags.regularization else ["label_smoothing"] if flags.label_smoothing else []
    published = model_dir.joinpath(*words)
    words += [flag for flag in ("matched_scale", "double_training", "pt_teacher") if flag in flags.given]
    words += [f"loss_form_{flags.loss_form}"] if flags.loss_form != "code" else []
    directory = model_dir / "_".join(words)
    if directory != published and read_record(directory) is None:
        former = read_record(published)
        if former is not None and former.experiment == experiment_name(flags, model_dir):
            return published
    return directory


def run_files(flags: Flags, params: Params, model_dir: Path, epochs: int) -> RunFiles:
    """The published names, in a directory that other runs may share."""
    directory = output_directory(flags, model_dir)
    results = tuple(directory / f"eval_{which}_{_suffix(params)}.json" for which in ("best", "last"))
    return RunFiles(
        directory,
        checkpoint_files(flags, params, directory, epochs),
        events=events_directory(flags, params, directory),
        log=model_dir / "train.log",
        others=results,
        shared=True,
    )


def checkpoint_files(flags: Flags, params: Params, directory: Path, epochs: int) -> CheckpointFiles:
    """The published names; a baseline from scratch also keeps the snapshots that De-KD takes for poor teachers."""
    snapshots = {}
    other_methods = params.has_teacher or flags.regularization or flags.label_smoothing or flags.method
    if not (other_methods or flags.double_training or flags.restore_file):
        fiftieth = 50 if flags.epochs is None else max(1, round(epochs * 50 / PUBLISHED_EPOCHS))
        snapshots = {directory / "0.pth.tar": 1, directory / "50.pth.tar": fiftieth}
    return CheckpointFiles(directory / "last.pth.tar", directory / "best.pth.tar", snapshots)


def events_directory(flags: Flags, params: Params, directory: Path) -> Path:
    """Of TensorBoard, within the run's `directory`."""
    if params.has_teacher:
        return directory / "tensorboard"
    return directory if flags.regularization or flags.label_smoothing else directory / "base_train"


def write_results(directory: Path, params: Params, test: dict[str, float], is_best: bool) -> None:
    """The published result files; those of runs with a teacher are called "result", the others "results"."""
    figures = {"accuracy": test["accuracy"], "loss": test["loss"]}
    write_json(directory / f"eval_last_{_suffix(params)}.json", figures)
    if is_best:
        write_json(directory / f"eval_best_{_suffix(params)}.json", figures)


def _suffix(params: Params) -> str:
    return "result" if params.has_teacher else "results"
