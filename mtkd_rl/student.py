"""What train_student_avg.py and train_student_rl.py share: the run of a student, from data to record."""

from __future__ import annotations

import argparse
import datetime
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from common.command_line import find_path
from common.data import Dataset
from common.errors import UserError
from common.models import Network
from common.training.checkpoints import load_weights
from common.training.engine import Accuracies, CheckpointFiles, Trainer
from common.training.evaluation import evaluate
from common.training.layouts import layout_for
from common.training.runs import RunDirectory, is_done
from common.training.runtime import Runtime, runtime_from
from common.training.schedules import Schedule, step_decay
from mtkd_rl.comparison import MultiTeacher, Options
from mtkd_rl.experiment import (
    GAMMA,
    PAPER,
    build_network,
    destination,
    experiment_name,
    image_size,
    load_data,
    make_batches,
    require_networks,
    run_record,
    settings_of,
    shortened,
    start_processes,
)
from mtkd_rl.student_flags import DATA, DIST_URL, LATEST, NAMED
from mtkd_rl.teachers import Teacher, load_teacher

MOMENTUM = 0.9  # a literal of the published code

# student, teachers by name, image size, options -> method
Build = Callable[[Network, dict[str, Network], int, Options], MultiTeacher]
# method, class names, directory of the run
AfterEpoch = Callable[[MultiTeacher, Sequence[str], Path], None]


