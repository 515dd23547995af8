"""A whole training step (loader, forward, backward, optimizer, metrics) against a plain published-style loop.

`python -m benchmarks.step --student shufflenet_v2` trains by cross-entropy as Tf-KD's baselines do;
`python -m benchmarks.step --paper edkd --teacher resnet32x4 --student resnet8x4` by EDKD;
`python -m benchmarks.step --paper mtkd_rl --student ShuffleV2` by MTKD-RL with the paper's four teachers;
`python -m benchmarks.step --paper mlkd --batch-size 4` by MLKD, at 224 x 224. `--compile`, `--amp` and `--no-graphs`
are options of our side, `--tf32` is one of both; below stands how each side really ran. Beside both stands the rate
that a matrix product reaches meanwhile; `--profile` says where our time goes.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.arithmetic import flops_of, matrix_product, report_arithmetic
from benchmarks.loader import training_images
from benchmarks.operators import MarkedBatches, report_shares, shares
from benchmarks.plain import PlainBaseline, PlainDistillation, PlainLoop, plain_loader
from benchmarks.timing import how_it_ran, interleave, report
from common.command_line import ArgumentParser, cli_main, positive_int
from common.data import Augmentation, DeviceLoader, Normalization
from common.losses import add_up
from common.models import create_model
from common.training.checkpoints import CheckpointFiles
from common.training.engine import Loaders, Trainer
from common.training.method import Method
from common.training.runtime import AMP_DTYPES, Runtime, add_runtime_flags, runtime_from
from common.training.schedules import step_decay
from common.training.training_step import Optimization

if TYPE_CHECKING:
    from common.data import BatchLoader

LEARNING_RATE = 0.01


@dataclasses.dataclass
class Setting:
    """What a paper trains: its method, and the plain loop that computes the same loss.

    Attributes:
        make_method: with networks of its own, always of the same weights.
        make_plain_loop: (loader, device) -> the plain loop, with networks of its own and those weights.
        plain_transform: of one image, where it is another than the augmentation.
        upscale: makes our batches of the batches of small images, where those are not what is trained on.
    """

    title: str
    make_method: Callable[[], Method]
    make_plain_loop: Callable[[Iterator, torch.device], PlainLoop]
    transforms_for: tuple[Normalization, Augmentation]
    batch_size: int
    plain_transform: Callable | None = None
    upscale: Callable[[DeviceLoader], BatchLoader] | None = None


def tfkd_setting(args: argparse.Namespace, all_targets: Tensor, runtime: Runtime) -> Setting:
    """A baseline of Tf-KD."""
    from tfkd.experiment import CIFAR
    from tfkd.methods import Baseline

    student = create_model(args.student or "shufflenet_v2", 100, family="tfkd")
    return Setting(
        title=f"Tf-KD baseline of {args.student or 'shufflenet_v2'}",
        make_method=lambda: Baseline(copy.deepcopy(student)),
        make_plain_loop=lambda loader, device: PlainBaseline(copy.deepcopy(student), loader, device, LEARNING_RATE),
        transforms_for=CIFAR,
        batch_size=128,
    )


def edkd_setting(args: argparse.Namespace, all_targets: Tensor, runtime: Runtime) -> Setting:
    """EDKD at the end of its warm-up."""
    from edkd.distillers.EDKD import edkd_loss
    from edkd.engine.cfg import CFG
    from edkd.engine.experiment import CIFAR100
    from edkd.engine.method import make_method

    cfg = CFG.clone()
    cfg.DISTILLER.TYPE = "EDKD"
    cfg.EDKD.WARMUP = 1
    names = args.teacher or "resnet32x4", args.student or "resnet8x4"
    teacher, student = (create_model(name, 100, family="mdistiller") for name in names)

    def plain_loss(logits: Tensor, teacher_logits: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits, targets) + edkd_loss(logits, teacher_logits, targets, cfg.EDKD.T)

    def plain_loop(loader: Iterator, device: torch.device) -> PlainLoop:
        networks = copy.deepcopy((student, teacher))
        return PlainDistillation(*networks, plain_loss, loader, device, LEARNING_RATE)

    return Setting(
        title=f"EDKD, {names[0]} teaches {names[1]}",
        make_method=lambda: make_method(cfg, *copy.deepcopy((student, teacher)), all_targets, runtime),
        make_plain_loop=plain_loop,
        transforms_for=CIFAR100,
        batch_size=64,
    )


def mtkd_rl_setting(args: argparse.Namespace, all_targets: Tensor, runtime: Runtime) -> Setting:
    """MTKD-RL after its first epoch, with the paper's four teachers."""
    from benchmarks.plain_mtkd_rl import PlainMultiTeacher
    from mtkd_rl.experiment import SMALL_IMAGES
    from mtkd_rl.methods import MultiTeacherRL
    from mtkd_rl.multi_teacher import Options

    names = ["RegNetY_400MF", "RegNetX_400MF", "resnet32x4", "wrn_28_4"]
    student = create_model(args.student or "ShuffleV2", 100, family="mtkd_rl")
    teachers = {name: create_model(name, 100, family="mtkd_rl") for name in names}
    options = Options()
    method = MultiTeacherRL(student, teachers, 32, options)

    def plain_loop(loader: Iterator, device: torch.device) -> PlainLoop:
        modules = copy.deepcopy((student, list(teachers.values()), method.transforms, method.agent.policy))
        return PlainMultiTeacher(*modules, options.temperature, options.feat_weight, loader, device, LEARNING_RATE)

    return Setting(
        title=f"MTKD-RL, {', '.join(names)} teach {args.student or 'ShuffleV2'}",
        make_method=lambda: copy.deepcopy(method),
        make_plain_loop=plain_loop,
        transforms_for=SMALL_IMAGES["cifar100"],
        batch_size=64,
    )


