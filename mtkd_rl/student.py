"""What train_student_avg.py and train_student_rl.py share: the run of a student, from data to record."""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from common.command_line import resolve_path, settings_from, shortened
from common.data import Dataset
from common.data.flags import visible
from common.errors import UserError
from common.models.network import require_takes
from common.run_record import read_record
from common.training.checkpoints import CheckpointFiles, load_weights
from common.training.evaluation import evaluate
from common.training.final_analysis import Extension
from common.training.layouts import layout_for
from common.training.run_training import RunSpec, run_training
from common.training.runs import RunFiles
from common.training.runtime import Runtime, end_if_checked, runtime_from
from common.training.schedules import Schedule, step_decay
from mtkd_rl.experiment import (
    GAMMA,
    PAPER,
    Processes,
    build_network,
    destination,
    experiment_name,
    image_size,
    in_proportion,
    load_data,
    make_batches,
    make_budget,
    require_networks,
    run_config,
    start_processes,
)
from mtkd_rl.multi_teacher import MultiTeacher, Options
from mtkd_rl.student_flags import ARCH, DATA, DIST_URL, LATEST, NAMED, StudentFlags
from mtkd_rl.teachers import find_teacher, load_teacher

COMPARED = ("init_lr", "lr_type", "kd_T", "feat_weight", "feat_kd", "feature_transforms")  # flags of a run's settings
MOMENTUM = 0.9  # a literal of the published code
MOST_PART_BYTES = 110  # of what comes before the time in the name of a run's directory, and of what comes after it
TIME = r"\d\d-\d\d-\d{4}"  # begins it

# method, class names, directory of the run
AfterEpoch = Callable[[Any, Sequence[str], Path], None]


