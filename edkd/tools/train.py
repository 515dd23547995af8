"""Train by a configuration: `python tools/train.py --cfg configs/cifar100/edkd/res32x4_res8x4.yaml [KEY VALUE ...]`.

`DISTILLER.TYPE` names the method; with NONE a network is trained alone, which is how teachers are made.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from any directory, installed or not

from common.command_line import ArgumentParser, entry_point
from common.data.flags import add_data_flags
from common.errors import TrainingError, UserError, is_out_of_memory
from common.training.checkpoints import save_checkpoint
from common.training.engine import Accuracies, CheckpointFiles, Trainer
from common.training.runs import RunDirectory, is_done
from common.training.runtime import Runtime, add_runtime_flags, runtime_from
from common.training.schedules import step_decay
from edkd.distillers import OURS
from edkd.engine.cfg import WITHOUT_EFFECT
from edkd.engine.config import experiment_name, load_config, output_directory, settings_of
from edkd.engine.cuda_as_cpu import add_cuda_switch, cuda_calls
from edkd.engine.experiment import PAPER, build_network, load_data, make_batches, require_network
from edkd.engine.explain import DistillerError, explain
from edkd.engine.method import make_method, pair_of
from edkd.engine.node import Node
from edkd.engine.registry import distiller_class
from edkd.engine.solver import make_optimizer
from edkd.engine.teachers import describe_teachers, load_network, teacher_files, teacher_names
from edkd.engine.wandb_log import WandbLog
from edkd.engine.worklog import epoch_figures, write_worklog


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cfg", default="", metavar="FILE", help="configuration; edkd/engine/cfg.py has the defaults")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, for example SOLVER.LR 0.01")
    ours = parser.add_argument_group("added here")
    ours.add_argument("--epochs", type=int, metavar="N", help="train N epochs; stages and warm-up shrink in proportion")
    add_cuda_switch(ours)
    add_data_flags(parser)
    add_runtime_flags(parser)
    args = parser.parse_intermixed_args()
    if args.epochs is not None and args.epochs < 1:
        parser.error("--epochs must be at least 1")
    if args.image_size is not None:
        parser.error("--image-size is for image folders: the data sets of this framework have their own sizes")
    return args


def checkpoint_files(cfg: Node, directory: Path) -> CheckpointFiles:
    """The published names, and what is kept every `LOG.SAVE_CHECKPOINT_FREQ` epochs."""
    every = cfg.LOG.SAVE_CHECKPOINT_FREQ
    moments = range(every, cfg.SOLVER.EPOCHS + 1, every)
    kept = {directory / f"{name}_{n}": n for n in moments for name in ("epoch", "student")}
    keys = {"weights_key": "model", "optimizer_key": "optimizer", "accuracy_key": "best_acc"}
    return CheckpointFiles(directory / "latest", directory / "best", kept, **keys)


@contextlib.contextmanager
def failures_logged(cfg: Node, directory: Path, runtime: Runtime) -> Iterator[None]:
    """Where somebody's distiller fails, one line says where in its code, and `train.log` has the traceback."""
    try:
        yield
    except DistillerError as error:
        if is_out_of_memory(error.__cause__):
            raise error.__cause__ from None  # no fault of the distiller's
        raise UserError(f"{error}{_logged(error, directory, runtime)}") from error
    except (UserError, TrainingError, OSError):
        raise
    except Exception as error:  # in training, whatever somebody else's code may raise
        if is_out_of_memory(error):
            raise
        kind = distiller_class(cfg.DISTILLER.TYPE)
        if kind in OURS:
            raise
        explained = explain(error, kind, cfg.DISTILLER.TYPE, pair_of(cfg))
        raise TrainingError(f"{explained}{_logged(explained, directory, runtime)}") from error


def _logged(error: DistillerError, directory: Path, runtime: Runtime) -> str:
    """Append the traceback to the run's log; gives the end of the message."""
    if error.details is None or not runtime.is_main:
        return ""
    log = directory / "train.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a") as file:
        file.write(error.details)
    return f" (traceback in {log})"


