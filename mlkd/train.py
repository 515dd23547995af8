"""Train a student with early exits: `python3 mlkd.py -b 128 -d oxford-iiit -n student_model --checkpoint
models/resnet152.pth --model resnetv2_152x2_bit`, or `--ensemble config.json` in place of the last two.

Networks go to `models/<name>.pth` (lowest validation loss) and `models/<name>_e_N.pth`, the rest to `models/<name>/`.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import torch

from common.command_line import ArgumentParser, entry_point, find_path, plain_name, positive
from common.errors import UserError
from common.training.checkpoints import write_atomically
from common.training.launch import is_launched, launch_processes
from common.training.runs import RunDirectory, write_json
from common.training.runtime import Runtime, add_runtime_flags, runtime_from
from common.training.schedules import step_decay
from mlkd.data import SEED, add_data_flags, dataset_name, load_data, make_batches, network_input
from mlkd.ensemble import Ensemble, EnsembleFile, read_ensemble
from mlkd.exits import Accuracies, ExitFigures, accuracies, multiply_adds, picture, table
from mlkd.methods import MultiLevel
from mlkd.mixing import Mixing
from mlkd.run_files import RunFiles
from mlkd.session import Session
from mlkd.student import EXITS, MultiResNetV2, plain_state
from mlkd.teachers import PAPER, Input, Teacher, load_teachers, require_architecture

# Literals of the published code
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 1e-4
ACCUMULATED = 128  # images whose gradients are summed before an update
PUBLISHED_EPOCHS = 1000

METHOD_FLAGS = {"alpha": 1.0, "temperature": 10.0, "mixup_alpha": 1.0, "cutmix_alpha": 1.0, "image_size": 224}


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(prog="mlkd.py", description=__doc__)
    add = parser.add_argument
    add("--world-size", type=positive, default=1, metavar="N", help="processes on this machine, one a GPU")
    add_data_flags(parser)
    add("-e", "--epochs", type=positive, default=PUBLISHED_EPOCHS, help="how many to train")
    add("-n", "--name", type=plain_name, default="mlkd_student", help="of the student's files")
    add("-c", "--checkpoint", help="the teacher's weights")
    add("-m", "--model", help="the teacher, by timm's name")
    add("--mixup-alpha", type=float, default=METHOD_FLAGS["mixup_alpha"], help="of mixup; 0 for none")
    add("--cutmix-alpha", type=float, default=METHOD_FLAGS["cutmix_alpha"], help="of CutMix; 0 for none")
    add("--alpha", type=float, default=METHOD_FLAGS["alpha"], help="share of the teacher; 1 leaves labels out")
    add("--temperature", type=float, default=METHOD_FLAGS["temperature"], help="both distributions are softened by it")
    add("--ensemble", default="", metavar="FILE", help="JSON that names several teachers, in place of -c and -m")
    add("-s", "--save-frequency", type=positive, default=50, metavar="N", help="keep the network every N epochs")
    add_runtime_flags(parser)
    parser.set_defaults(seed=SEED)
    args = parser.parse_args()
    if bool(args.model) != bool(args.checkpoint) or bool(args.ensemble) == bool(args.model):
        parser.error("give --model and --checkpoint for one teacher, or --ensemble for several")
    if not 0 <= args.alpha <= 1 or not args.temperature > 0:
        parser.error("--alpha must lie between 0 and 1, and --temperature above 0")
    if not (args.mixup_alpha >= 0 and args.cutmix_alpha >= 0):
        parser.error("--mixup-alpha and --cutmix-alpha must not be negative")
    return args


def chosen_ensemble(args: argparse.Namespace) -> EnsembleFile | None:
    """The file of `--ensemble`, if there is one; wrong names of teachers are said before any data are read."""
    if not args.ensemble:
        require_architecture(args.model)
        return None
    file = read_ensemble(find_path(args.ensemble, PAPER))
    file.require_architectures()
    return file


def chosen_teachers(
    args: argparse.Namespace, file: EnsembleFile | None, given: Input
) -> tuple[list[Teacher], tuple[float, ...], list[str]]:
    """The teachers that the flags name, their weights, and what the log says about them."""
    if file is not None:
        teachers, weights, remarks = file.load(given), file.weights, [file.reading]
    else:
        teachers, weights, remarks = load_teachers([(args.model, args.checkpoint)], given), (1.0,), []
    remarks += [f"teacher {t.name} from {t.path}, weight {w:g}" for t, w in zip(teachers, weights, strict=True)]
    return teachers, weights, [*remarks, *(remark for t in teachers for remark in t.remarks)]


def experiment_name(args: argparse.Namespace, processes: int | None = None) -> str:
    """What the tables know this run by, for example `oxford-iiit ensemble` or `cifar-10 resnet18 --alpha 0.5`."""
    changed = [
        f"--{k.replace('_', '-')} {getattr(args, k):g}" for k, v in METHOD_FLAGS.items() if getattr(args, k) != v
    ]
    processes = processes or args.world_size
    changed += [f"--world-size {processes}"] if processes > 1 else []  # it changes the global batch
    return " ".join([dataset_name(args), "ensemble" if args.ensemble else args.model, *changed])


def report_exits(session: Session, title: str, best: Accuracies, last: Accuracies, run: RunDirectory) -> dict[str, Any]:
    """What early exit buys: a line an exit for the log, a table, a picture, and the table for the run's record."""
    costs = multiply_adds(session.trainer.method.student, session.args.image_size)
    figures = [ExitFigures(name, costs[name], best[name], last[name]) for name in EXITS]
    rows, svg = [dataclasses.asdict(f) for f in figures], picture(figures, title)
    write_json(run.path / "exits.json", rows)
    write_atomically(run.path / "exits.svg", lambda temporary: temporary.write_text(svg))
    for line in table(figures):
        run.log(line)
    return {"exits": rows}