def mlkd_setting(args: argparse.Namespace, all_targets: Tensor, runtime: Runtime) -> Setting:
    """MLKD without mixing, whose draws both sides would have to share."""
    from functools import partial

    from benchmarks.plain_mlkd import PlainMultiLevel, enlarging
    from mlkd.data import JITTER, NORMALIZATION
    from mlkd.losses import kd_loss
    from mlkd.methods import MultiLevel
    from mlkd.mixup_cutmix import MixupCutmix
    from mlkd.student import MultiResNetV2
    from mlkd.teachers import InputSpec, create_network
    from mlkd.upscaled import UpscaledLoader

    name, loss = args.teacher or "resnetv2_50x1_bit", partial(kd_loss, alpha=0.5, temperature=10.0)
    student, teacher = MultiResNetV2(100), create_network(name, InputSpec(224, 100, NORMALIZATION))

    def plain_loop(loader: Iterator, device: torch.device) -> PlainLoop:
        return PlainMultiLevel(*copy.deepcopy((student, teacher)), loss, loader, device, LEARNING_RATE)

    return Setting(
        title=f"MLKD, {name} teaches ResNetV2-50 with early exits",
        make_method=lambda: MultiLevel(*copy.deepcopy((student, teacher)), MixupCutmix(100, 0.0, 0.0), 0.5, 10.0),
        make_plain_loop=plain_loop,
        transforms_for=(Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), Augmentation()),
        batch_size=64,
        plain_transform=enlarging(224, JITTER, NORMALIZATION),
        upscale=lambda small: UpscaledLoader(small, 224, 256, NORMALIZATION, jitter=JITTER, train=True),
    )


SETTINGS = {"tfkd": tfkd_setting, "edkd": edkd_setting, "mtkd_rl": mtkd_rl_setting, "mlkd": mlkd_setting}


