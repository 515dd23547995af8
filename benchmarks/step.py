"""A whole training step (loader, forward, backward, optimiser, metrics) against a plain published-style loop.

`python -m benchmarks.step --student shufflenet_v2`; add `--compile` or `--amp bf16` for our side's options.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.loader import training_images
from benchmarks.plain import plain_loader, plain_step
from benchmarks.timing import interleave, report
from common.command_line import ArgumentParser, entry_point
from common.data import Batch, Batches
from common.models import create_model
from common.training.engine import CheckpointFiles, Trainer
from common.training.runtime import add_runtime_flags, runtime_from
from common.training.schedules import step_decay
from tfkd.experiment import CIFAR
from tfkd.main import MOMENTUM, WEIGHT_DECAY
from tfkd.methods import Baseline

LEARNING_RATE = 0.01


def _loss_difference(plain: nn.Module, trainer: Trainer, batch: Batch) -> float:
    """Relative difference of both sides' losses on one batch at the same weights; the plain side reads contiguously."""
    with torch.no_grad():
        theirs = F.cross_entropy(plain(batch.images.contiguous()), batch.targets)
        ours = sum(trainer.method(*batch[:3], epoch=0).losses.values())
    return abs(ours - theirs).item() / theirs.item()


@entry_point
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="shufflenet_v2", help="network of the Tf-KD family")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2, help="worker processes of the plain loader")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4, help="steps a measurement")
    add_runtime_flags(parser)
    args = parser.parse_args()
    with runtime_from(args) as runtime:
        images = training_images()
        normalization, augmentation = CIFAR
        ours = create_model(args.student, 100, family="tfkd")
        plain = copy.deepcopy(ours).to(runtime.device).train()
        sgd = {"lr": LEARNING_RATE, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}
        plain_optimizer = torch.optim.SGD(plain.parameters(), **sgd)
        batches = Batches(
            images,
            args.batch_size,
            normalization,
            runtime.device,
            augmentation=augmentation,
            shuffle=True,
            limit=args.steps,
        )
        with tempfile.TemporaryDirectory() as scratch:
            trainer = Trainer(
                Baseline(ours),
                lambda parameters: torch.optim.SGD(parameters, **sgd),
                step_decay(LEARNING_RATE, (), 1.0),
                epochs=1,
                train=batches,
                test=batches,
                runtime=runtime,
                files=CheckpointFiles(Path(scratch) / "last", Path(scratch) / "best"),
                settings={},
            )
            difference = max(_loss_difference(plain, trainer, batch) for batch in batches.epoch())
            print(f"loss of {args.steps} batches at the same weights: largest relative difference {difference:.1e}")

            loader = plain_loader(images, normalization, augmentation, args.batch_size, args.workers)
            epoch = iter(range(1, 10**9))

            def plain_steps() -> int:
                for _ in range(args.steps):
                    x, y = next(loader)
                    plain_step(plain, plain_optimizer, x.to(runtime.device), y.to(runtime.device))
                return args.steps * args.batch_size

            def our_steps() -> int:
                trainer.train_epoch(next(epoch), show_progress=False)
                return args.steps * args.batch_size

            sides = {"plain": plain_steps, f"ours (amp {args.amp}, compile {args.compile})": our_steps}
            report(f"step: {args.student}, batch {args.batch_size}", interleave(sides, args.rounds))


if __name__ == "__main__":
    main()
