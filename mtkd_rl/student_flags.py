"""The flags that train_student_avg.py and train_student_rl.py share."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from common.command_line import (
    ArgumentParser,
    nonnegative_float,
    nonnegative_int,
    plain_name,
    positive_float,
    positive_int,
    whole_number,
)
from mtkd_rl.experiment import (
    DATASETS,
    MILESTONES,
    PUBLISHED_BATCH_SIZE,
    PUBLISHED_EPOCHS,
    RunFlags,
    add_flags_without_effect,
    make_parser,
)
from mtkd_rl.losses import FEATURE_LOSSES

DATA = "imagenet"  # published default of --data, although the data are CIFAR-100
ARCH = "resnet18_imagenet"  # published default of --arch, which is none of its networks
DIST_URL = "tcp://224.66.41.62:23456"
LATEST = "latest run"  # what --resume means without a path

# flags that make another experiment, with the values of the one that needs no mention
NAMED = {
    "--feat-weight": 5,
    "--feat-kd": "mse",
    "--kd-T": 4,
    "--feature-transforms": "chained",
    "--dataset": "cifar100",
    "--init-lr": 0.05,
    "--lr-type": "multistep",
    "--weight-decay": 1e-4,
}


@dataclasses.dataclass(frozen=True)
class StudentFlags(RunFlags):
    """The flags of both scripts but those of runtime and processes, under their names."""

    arch: str
    teacher_name_list: Sequence[str]
    data: str
    init_lr: float
    lr_type: str
    milestones: list[int]
    kd_T: int  # noqa: N815
    feat_weight: float
    feat_kd: str
    feature_transforms: str
    workers: int
    resume: str
    dist_backend: str

    @property
    def resumed_path(self) -> str | None:
        """The checkpoint or directory of `--resume`; None where it is not given, or means the latest run."""
        return None if self.resume in ("", LATEST) else self.resume


def student_parser(description: str | None) -> ArgumentParser:
    """The flags of both scripts."""
    parser = make_parser(description)
    add = parser.add_argument
    add("-a", "--arch", default=ARCH, help="student")
    add("--teacher-name-list", nargs="+", default=["resnet32x4", "wrn_28_4"], help="trained teachers (see setting.py)")
    add("--dataset", choices=DATASETS, default="cifar100", help="published with CIFAR-100's images whatever it said")
    add("--data", nargs="?", default=DATA, help="directory of datasets; the published default means --data-dir")
    add("--checkpoint-dir", default="./checkpoint", help="where runs go")
    add("--trial", type=plain_name, default="1", help="names the run")
    add(
        "--epochs",
        type=positive_int,
        default=PUBLISHED_EPOCHS,
        help="a shorter run moves default milestones in proportion",
    )
    add("-b", "--batch-size", type=positive_int, default=PUBLISHED_BATCH_SIZE, help="images per step, over all ranks")
    add("--init-lr", type=positive_float, default=0.05, help="learning rate of SGD, with Nesterov momentum 0.9")
    add("--lr-type", choices=("multistep", "cosine"), default="multistep", help="how the learning rate falls")
    add(
        "--milestones",
        type=nonnegative_int,
        nargs="+",
        default=MILESTONES,
        help="epochs, from 0, that begin at a tenth of the learning rate",
    )
    add("--wd", "--weight-decay", dest="weight_decay", type=nonnegative_float, default=1e-4, help="of SGD")
    add("--kd-T", type=positive_int, default=4, help="temperature tau")
    add("--feat-weight", type=nonnegative_float, default=5, help="weight lambda of the feature loss")
    add("--feat-kd", choices=list(FEATURE_LOSSES), default="mse", help="feature loss D")
    add("-j", "--workers", type=nonnegative_int, default=8, help="processes that decode large images")
    add(
        "--resume",
        nargs="?",
        const=LATEST,
        default="",
        metavar="PATH",
        help="resume the run of a checkpoint or "
        "directory; without PATH with the latest run of these settings, if there is one",
    )
    add("-e", "--evaluate", action="store_true", help="evaluate the checkpoint --resume PATH and leave")
    add("--gpu", type=nonnegative_int, help="number of the GPU to use")
    add("--multiprocessing-distributed", action="store_true", help="one process a GPU")
    add("--world-size", type=whole_number(-1), default=-1, help="machines; below 1 means one")
    add("--rank", type=whole_number(-1), default=-1, help="which machine this is; below 0 means the first")
    add("--dist-url", default=DIST_URL, help="where processes meet (default: a free port of this machine)")
    add(
        "--dist-backend",
        choices=("nccl", "gloo"),
        default="nccl",
        help="gloo takes its place where it is not available",
    )
    without_effect = {
        ("--start-epoch",): {"type": int, "default": 0},
        ("--lr", "--learning-rate"): {"type": float, "default": 0.1, "help": "no effect, as published: see --init-lr"},
        ("--momentum",): {"type": float, "default": 0.9},
        ("--ce-weight",): {"type": float, "default": 1},
        ("--kd-weight",): {"type": float, "default": 1},
        ("-p", "--print-freq"): {"type": int, "default": 10},
        ("--pretrained",): {"action": "store_true"},
        ("--dummy",): {"action": "store_true"},
    }
    add_flags_without_effect(parser, without_effect)
    parser.add_argument(
        "--feature-transforms",
        choices=("chained", "independent"),
        default="chained",
        help="resize the student's feature map as published, each time from the last result, or from the student's own",
    )
    return parser
