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
from mlkd.data import SEED, VALIDATION_PART, add_data_flags, load_data, make_batches, network_input
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
from mlkd.run import RunFlags, make_spec
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


@dataclasses.dataclass(frozen=True)
class StudentFlags(RunFlags):
    """All flags but those of the runtime, under their names."""

    model: str | None
    checkpoint: str | None
    ensemble: str
    alpha: float
    temperature: float

    @property
    def teacher(self) -> tuple[str, str]:
        """Timm's name and the file of the one teacher where no ensemble teaches."""
        return self.model or "", self.checkpoint or ""


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


def chosen_ensemble(flags: StudentFlags) -> EnsembleFile | None:
    """The file of `--ensemble`, if there is one; wrong names of teachers are said before any data are read."""
    if not flags.ensemble:
        require_architecture(flags.teacher[0])
        return None
    file = read_ensemble(resolve_path(flags.ensemble, PAPER))
    if not any(file.weights):
        raise UserError(f"{file.path}: all 'weights' are 0, which leaves no teacher; calibrate.py learns others")
    file.require_architectures()
    return file


def chosen_teachers(
    flags: StudentFlags, file: EnsembleFile | None, given: InputSpec
) -> tuple[list[Teacher], tuple[float, ...], list[str]]:
    """The teachers that the flags name, their weights, and what the log says about them."""
    if file is not None:
        teachers, weights, messages = file.load(given), file.weights, [file.reading]
    else:
        teachers, weights, messages = load_teachers([flags.teacher], given), (1.0,), []
    messages += [f"teacher {t.checkpoint.name}: weight {w:g}" for t, w in zip(teachers, weights, strict=True)]
    return teachers, weights, [*messages, *(message for t in teachers for message in t.messages)]


def experiment_name(flags: StudentFlags, ranks: int) -> str:
    """What the tables know this run by, for example `oxford-iiit ensemble` or `cifar-10 resnet18 --alpha 0.5`."""
    changed = [
        f"--{k.replace('_', '-')} {getattr(flags, k):g}" for k, v in METHOD_FLAGS.items() if getattr(flags, k) != v
    ]
    changed += [f"--world-size {ranks}"] if ranks > 1 else []  # it changes the global batch
    return " ".join([flags.dataset_name, "ensemble" if flags.ensemble else flags.teacher[0], *changed])


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


def specify(flags: StudentFlags, runtime: Runtime) -> RunSpec:
    """The run that the flags ask for."""
    ensemble = chosen_ensemble(flags)
    end_if_checked(flags.check_settings)
    if runtime.is_main:
        what = f"the teachers of {ensemble.path}" if ensemble else f"teacher {flags.model} from {flags.checkpoint}"
        print(f"loading {flags.dataset_name} and {what}", flush=True)
    data = visible(load_data(flags), no_test=flags.no_test, val_fraction=VALIDATION_PART)
    files = NetworkFiles(flags.name, plain_state)
    given = network_input(flags, data)
    teachers, weights, messages = chosen_teachers(flags, ensemble, given)
    if any(teacher.checkpoint.path.resolve() == files.network.resolve() for teacher in teachers):
        raise UserError(f"--name {flags.name}: {files.network} is a teacher's; give the student another name")
    networks = {t.checkpoint.path: t.network for t in teachers}
    teacher = Ensemble([t.network for t in teachers], weights) if flags.ensemble else teachers[0].network
    mixing = MixupCutmix(data.num_classes, flags.mixup_alpha, flags.cutmix_alpha)
    loaders = make_batches(flags, data, runtime)
    validation_batch = loaders["validation"].samples / (len(loaders["validation"]) * runtime.world_size)
    torch.manual_seed(runtime.seed)  # the same initial weights whatever the teachers
    student = MultiResNetV2(data.num_classes)
    experiment = experiment_name(flags, runtime.world_size)
    return make_spec(
        flags,
        runtime,
        data,
        loaders,
        MultiLevel(student, teacher, mixing, flags.alpha, flags.temperature, validation_batch),
        files,
        experiment=experiment,
        student="MultiResNetV2",
        schedule=step_decay(LEARNING_RATE, (), 1.0),
        weight_decay=WEIGHT_DECAY,
        published=(PUBLISHED_EPOCHS, PUBLISHED_BATCH_SIZE),
        settings={
            "teachers": [{"name": t.checkpoint.name, "weight": w} for t, w in zip(teachers, weights, strict=True)],
            "alpha": flags.alpha,
            "temperature": flags.temperature,
        },
        measure=lambda: accuracies(student, loaders["test"], runtime),
        messages=messages,
        teachers=[teacher.checkpoint for teacher in teachers],
        load_teacher=lambda checkpoint: networks[checkpoint.path],  # theirs are not folded
        accumulation_steps=max(1, ACCUMULATED // flags.batch_size),
        extend_analysis=lambda outputs, *_: analyze_policy(student, flags.image_size, outputs),
        after_epoch=lambda trainer: files.save_history(trainer.state.history),
        report=lambda best, last, run: report_exits(student, flags.image_size, experiment, best, last, run),
    )


@cli_main
def main() -> None:
    args = parse_arguments()
    if args.world_size > 1 and not is_launched() and not args.check_settings:
        launch_processes(args.world_size)
    with runtime_from(args) as runtime:
        spec = specify(settings_from(StudentFlags, args), runtime)
        run_training(spec, runtime, resume=args.resume, overwrite=args.overwrite)


if __name__ == "__main__":
    main()