def make_optimizer(parameters: list[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum."""
    return torch.optim.SGD(parameters, lr=lr, momentum=MOMENTUM, weight_decay=weight_decay, nesterov=True)


def make_schedule(kind: str, lr: float, milestones: Sequence[float], epochs: int) -> Schedule:
    """`multistep` drops to a tenth at each milestone, `cosine` falls from `lr` to zero over the epochs."""
    if kind == "multistep":
        return step_decay(lr, milestones, GAMMA)
    return lambda epoch, iteration, iterations: lr * (1 + math.cos(math.pi * epoch / epochs)) / 2


@dataclasses.dataclass(frozen=True)
class Script:
    """What each of the two scripts has of its own.

    Attributes:
        kind: what the tables call its method.
        build: makes it of the student, the teachers by name, the image size, options, and the values of `own`.
        own: its flags that make another experiment, with their defaults.
        after_epoch: writes what it has to say besides.
        extend_analysis: the same of the finished run's analysis.
    """

    kind: str
    build: Callable[..., MultiTeacher]
    own: Mapping[str, Any]
    after_epoch: AfterEpoch = lambda *_: None
    extend_analysis: Extension = lambda *_: {}


def run_student(args: argparse.Namespace, script: Script) -> None:
    """Train, or with --evaluate evaluate, a student by the flags of `student_parser` and the script's own."""
    flags = settings_from(StudentFlags, args)
    own_values = {destination(flag): getattr(args, destination(flag)) for flag in script.own}
    if len(set(flags.teacher_name_list)) < len(flags.teacher_name_list):
        raise UserError("--teacher-name-list names a teacher twice")
    if flags.arch == ARCH:
        raise UserError(
            f"--arch is needed: its published default, {ARCH}, is no network here; `python -m common.models mtkd_rl` "
            "lists all"
        )
    require_networks([flags.arch], "--arch")
    require_networks(flags.teacher_name_list, "--teacher-name-list")
    if args.gpu is not None:
        args.device = f"cuda:{args.gpu}"
    start_processes(settings_from(Processes, args), DIST_URL, max(1, args.world_size), max(0, args.rank))
    with runtime_from(args) as runtime:
        if args.evaluate:
            evaluate_student(flags, runtime)
            return
        spec = specify(script, flags, own_values, runtime)
        if flags.resumed_path and not spec.files.checkpoints.last.is_file():
            raise UserError(f"--resume {flags.resume}: there is no {spec.files.checkpoints.last}")
        run_training(spec, runtime, resume=bool(flags.resume), overwrite=args.overwrite)


def evaluate_student(flags: StudentFlags, runtime: Runtime) -> None:
    """Print the accuracy of the checkpoint `--resume PATH` on the test set.

    Raises:
        UserError: no path, or weights that do not fit.
    """
    if flags.resumed_path is None:
        raise UserError("--evaluate needs --resume PATH: the checkpoint to evaluate")
    data = load_given_data(flags)
    student = build_network(flags.arch, data.num_classes, "--arch")
    load_weights(student, resolve_path(flags.resumed_path, PAPER), flags.arch)
    test = make_batches(flags, data, flags.workers, runtime)["test"]
    size = image_size(flags, data)
    require_takes(student, flags.arch, size, size, data.num_classes)
    layout = layout_for(student, runtime)
    if runtime.is_main:
        print(f"{flags.arch} on {test.samples} test images of {data.name} ({data.content}):", flush=True)
    figures = evaluate(student.to(runtime.device).to(memory_format=layout), test, runtime, layout)
    if runtime.is_main:
        print(f"accuracy {figures['accuracy']:.4f}, top-5 {figures['top5']:.4f}, loss {figures['loss']:.4f}")


def name_of(script: Script, flags: StudentFlags, own_values: Mapping[str, Any]) -> str:
    """What the tables know a run by, for example `ShuffleV2 MTKD-RL --dynamic`."""
    return experiment_name(f"{flags.arch} {script.kind}", {**vars(flags), **own_values}, {**script.own, **NAMED})


def load_given_data(flags: StudentFlags) -> Dataset:
    """The dataset, below `--data` where that is not as published."""
    return load_data(flags, None if flags.data == DATA else flags.data)


def specify(script: Script, flags: StudentFlags, own_values: dict[str, Any], runtime: Runtime) -> RunSpec:
    """The run that the flags ask for."""
    end_if_checked(flags.check_settings)
    data = visible(load_given_data(flags), no_test=flags.no_test, val_fraction=flags.val_fraction)
    names = flags.teacher_name_list
    student = build_network(flags.arch, data.num_classes, "--arch")
    teachers = [find_teacher(name, flags.dataset, flags.checkpoint_dir) for name in names]
    networks = {teacher.name: load_teacher(teacher, data.num_classes) for teacher in teachers}
    options = Options(flags.kd_T, flags.feat_weight, flags.feat_kd, flags.feature_transforms == "chained")
    method = script.build(student, networks, image_size(flags, data), options, **own_values)
    milestones = in_proportion(flags.milestones, flags.epochs)
    settings = {
        "method": type(method).__name__,
        "student": flags.arch,
        "teachers": names,
        **run_config(flags, COMPARED),
        "milestones": milestones,
        **own_values,
    }
    loaders = make_batches(flags, data, flags.workers, runtime)
    experiment = name_of(script, flags, own_values)
    method_name = "_".join(re.findall(r"[\w.-]*\w", experiment.partition(" ")[2].replace("--", "")))
    compared = {**settings, **data.compared_settings(), **runtime.compared_settings()}
    directory = run_directory(flags, method_name, compared, runtime)
    messages = []
    if runtime.distributed and dist.get_backend() != flags.dist_backend:
        messages = [f"warning: {flags.dist_backend} is not available here; {dist.get_backend()} takes its place"]
    return RunSpec(
        paper=PAPER,
        experiment=experiment,
        student=flags.arch,
        method=method,
        make_optimizer=lambda parameters: make_optimizer(parameters, flags.init_lr, flags.weight_decay),
        schedule=make_schedule(flags.lr_type, flags.init_lr, milestones, flags.epochs),
        loaders=loaders,
        data=data,
        budget=make_budget(flags, runtime),
        files=RunFiles(
            directory, checkpoint_files(flags, directory), directory / "events", directory / f"{directory.name}.txt"
        ),
        settings=settings,
        teachers=teachers,
        messages=messages,
        title=f"{script.kind}: {flags.arch} on {data.name} ({data.content})",
        load_teacher=lambda teacher: load_teacher(teacher, data.num_classes),
        after_epoch=lambda trainer, run: script.after_epoch(method, data.classes, run.path),
        extend_analysis=script.extend_analysis,
    )


def checkpoint_files(flags: StudentFlags, directory: Path) -> CheckpointFiles:
    """The published names."""
    last, best = (directory / f"{flags.arch}{which}.pth.tar" for which in ("", "_best"))
    constants = {"arch": flags.arch}
    return CheckpointFiles(
        last, best, weights_key="model", optimizer_key="optimizer", accuracy_key="acc", constants=constants
    )


def run_directory(flags: StudentFlags, method: str, settings: dict[str, Any], runtime: Runtime) -> Path:
    """`<arch>_<dataset>_rl_<trial>_<teachers>_<their names><time>`, as published, `_<method>`; or that to resume."""
    if flags.resumed_path:
        path = resolve_path(flags.resumed_path, PAPER)
        return path if path.is_dir() else path.parent
    prefix = run_prefix(flags.arch, flags.dataset, flags.trial, flags.teacher_name_list)
    if flags.resume == LATEST and (latest := latest_run(Path(flags.checkpoint_dir), prefix, settings)):
        return latest
    while True:
        now = datetime.datetime.now().strftime("%d-%m-%Y_%H-%M-%S")
        path = Path(flags.checkpoint_dir, f"{prefix}{now}_{shortened(method, MOST_PART_BYTES)}")
        if not runtime.is_main:
            return path
        try:
            path.mkdir(parents=True)
            return path
        except FileExistsError:  # of another student that began within the same second
            time.sleep(0.1)
        except OSError as error:
            raise UserError(f"cannot write to {path} ({error.strerror})") from error


def run_prefix(arch: str, dataset: str, trial: str, teachers: Sequence[str]) -> str:
    """What the directory of a run begins with, ahead of the time; shortened where many teachers make it too long."""
    return shortened(f"{arch}_{dataset}_rl_{trial}_{len(teachers)}_{'_'.join(teachers)}", MOST_PART_BYTES)


def latest_run(root: Path, prefix: str, settings: dict[str, Any]) -> Path | None:
    """The run with these settings that began last; after the prefix of its name comes the time."""
    settings, found = json.loads(json.dumps(settings)), []
    for directory in root.iterdir() if root.is_dir() else ():
        if not re.match(re.escape(prefix) + TIME, directory.name):
            continue
        record = read_record(directory)
        if record is not None and record.settings == settings:
            found.append((record.started, directory))
    return max(found)[1] if found else None