def train(args: argparse.Namespace, runtime: Runtime) -> None:
    ensemble = chosen_ensemble(args)
    data = load_data(args)
    files = RunFiles(args.name, plain_state)
    teachers, weights, remarks = chosen_teachers(args, ensemble, network_input(args, data))
    if any(teacher.path.resolve() == files.network.resolve() for teacher in teachers):
        raise UserError(f"--name {args.name}: {files.network} is a teacher's; give the student another name")
    teacher = Ensemble([t.network for t in teachers], weights) if args.ensemble else teachers[0].network
    mixing = Mixing(data.num_classes, args.mixup_alpha, args.cutmix_alpha)
    batches = make_batches(args, data, runtime)
    validation_batch = batches["validation"].samples / (len(batches["validation"]) * runtime.world_size)
    torch.manual_seed(args.seed)  # the same first weights whatever the teachers
    session = Session(
        args,
        data,
        batches,
        MultiLevel(MultiResNetV2(data.num_classes), teacher, mixing, args.alpha, args.temperature, validation_batch),
        step_decay(LEARNING_RATE, (), 1.0),
        WEIGHT_DECAY,
        files,
        {
            "teachers": [{**t.describe(), "weight": w} for t, w in zip(teachers, weights, strict=True)],
            "alpha": args.alpha,
            "temperature": args.temperature,
        },
        runtime,
        accumulation_steps=max(1, ACCUMULATED // args.batch_size),
    )
    experiment = experiment_name(args, runtime.world_size)
    session.run(
        experiment,
        PUBLISHED_EPOCHS,
        remarks,
        lambda student: accuracies(student, session.test, runtime),
        lambda: files.save_history(session.trainer.history),
        lambda best, last, run: report_exits(session, experiment, best, last, run),
        teachers,
    )


@entry_point
def main() -> None:
    args = parse_arguments()
    if args.world_size > 1 and not is_launched():
        launch_processes(args.world_size)
    with runtime_from(args) as runtime:
        train(args, runtime)


if __name__ == "__main__":
    main()