def train(args: argparse.Namespace, runtime: Runtime) -> Accuracies:
    cfg, published = load_config(args)
    require_network(cfg.DISTILLER.STUDENT, cfg.DATASET.TYPE, "DISTILLER.STUDENT")
    names, messages = teacher_names(cfg), []
    for name in names:
        require_network(name, cfg.DATASET.TYPE, "DISTILLER.TEACHER")
    data = load_data(args, cfg.DATASET.TYPE)
    student = build_network(cfg.DISTILLER.STUDENT, cfg.DATASET.TYPE, data.num_classes, "DISTILLER.STUDENT")
    teachers = [build_network(name, cfg.DATASET.TYPE, data.num_classes, "DISTILLER.TEACHER") for name in names]
    found = teacher_files(cfg, data)
    for teacher, name, file in zip(teachers, names, found, strict=True):
        load_network(teacher, file.path, name, cfg.DATASET.TYPE)
        messages.append(f"teacher {name} from {file.path} ({file.origin})")
        messages += data.remarks_on("this teacher", file.trained_on)
    batches = make_batches(args, cfg, data, runtime)
    directory = output_directory(args, cfg)
    with failures_logged(cfg, directory, runtime):
        method = make_method(cfg, student, teachers, batches["train"].targets, runtime)
    settings = settings_of(args, cfg, data, found)
    trainer = Trainer(
        method,
        lambda parameters: make_optimizer(cfg, parameters),
        step_decay(cfg.SOLVER.LR, cfg.SOLVER.LR_DECAY_STAGES, cfg.SOLVER.LR_DECAY_RATE),
        cfg.SOLVER.EPOCHS,
        runtime=runtime,
        files=checkpoint_files(cfg, directory),
        settings=settings,
        **batches,
    )
    resumed = args.resume and trainer.resume()
    if resumed and is_done(directory):
        return trainer.accuracies
    run, after_epoch, wandb = None, None, None
    if runtime.is_main:
        run = RunDirectory(
            directory,
            {
                "paper": PAPER,
                "experiment": experiment_name(args),
                "settings": trainer.settings,
                "runtime": runtime.settings(),
                "data": data.describe(),
                "budget": {
                    "epochs": cfg.SOLVER.EPOCHS,
                    **published,
                    "batches": args.limit_train_batches,
                },
                "teacher": describe_teachers(found),
                "extra_parameters": method.distiller.get_extra_parameters(),
            },
            events=directory / "train.events",
            log_file=directory / "train.log",
            history=trainer.history,
        )
        messages += method.messages
        messages += [f"{key} has no effect, as in the published code" for key in args.opts if key in WITHOUT_EFFECT]
        if resumed:
            messages.append(f"resuming after epoch {trainer.epochs_done}/{cfg.SOLVER.EPOCHS}")
        for message in (*messages, f"{cfg.DISTILLER.TYPE}: {cfg.DISTILLER.STUDENT} on {data.name} ({data.content})"):
            run.log(message)
        wandb = WandbLog(
            cfg.LOG.WANDB,
            cfg.EXPERIMENT.PROJECT,
            directory.name,
            [*cfg.EXPERIMENT.TAG.split(","), *args.opts],
            cfg.as_dict(),
            directory,
            run.log,
        )

        def after_epoch(test: dict[str, float], is_best: bool) -> None:
            weights = {"model": method.student.state_dict()}
            save_checkpoint(weights, directory / "student_latest")
            if is_best:
                save_checkpoint(weights, directory / "student_best")
            write_worklog(directory / "worklog.txt", trainer.history, cfg.SOLVER.EPOCHS)
            wandb.log(epoch_figures(trainer.history[-1]))

    with failures_logged(cfg, directory, runtime):
        accuracies = trainer.fit(run, after_epoch)
    if wandb is not None:
        wandb.finish()
    return accuracies


@entry_point
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        with cuda_calls(args, runtime):
            accuracies = train(args, runtime)
        if runtime.is_main:
            print(accuracies)


if __name__ == "__main__":
    main()
