"""Train a student with early exits: `python3 mlkd.py -b 128 -d oxford-iiit -n student_model --checkpoint
models/resnet152.pth --model resnetv2_152x2_bit`, or `--ensemble config.json` in place of the last two.

Networks go to `models/<name>.pth` (lowest validation loss) and `models/<name>_e_N.pth`, the rest to `models/<name>/`.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import torch

from common.analysis.networks import finite
from common.command_line import (
    ArgumentParser,
    cli_main,
    nonnegative_float,
    plain_name,
    positive_float,
    positive_int,
    process_count,
    real_number,
    resolve_path,
    settings_from,
)
from common.data.flags import add_no_test_flag, visible
from common.errors import UserError
from common.pictures import write_svg
from common.training.final_analysis import TestOutputs
from common.training.launch import is_launched, launch_processes
from common.training.run_training import RunSpec, run_training
from common.training.runs import RunDirectory, write_json
from common.training.runtime import Runtime, add_runtime_flags, end_if_checked, runtime_from
from common.training.schedules import step_decay
from mlkd.data import SEED, VALIDATION_PART, DataFlags, add_data_flags, load_data, make_batches, network_input
from mlkd.ensemble import Ensemble, EnsembleFile, read_ensemble
from mlkd.exits import (
    Accuracies,
    ExitFigures,
    PolicyPoint,
    accuracies,
    count_macs,
    early_exit_policy,
    picture,
    table,
)
from mlkd.methods import MultiLevel
from mlkd.mixup_cutmix import MixupCutmix
from mlkd.outputs import NetworkFiles
from mlkd.run import make_spec
from mlkd.student import EXITS, MultiResNetV2, plain_state
from mlkd.teachers import (
    PAPER,
    InputSpec,
    Teacher,
    load_teachers,
    require_architecture,
)

# Literals of the published code
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4
ACCUMULATED = 128  # images whose gradients are summed before an update
PUBLISHED_EPOCHS, PUBLISHED_BATCH_SIZE = 1000, 128

METHOD_FLAGS = {"alpha": 1.0, "temperature": 10.0, "mixup_alpha": 1.0, "cutmix_alpha": 1.0, "image_size": 224}


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(prog="mlkd.py", description=__doc__)
    add = parser.add_argument
    add("--world-size", type=process_count, default=1, metavar="N", help="processes on this machine, one a GPU")
    add_data_flags(parser)
    add_no_test_flag(parser)
    add("-e", "--epochs", type=positive_int, default=PUBLISHED_EPOCHS, help="how many to train")
    add("-n", "--name", type=plain_name, default="mlkd_student", help="of the student's files")
    add("-c", "--checkpoint", help="the teacher's weights")
    add("-m", "--model", help="the teacher, by timm's name")
    add("--mixup-alpha", type=nonnegative_float, default=METHOD_FLAGS["mixup_alpha"], help="of mixup; 0 for none")
    add("--cutmix-alpha", type=nonnegative_float, default=METHOD_FLAGS["cutmix_alpha"], help="of CutMix; 0 for none")
    add(
        "--alpha",
        type=real_number(0, 1),
        default=METHOD_FLAGS["alpha"],
        help="weight of the teacher; 1: no labels",
    )
    add(
        "--temperature",
        type=positive_float,
        default=METHOD_FLAGS["temperature"],
        help="of both distributions",
    )
    add("--ensemble", default="", metavar="FILE", help="JSON that names several teachers, in place of -c and -m")
    add("-s", "--save-frequency", type=positive_int, default=50, metavar="N", help="keep the network every N epochs")
    add_runtime_flags(parser)
    parser.set_defaults(seed=SEED)
    args = parser.parse_args()
    if bool(args.model) != bool(args.checkpoint) or bool(args.ensemble) == bool(args.model):
        parser.error("give --model and --checkpoint for one teacher, or --ensemble for several")
    return args


def chosen_ensemble(args: argparse.Namespace) -> EnsembleFile | None:
    """The file of `--ensemble`, if there is one; wrong names of teachers are said before any data are read."""
    if not args.ensemble:
        require_architecture(args.model)
        return None
    file = read_ensemble(resolve_path(args.ensemble, PAPER))
    if not any(file.weights):
        raise UserError(f"{file.path}: all 'weights' are 0, which leaves no teacher; calibrate.py learns others")
    file.require_architectures()
    return file


def chosen_teachers(
    args: argparse.Namespace, file: EnsembleFile | None, given: InputSpec
) -> tuple[list[Teacher], tuple[float, ...], list[str]]:
    """The teachers that the flags name, their weights, and what the log says about them."""
    if file is not None:
        teachers, weights, messages = file.load(given), file.weights, [file.reading]
    else:
        teachers, weights, messages = load_teachers([(args.model, args.checkpoint)], given), (1.0,), []
    messages += [f"teacher {t.checkpoint.name}: weight {w:g}" for t, w in zip(teachers, weights, strict=True)]
    return teachers, weights, [*messages, *(message for t in teachers for message in t.messages)]


def experiment_name(args: argparse.Namespace, processes: int | None = None) -> str:
    """What the tables know this run by, for example `oxford-iiit ensemble` or `cifar-10 resnet18 --alpha 0.5`."""
    changed = [
        f"--{k.replace('_', '-')} {getattr(args, k):g}" for k, v in METHOD_FLAGS.items() if getattr(args, k) != v
    ]
    ranks = processes or args.world_size
    changed += [f"--world-size {ranks}"] if ranks > 1 else []  # it changes the global batch
    return " ".join([settings_from(DataFlags, args).name, "ensemble" if args.ensemble else args.model, *changed])


def report_exits(
    network: MultiResNetV2, image_size: int, title: str, best: Accuracies, last: Accuracies, run: RunDirectory
) -> dict[str, Any]:
    """What early exit buys: a line per exit for the log, a table, a picture, and the table for the run's record."""
    costs = count_macs(network, image_size)
    figures = [ExitFigures(name, costs[name], best[name], last[name]) for name in EXITS]
    policy = [PolicyPoint(**point) for point in (run.record.analysis or {})["early_exit"]]
    rows = [dataclasses.asdict(f) for f in figures]
    write_json(run.path / "exits.json", rows)
    write_svg(picture(figures, title, policy), run.path / "exits.svg")
    for line in table(figures):
        run.log(line)
    return {"exits": rows}