def make_optimizer(parameters: list[nn.Parameter], rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum."""
    return torch.optim.SGD(parameters, lr=rate, momentum=MOMENTUM, weight_decay=weight_decay, nesterov=True)


def make_schedule(kind: str, rate: float, milestones: Sequence[float], epochs: int) -> Schedule:
    """`multistep` drops to a tenth at each milestone, `cosine` falls from `rate` to nought over the epochs."""
    if kind == "multistep":
        return step_decay(rate, milestones, GAMMA)
    return lambda epoch, iteration, iterations: rate * (1 + math.cos(math.pi * epoch / epochs)) / 2


def run_student(
    args: argparse.Namespace, kind: str, build: Build, own: dict[str, Any], after_epoch: AfterEpoch | None = None
) -> None:
    """Train, or with --evaluate evaluate, a student.

    Args:
        args: flags of `student_parser` and the script's own.
        kind: what the tables call the method.
        build: makes it.
        own: the script's own flags that make another experiment, with their defaults.
        after_epoch: writes what the script has to say besides.
    """
    if len(set(args.teacher_name_list)) < len(args.teacher_name_list):
        raise UserError("--teacher-name-list names a teacher twice")
    require_networks([args.arch], "--arch")
    require_networks(args.teacher_name_list, "--teacher-name-list")
    if args.gpu is not None:
        args.device = f"cuda:{args.gpu}"
    start_processes(args, DIST_URL, max(1, args.world_size), max(0, args.rank))
    with runtime_from(args) as runtime:
        if args.evaluate:
            evaluate_student(args, runtime)
            return
        accuracies = train(args, runtime, kind, build, own, after_epoch)
        if runtime.is_main:
            print(accuracies)


def evaluate_student(args: argparse.Namespace, runtime: Runtime) -> None:
    """Print the accuracy of the checkpoint `--resume PATH` on the test set.

    Raises:
        UserError: no path, or weights that do not fit.
    """
    if args.resume in ("", LATEST):
        raise UserError("--evaluate needs --resume PATH: the checkpoint to evaluate")
    data = given_data(args)
    student = build_network(args.arch, data.num_classes, "--arch")
    load_weights(student, find_path(args.resume, PAPER), args.arch)
    test = make_batches(args, data, args.workers, runtime)["test"]
    layout = layout_for(student, runtime)
    figures = evaluate(student.to(runtime.device, memory_format=layout), test, runtime, layout)
    if runtime.is_main:
        print(
            f"{args.arch} on {test.samples} test images of {data.name} ({data.content}): accuracy "
            f"{figures['accuracy']:.4f}, top-5 {figures['top5']:.4f}, loss {figures['loss']:.4f}"
        )


def given_data(args: argparse.Namespace) -> Dataset:
    """The data set."""
    return load_data(args, None if args.data == DATA else args.data)


def train(
    args: argparse.Namespace,
    runtime: Runtime,
    kind: str,
    build: Build,
    own: dict[str, Any],
    after_epoch: AfterEpoch | None,
) -> Accuracies:
    data = given_data(args)
    student = build_network(args.arch, data.num_classes, "--arch")
    names = args.teacher_name_list
    teachers = [load_teacher(name, args.dataset, data.num_classes, args.checkpoint_dir) for name in names]
    chained = args.feature_transforms == "chained"
    method = build(
        student,
        {teacher.name: teacher.network for teacher in teachers},
        image_size(args, data),
        Options(args.kd_T, args.feat_weight, args.feat_kd, chained),
    )
    milestones = shortened(args.milestones, args.epochs)
    settings = {
        "method": type(method).__name__,
        "student": args.arch,
        "teachers": names,
        **settings_of(args, data, ("init_lr", "lr_type", "kd_T", "feat_weight", "feat_kd", "feature_transforms")),
        "milestones": milestones,
        **{flag: getattr(args, flag) for flag in map(destination, own)},
        **runtime.compared_settings(),
    }
    batches = make_batches(args, data, args.workers, runtime)
    directory = run_directory(args, settings, runtime)
    trainer = Trainer(
        method,
        lambda parameters: make_optimizer(parameters, args.init_lr, args.weight_decay),
        make_schedule(args.lr_type, args.init_lr, milestones, args.epochs),
        args.epochs,
        runtime=runtime,
        files=checkpoint_files(args, directory),
        # teachers of another seed are another experience, not another experiment: the record keeps them apart
        settings={**settings, "teacher_files": [teacher.digest() for teacher in teachers]},
        **batches,
    )
    resumed = bool(args.resume) and trainer.resume()
    if args.resume not in ("", LATEST) and not resumed:
        raise UserError(f"--resume {args.resume}: there is no {trainer.files.last}")
    if resumed and is_done(directory):
        return trainer.accuracies
    accuracies = accuracies_of(teachers, batches, runtime, trainer.layout)
    run = None
    if runtime.is_main:
        experiment = experiment_name(f"{args.arch} {kind}", args, {**own, **NAMED})
        record = run_record(args, experiment, settings, data, runtime)
        record["teachers"] = [
            {
                "name": teacher.name,
                "path": str(teacher.path),
                "digest": teacher.digest(),
                "trained_on": teacher.trained_on,
                "accuracy": accuracy,
            }
            for teacher, accuracy in zip(teachers, accuracies, strict=True)
        ]
        run = RunDirectory(
            directory,
            record,
            events=directory / "events",
            log_file=directory / f"{directory.name}.txt",
            history=trainer.history,
        )
        remarks(run, args, runtime, kind, record, data)
        if resumed:
            run.log(f"resuming after epoch {trainer.epochs_done}/{args.epochs}")
    return trainer.fit(run, after_epoch and (lambda test, is_best: after_epoch(method, data.classes, directory)))


def accuracies_of(
    teachers: Sequence[Teacher], batches: dict[str, Any], runtime: Runtime, layout: torch.memory_format
) -> list[float]:
    """Test accuracy of each teacher in percent."""
    networks = (teacher.network.to(runtime.device, memory_format=layout) for teacher in teachers)
    return [evaluate(network, batches["test"], runtime, layout)["accuracy"] for network in networks]


def remarks(
    run: RunDirectory, args: argparse.Namespace, runtime: Runtime, kind: str, record: dict[str, Any], data: Dataset
) -> None:
    """What the log begins with."""
    for teacher in record["teachers"]:
        run.log(f"teacher {teacher['name']} from {teacher['path']}: test accuracy {teacher['accuracy']:.2f}")
        for remark in data.remarks_on(teacher["name"], teacher["trained_on"]):
            run.log(remark)
    if runtime.distributed and dist.get_backend() != args.dist_backend:
        run.log(f"warning: {args.dist_backend} is not available here; {dist.get_backend()} takes its place")
    run.log(f"{kind}: {args.arch} on {data.name} ({data.content})")


def checkpoint_files(args: argparse.Namespace, directory: Path) -> CheckpointFiles:
    """The published names."""
    last, best = (directory / f"{args.arch}{which}.pth.tar" for which in ("", "_best"))
    keys = {"weights_key": "model", "optimizer_key": "optimizer", "accuracy_key": "acc"}
    return CheckpointFiles(last, best, constants={"arch": args.arch}, **keys)


def run_directory(args: argparse.Namespace, settings: dict[str, Any], runtime: Runtime) -> Path:
    """`<arch>_<dataset>_rl_<trial>_<teachers>_<their names><time>`, as published; or that of the run to resume."""
    if args.resume not in ("", LATEST):
        path = find_path(args.resume, PAPER)
        return path if path.is_dir() else path.parent
    teachers = args.teacher_name_list
    prefix = f"{args.arch}_{args.dataset}_rl_{args.trial}_{len(teachers)}_{'_'.join(teachers)}"
    if args.resume == LATEST and (latest := latest_run(Path(args.checkpoint_dir), prefix, settings)):
        return latest
    while True:
        path = Path(args.checkpoint_dir, prefix + datetime.datetime.now().strftime("%d-%m-%Y_%H-%M-%S"))
        if not runtime.is_main:
            return path
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:  # of another student that began within the same second
            time.sleep(0.1)
        except OSError as error:
            raise UserError(f"cannot write to {path} ({error.strerror})") from error


def latest_run(root: Path, prefix: str, settings: dict[str, Any]) -> Path | None:
    """The run with these settings that began last."""
    found = []
    for directory in root.iterdir() if root.is_dir() else ():
        file = directory / "run.json"
        if not directory.name.startswith(prefix):  # no pattern: a name may have the characters of one
            continue
        try:
            record = json.loads(file.read_text())
            if record["settings"] == json.loads(json.dumps(settings)):
                found.append((record["started"], file.parent))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a run's record
    return max(found)[1] if found else None
