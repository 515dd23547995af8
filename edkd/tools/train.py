"""Train by a configuration: `python tools/train.py --cfg configs/cifar100/edkd/res32x4_res8x4.yaml [KEY VALUE ...]`.

`DISTILLER.TYPE` names the method; with NONE a network is trained alone, which is how teachers are made.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from any directory, installed or not

from common.command_line import ArgumentParser, entry_point
from common.data.flags import add_data_flags
from common.training.checkpoints import save_checkpoint
from common.training.engine import Accuracies, CheckpointFiles, Trainer
from common.training.runs import RunDirectory, is_done
from common.training.runtime import Runtime, add_runtime_flags, runtime_from
from common.training.schedules import step_decay
from edkd.engine.cfg import WITHOUT_EFFECT
from edkd.engine.config import experiment_name, load_config, output_directory, settings_of
from edkd.engine.experiment import PAPER, build_network, load_data, make_batches
from edkd.engine.method import make_method
from edkd.engine.node import Node
from edkd.engine.solver import make_optimizer
from edkd.engine.teachers import load_network, teacher_file
from edkd.engine.wandb_log import WandbLog
from edkd.engine.worklog import epoch_figures, write_worklog


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cfg", default="", metavar="FILE", help="configuration; edkd/engine/cfg.py has the defaults")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, for example SOLVER.LR 0.01")
    ours = parser.add_argument_group("added here")
    ours.add_argument("--epochs", type=int, metavar="N", help="train N epochs; stages and warm-up shrink in proportion")
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


def train(args: argparse.Namespace, runtime: Runtime) -> Accuracies:
    cfg, published = load_config(args)
    data = load_data(args, cfg.DATASET.TYPE)
    student = build_network(cfg.DISTILLER.STUDENT, cfg.DATASET.TYPE, data.num_classes, "DISTILLER.STUDENT")
    teacher, found, remarks = None, None, []
    if cfg.DISTILLER.TYPE != "NONE":
        name = cfg.DISTILLER.TEACHER
        teacher = build_network(name, cfg.DATASET.TYPE, data.num_classes, "DISTILLER.TEACHER")
        found = teacher_file(cfg)
        load_network(teacher, found.path, name, cfg.DATASET.TYPE)
        remarks = [f"teacher {name} from {found.path} ({found.origin})"]
        remarks += data.remarks_on("this teacher", found.trained_on)
    batches = make_batches(args, cfg, data, runtime)
    method = make_method(cfg, student, teacher, batches["train"].targets, runtime)
    directory = output_directory(args, cfg)
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
                "teacher": None if found is None else {"path": str(found.path), "origin": found.origin},
                "extra_parameters": method.distiller.get_extra_parameters(),
            },
            events=directory / "train.events",
            log_file=directory / "train.log",
            history=trainer.history,
        )
        remarks += [f"{key} has no effect, as in the published code" for key in args.opts if key in WITHOUT_EFFECT]
        if resumed:
            remarks.append(f"resuming after epoch {trainer.epochs_done}/{cfg.SOLVER.EPOCHS}")
        for remark in (*remarks, f"{cfg.DISTILLER.TYPE}: {cfg.DISTILLER.STUDENT} on {data.name} ({data.content})"):
            run.log(remark)
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

    accuracies = trainer.fit(run, after_epoch)
    if wandb is not None:
        wandb.finish()
    return accuracies


@entry_point
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        accuracies = train(args, runtime)
        if runtime.is_main:
            print(accuracies)


if __name__ == "__main__":
    main()
