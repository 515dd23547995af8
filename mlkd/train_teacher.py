"""Make a teacher: fine-tune a network of timm's, `python3 train_teacher.py --model resnetv2_152x2_bit -n resnet152`.

Its weights go to `models/<name>.pth` (lowest validation loss), where `mlkd.py --checkpoint` takes them from.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

import torch

from common.command_line import (
    ArgumentParser,
    cli_main,
    nonnegative_float,
    plain_name,
    positive_float,
    positive_int,
    process_count,
    settings_from,
)
from common.data.flags import add_no_test_flag, visible
from common.training.evaluation import evaluate
from common.training.launch import is_launched, launch_processes
from common.training.run_training import RunSpec, run_training
from common.training.runtime import Runtime, add_runtime_flags, end_if_checked, runtime_from
from common.training.schedules import step_decay
from mlkd.data import (
    BATCH_SIZE,
    SEED,
    VALIDATION_PART,
    add_data_flags,
    load_data,
    make_batches,
    network_input,
)
from mlkd.methods import FineTuning
from mlkd.mixup_cutmix import MixupCutmix
from mlkd.outputs import NetworkFiles
from mlkd.run import RunFlags, make_spec
from mlkd.teachers import create_network, require_architecture

# Nothing of this is published: the page begins where the teachers are trained
EPOCHS, LEARNING_RATE, WEIGHT_DECAY = 30, 1e-4, 1e-4
MILESTONES, GAMMA = (0.6, 0.85), 0.1  # in parts of the training


@dataclasses.dataclass(frozen=True)
class TeacherFlags(RunFlags):
    """All flags but those of the runtime, under their names."""

    model: str
    no_pretrained: bool
    lr: float


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("-m", "--model", required=True, help="timm's name; a tag chooses the weights that training starts from")
    add("-n", "--name", type=plain_name, required=True, help="of the teacher's files")
    add("--no-pretrained", action="store_true", help="start from random weights, not from timm's")
    add("--world-size", type=process_count, default=1, metavar="N", help="processes on this machine, one a GPU")
    add_data_flags(parser)
    add_no_test_flag(parser)
    add("-e", "--epochs", type=positive_int, default=EPOCHS, help="how many to train")
    add(
        "--lr",
        type=positive_float,
        default=LEARNING_RATE,
        help="drops to a tenth after 60 and after 85 %%",
    )
    add("--mixup-alpha", type=nonnegative_float, default=0.0, help="of mixup; 0 for none")
    add("--cutmix-alpha", type=nonnegative_float, default=0.0, help="of CutMix; 0 for none")
    add("-s", "--save-frequency", type=positive_int, default=50, metavar="N", help="keep the network every N epochs")
    add_runtime_flags(parser)
    parser.set_defaults(seed=SEED)
    return parser.parse_args()


def experiment_name(flags: TeacherFlags) -> str:
    """What the tables know this run by, for example `oxford-iiit teacher convnextv2_nano`."""
    return f"{flags.dataset_name} teacher {flags.model}"


def specify(flags: TeacherFlags, runtime: Runtime) -> RunSpec:
    """The run that the flags ask for."""
    require_architecture(flags.model)
    end_if_checked(flags.check_settings)
    if runtime.is_main:
        print(f"loading {flags.dataset_name} and {flags.model}", flush=True)
    data = visible(load_data(flags), no_test=flags.no_test, val_fraction=VALIDATION_PART)
    torch.manual_seed(runtime.seed)
    network = create_network(flags.model, network_input(flags, data), pretrained=not flags.no_pretrained)
    loaders = make_batches(flags, data, runtime)
    return make_spec(
        flags,
        runtime,
        data,
        loaders,
        FineTuning(network, MixupCutmix(data.num_classes, flags.mixup_alpha, flags.cutmix_alpha)),
        NetworkFiles(flags.name),
        experiment=experiment_name(flags),
        student=flags.model,
        schedule=step_decay(flags.lr, [fraction * flags.epochs for fraction in MILESTONES], GAMMA),
        weight_decay=WEIGHT_DECAY,
        published=(EPOCHS, BATCH_SIZE),
        settings={key: getattr(flags, key) for key in ("model", "no_pretrained", "lr")},
        measure=lambda: {"final": evaluate(network, loaders["test"], runtime)["accuracy"]},
        messages=[f"{flags.model} from {'random' if flags.no_pretrained else 'pretrained'} weights"],
    )


@cli_main
def main() -> None:
    args = parse_arguments()
    if args.world_size > 1 and not is_launched() and not args.check_settings:
        launch_processes(args.world_size)
    with runtime_from(args) as runtime:
        spec = specify(settings_from(TeacherFlags, args), runtime)
        run_training(spec, runtime, resume=args.resume, overwrite=args.overwrite)


if __name__ == "__main__":
    main()