@cli_main
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--paper", choices=list(SETTINGS), default="tfkd", help="whose method is trained")
    parser.add_argument("--student", help="network (default: the paper's example)")
    parser.add_argument("--teacher", help="edkd, mlkd: network (default: resnet32x4, resnetv2_50x1_bit)")
    parser.add_argument("--batch-size", type=positive_int, help="default: the paper's")
    parser.add_argument("--workers", type=positive_int, default=2, help="worker processes of the plain loader")
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument("--steps", type=positive_int, help="steps a measurement (default: 4, on a GPU 200)")
    parser.add_argument("--profile", action="store_true", help="print which operators our time goes into, too")
    add_runtime_flags(parser)
    args = parser.parse_args()
    if args.teacher and args.paper not in ("edkd", "mlkd"):
        parser.error(
            "--teacher is for --paper edkd and mlkd: Tf-KD's setting is a baseline, MTKD-RL's has four teachers"
        )
    if args.plain:
        parser.error("the plain side is there already: --plain is not for this benchmark")
    with runtime_from(args) as runtime, tempfile.TemporaryDirectory() as scratch:
        images = training_images()
        setting = SETTINGS[args.paper](args, torch.from_numpy(images.targets), runtime)
        batch_size = args.batch_size or setting.batch_size
        # an epoch, which is what a measurement is for our side, begins with work of its own
        steps = args.steps or (200 if runtime.device.type == "cuda" else 4)
        normalization, augmentation = setting.transforms_for
        loader = plain_loader(images, normalization, augmentation, batch_size, args.workers, setting.plain_transform)
        plain = setting.make_plain_loop(loader, runtime.device)
        small = DeviceLoader(
            images,
            batch_size,
            normalization,
            runtime.device,
            augmentation=augmentation,
            shuffle=True,
            limit=steps,
        )
        batches = setting.upscale(small) if setting.upscale else small
        trainer = Trainer(
            setting.make_method(),
            Optimization(
                lambda parameters: torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4),
                step_decay(LEARNING_RATE, (), 1.0),
                epochs=1,
            ),
            Loaders(batches, batches),
            runtime,
            CheckpointFiles(Path(scratch) / "last", Path(scratch) / "best"),
            settings={},
        )
        difference = max(loss_difference(plain, trainer, *batch[:3]) for batch in batches.epoch())
        print(f"loss of {steps} batches at the same weights: largest relative difference {difference:.1e}")

        epoch = iter(range(1, 10**9))

        def our_steps() -> int:
            trainer.train_epoch(next(epoch), show_progress=False)
            return steps * batch_size

        ours = f"ours (amp {args.amp}, compile {args.compile})"
        sides = {"plain": lambda: plain.steps(steps) * batch_size, ours: our_steps}
        precisions = {"plain": torch.float32, ours: AMP_DTYPES[args.amp] or torch.float32}
        products = {dtype: matrix_product(runtime.device, dtype) for dtype in precisions.values()}
        rates = interleave({**sides, **products}, args.rounds)
        report(f"step: {setting.title}, batch {batch_size}", {side: rates[side] for side in sides})
        print(f"  plain ran: steps eager, contiguous, {dataclasses.replace(runtime, amp='off').precision}")
        print(f"  ours ran: {how_it_ran(trainer.execution())}")
        # counted on the plain side, for both compute the same, ours partly out of the counter's sight
        report_arithmetic(flops_of(lambda: plain.steps(1)), batch_size, precisions, rates)
        if args.profile:
            trainer.loaders = Loaders(MarkedBatches(batches), batches)
            report_shares(ours, shares(our_steps, runtime.device))


def loss_difference(plain: PlainLoop, trainer: Trainer, images: Tensor, targets: Tensor, indices: Tensor) -> float:
    """Relative difference of both sides' losses on one batch at the same weights; the plain side reads contiguously."""
    with torch.no_grad():
        theirs, _ = plain.loss(images.contiguous(), targets)
        ours = add_up(trainer.method(images, targets, indices, 1).losses.values())
    return abs(ours - theirs).item() / theirs.item()


if __name__ == "__main__":
    main()
