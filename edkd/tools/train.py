"""Train by a configuration: `python tools/train.py --cfg configs/cifar100/edkd/res32x4_res8x4.yaml [KEY VALUE ...]`.

`DISTILLER.TYPE` names the method; with NONE a network is trained alone, which is how teachers are made.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

from common.command_line import ArgumentParser, cli_main, positive_int, settings_from
from common.data.flags import DataSource, add_data_flags, visible
from common.models import Network
from common.own_code import failures_told, provenance
from common.training.run_training import Budget, RunSpec, run_training
from common.training.runtime import Runtime, add_runtime_flags, end_if_checked, runtime_from
from common.training.schedules import step_decay
from common.training.teachers import TeacherCheckpoint
from edkd.distillers import OURS
from edkd.engine.cfg import CFG, WITHOUT_EFFECT
from edkd.engine.config import (
    ConfigFlags,
    configuration_file,
    experiment_name,
    load_config,
    output_directory,
    run_config,
)
from edkd.engine.cuda_as_cpu import add_cuda_switch, cuda_calls
from edkd.engine.experiment import PAPER, build_network, load_data, make_batches, require_network, treated_as
from edkd.engine.explain import explain_in_training
from edkd.engine.method import make_method, try_constructor
from edkd.engine.node import Node
from edkd.engine.outputs import Outputs
from edkd.engine.signatures import extra_parameters
from edkd.engine.solver import make_optimizer
from edkd.engine.teachers import given_files, teacher_files, teacher_names


@dataclasses.dataclass(frozen=True)
class Flags(DataSource, ConfigFlags):
    """All flags but those of the runtime, under their names."""

    val_fraction: float
    no_test: bool
    check_settings: bool


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--cfg", default="", metavar="FILE", help="configuration; edkd/engine/cfg.py has the defaults")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="overrides, for example SOLVER.LR 0.01")
    ours = parser.add_argument_group("added here")
    ours.add_argument("--epochs", type=positive_int, metavar="N", help="train N epochs; stages shrink in proportion")
    add_cuda_switch(ours)
    add_data_flags(parser)
    add_runtime_flags(parser)
    args = parser.parse_intermixed_args()
    if args.image_size is not None:
        parser.error(
            "--image-size is not for this framework: its datasets have their sizes, and image folders of one's "
            "own take DATASET.IMAGE_SIZE"
        )
    return args


def specify(flags: Flags, cfg: Node, defaults: Node, published: dict[str, int], runtime: Runtime) -> RunSpec:
    """The run that the configuration asks for."""
    dataset, names = treated_as(cfg.DATASET.TYPE, cfg.DATASET.IMAGE_SIZE), teacher_names(cfg)
    require_network(cfg.DISTILLER.STUDENT, dataset, "DISTILLER.STUDENT")
    for name in names:
        require_network(name, dataset, "DISTILLER.TEACHER")
    given_files(cfg)
    if flags.check_settings:
        try_constructor(cfg, dataset, names)
    end_if_checked(flags.check_settings)
    data = load_data(flags, cfg.DATASET.TYPE, cfg.DATASET.IMAGE_SIZE)
    data = visible(data, no_test=flags.no_test, val_fraction=flags.val_fraction)
    student = build_network(cfg.DISTILLER.STUDENT, dataset, data.num_classes, "DISTILLER.STUDENT")
    checkpoints = teacher_files(cfg, data)

    def load_teacher(checkpoint: TeacherCheckpoint) -> Network:
        network = build_network(checkpoint.name, dataset, data.num_classes, "DISTILLER.TEACHER")
        checkpoint.load_into(network, "student.")
        return network

    teachers = [load_teacher(checkpoint) for checkpoint in checkpoints]
    loaders = make_batches(cfg, data, flags.val_fraction, runtime)
    method = make_method(cfg, student, teachers, loaders["train"].targets, runtime)
    outputs = Outputs(cfg, flags.opts, output_directory(flags, cfg))
    kind = type(method.distiller)
    told_apart, own_files = provenance(None if kind in OURS else kind, configuration_file(flags))
    return RunSpec(
        paper=PAPER,
        experiment=experiment_name(flags),
        student=cfg.DISTILLER.STUDENT,
        method=method,
        method_name=cfg.DISTILLER.TYPE,
        make_optimizer=lambda parameters: make_optimizer(cfg, parameters),
        schedule=step_decay(cfg.SOLVER.LR, cfg.SOLVER.LR_DECAY_STAGES, cfg.SOLVER.LR_DECAY_RATE),
        loaders=loaders,
        data=data,
        budget=Budget(cfg.SOLVER.EPOCHS, cfg.SOLVER.BATCH_SIZE, **published, batches=runtime.limit_train_batches),
        files=outputs.files,
        length=("SOLVER.EPOCHS", "SOLVER.LR_DECAY_STAGES"),
        settings={**run_config(cfg, defaults, flags.val_fraction), **told_apart},
        teachers=checkpoints,
        load_teacher=load_teacher,
        messages=[f"{key} has no effect, as in the published code" for key in flags.opts if key in WITHOUT_EFFECT],
        details={"extra_parameters": extra_parameters(method.distiller), **own_files},
        on_start=outputs.start,
        after_epoch=outputs.report,
        after_save=outputs.save_student,
        after_training=outputs.finish,
    )


@cli_main
def main() -> None:
    args = parse_arguments()
    flags = settings_from(Flags, args)
    with runtime_from(args) as runtime, cuda_calls(args.cuda_as_cpu, runtime):
        cfg, published = load_config(flags)
        log = output_directory(flags, cfg) / "train.log"
        told = failures_told(lambda error: explain_in_training(error, cfg), log, is_main=runtime.is_main)
        with told, CFG.standing_for(cfg) as defaults:  # as in mdistiller: a distiller may read its keys there
            spec = specify(flags, cfg, defaults, published, runtime)
            run_training(spec, runtime, resume=args.resume, overwrite=args.overwrite)


if __name__ == "__main__":
    main()