def analyze_policy(student: MultiResNetV2, image_size: int, outputs: TestOutputs) -> dict[str, Any]:
    """The early-exit policy of the chosen network, for the analysis in the run's record."""
    costs = count_macs(student, image_size, earlier_heads=True)
    points = early_exit_policy(outputs.chosen, outputs.targets, costs)
    return {"early_exit": [finite(dataclasses.asdict(point)) for point in points]}


def specify(args: argparse.Namespace, runtime: Runtime) -> RunSpec:
    """The run that the flags ask for."""
    ensemble = chosen_ensemble(args)
    end_if_checked(args)
    flags = settings_from(DataFlags, args)
    if runtime.is_main:
        what = f"the teachers of {ensemble.path}" if ensemble else f"teacher {args.model} from {args.checkpoint}"
        print(f"loading {flags.name} and {what}", flush=True)
    data = visible(load_data(flags), no_test=args.no_test, val_fraction=VALIDATION_PART)
    files = NetworkFiles(args.name, plain_state)
    given = network_input(flags, data)
    teachers, weights, messages = chosen_teachers(args, ensemble, given)
    if any(teacher.checkpoint.path.resolve() == files.network.resolve() for teacher in teachers):
        raise UserError(f"--name {args.name}: {files.network} is a teacher's; give the student another name")
    networks = {t.checkpoint.path: t.network for t in teachers}
    teacher = Ensemble([t.network for t in teachers], weights) if args.ensemble else teachers[0].network
    mixing = MixupCutmix(data.num_classes, args.mixup_alpha, args.cutmix_alpha)
    loaders = make_batches(flags, data, runtime)
    validation_batch = loaders["validation"].samples / (len(loaders["validation"]) * runtime.world_size)
    torch.manual_seed(args.seed)  # the same initial weights whatever the teachers
    student = MultiResNetV2(data.num_classes)
    experiment = experiment_name(args, runtime.world_size)
    return make_spec(
        args,
        runtime,
        data,
        loaders,
        MultiLevel(student, teacher, mixing, args.alpha, args.temperature, validation_batch),
        files,
        experiment=experiment,
        student="MultiResNetV2",
        schedule=step_decay(LEARNING_RATE, (), 1.0),
        weight_decay=WEIGHT_DECAY,
        published=(PUBLISHED_EPOCHS, PUBLISHED_BATCH_SIZE),
        settings={
            "teachers": [{"name": t.checkpoint.name, "weight": w} for t, w in zip(teachers, weights, strict=True)],
            "alpha": args.alpha,
            "temperature": args.temperature,
        },
        measure=lambda: accuracies(student, loaders["test"], runtime),
        messages=messages,
        teachers=[teacher.checkpoint for teacher in teachers],
        load_teacher=lambda checkpoint: networks[checkpoint.path],  # theirs are not folded
        accumulation_steps=max(1, ACCUMULATED // args.batch_size),
        extend_analysis=lambda outputs, *_: analyze_policy(student, args.image_size, outputs),
        after_epoch=lambda trainer: files.save_history(trainer.state.history),
        report=lambda best, last, run: report_exits(student, args.image_size, experiment, best, last, run),
    )


@cli_main
def main() -> None:
    args = parse_arguments()
    if args.world_size > 1 and not is_launched() and not args.check_settings:
        launch_processes(args.world_size)
    with runtime_from(args) as runtime:
        run_training(specify(args, runtime), runtime, resume=args.resume, overwrite=args.overwrite)


if __name__ == "__main__":
    main()
