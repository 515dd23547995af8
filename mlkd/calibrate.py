"""Learn an ensemble's weights: `python3 calibrate.py --ensemble config.json -d oxford-iiit` writes them into that file.

As published they are fitted on the augmented training split; `--fit-on validation` takes images no member has seen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common.command_line import ArgumentParser, cli_main, positive_int, resolve_path, settings_from
from common.errors import UserError
from common.training.runtime import TRAINING_ONLY, Runtime, add_runtime_flags, runtime_from
from mlkd.calibration import Form, calibrate, combine, initial_weights
from mlkd.data import SEED, DataFlags, SplitLoader, add_data_flags, load_data, make_batches, network_input
from mlkd.ensemble import read_ensemble
from mlkd.teachers import PAPER, Teacher

WITH_MEANING = ("--seed", "--limit-train-batches")  # here too: it draws, and fits on training images
MEANINGLESS = ("--plain", *(flag for flag in TRAINING_ONLY if flag not in WITH_MEANING))
ACCUMULATED = 128  # images whose gradients are summed before an update, as published


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add_data_flags(parser)
    parser.add_argument("-e", "--epochs", type=positive_int, default=15, help="how often all images are gone through")
    parser.add_argument("--ensemble", required=True, metavar="FILE", help="JSON that names the members")
    ours = parser.add_argument_group("added here")
    ours.add_argument(
        "--fit-on",
        choices=("train", "validation"),
        default="train",
        help="train: augmented and shuffled, from a linear layer's random weights, as published; validation: as they "
        "are, whose logits are computed once, from the file's weights",
    )
    ours.add_argument(
        "--form",
        choices=("sum", "mean"),
        default="sum",
        help="weights of a sum as published, or of the ensemble's mean",
    )
    add_runtime_flags(parser, without=MEANINGLESS)
    parser.set_defaults(seed=SEED)
    return parser.parse_args()


class MemberLogits:
    """The `LogitBatches` of members on images: each pass computes them again, for the images' next epoch."""

    def __init__(self, members: list[Teacher], batches: SplitLoader, runtime: Runtime) -> None:
        self.networks = [member.network.to(runtime.device) for member in members]
        self.batches, self.runtime, self.epoch = batches, runtime, 0

    def __len__(self) -> int:
        return len(self.batches)

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        with self.runtime.autocast():
            return torch.stack([network(images) for network in self.networks]).float()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        batches = self.batches.epoch(self.epoch)
        self.epoch += 1
        for batch in tqdm(batches, total=len(self), desc="logits", unit="batch", leave=False, disable=None):
            yield self._logits(batch.images), batch.targets


def describe(batches: list[tuple[Tensor, Tensor]], weights: Tensor, form: Form) -> str:
    """Cross-entropy and accuracy of the weighted members."""
    logits = torch.cat([combine(members, weights, form) for members, _ in batches])
    targets = torch.cat([targets for _, targets in batches])
    accuracy = 100 * (logits.argmax(1) == targets).double().mean().item()
    return f"cross-entropy {F.cross_entropy(logits, targets).item():.4f}, accuracy {accuracy:.2f}"


def rounded(weights: Tensor) -> list[float]:
    return [round(weight, 4) for weight in weights.tolist()]


def run(args: argparse.Namespace, runtime: Runtime) -> None:
    file = read_ensemble(resolve_path(args.ensemble, PAPER))
    file.require_architectures()
    print(file.reading)
    flags = settings_from(DataFlags, args)
    data = load_data(flags)
    members = file.load(network_input(flags, data))
    parts = make_batches(flags, data, runtime)
    held_out = list(MemberLogits(members, parts["validation"], runtime))
    before = torch.tensor(file.weights, device=runtime.device)
    print(f"{parts['validation'].samples} validation images of {data.name} ({data.content})")
    print(f"before: {describe(held_out, before, args.form)}")
    if args.fit_on == "train":
        batches, begin = MemberLogits(members, parts["train"], runtime), initial_weights(len(members), args.seed)
        fitted_on = f"{parts['train'].samples} augmented training images"
    else:
        batches, begin, fitted_on = held_out, before, "the validation images"
    steps = max(1, ACCUMULATED // args.batch_size)
    updates = args.epochs * -(-len(batches) // steps)
    print(f"fitting on {fitted_on}, {updates} updates from {rounded(begin)}")
    begin = begin.to(runtime.device)
    after, _ = calibrate(batches, begin, epochs=args.epochs, accumulation_steps=steps, form=args.form)
    print(f"after:  {describe(held_out, after, args.form)}")
    weights = rounded(after)
    file.with_weights(weights)
    print(f"weights of the {args.form}: {weights}, written to {file.path}")


@cli_main
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        if runtime.distributed:
            raise UserError("calibrate.py runs in one process: start it without torchrun")
        run(args, runtime)


if __name__ == "__main__":
    main()
