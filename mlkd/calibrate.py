"""Learn an ensemble's weights on the validation part and write them into its file:
`python3 calibrate.py --ensemble config.json -d oxford-iiit`.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from common.command_line import ArgumentParser, entry_point, find_path, positive
from common.errors import UserError
from common.training.runtime import Runtime, add_runtime_flags, runtime_from
from mlkd.calibration import calibrate, combine
from mlkd.data import add_data_flags, load_data, network_input, part_batches, split
from mlkd.ensemble import read_ensemble
from mlkd.teachers import PAPER, Teacher

ACCUMULATED = 128  # images whose gradients are summed before an update, as published


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add_data_flags(parser)
    parser.add_argument("-e", "--epochs", type=positive, default=15, help="how often all images are gone through")
    parser.add_argument("--ensemble", required=True, metavar="FILE", help="JSON that names the members")
    ours = parser.add_argument_group("added here")
    ours.add_argument(
        "--form",
        choices=("sum", "mean"),
        default="sum",
        help="weights of a sum as published, or of the ensemble's mean",
    )
    add_runtime_flags(parser, training=False)
    return parser.parse_args()


@torch.inference_mode()
def all_logits(members: list[Teacher], batches: object, runtime: Runtime) -> list[tuple[Tensor, Tensor]]:
    """Each batch's logits of every member, [M, N, K], and its class indices, [N]."""
    networks = [member.network.to(runtime.device) for member in members]
    collected = []
    for batch in tqdm(batches.epoch(), total=len(batches), desc="logits", unit="batch", leave=False, disable=None):
        with runtime.autocast():
            logits = torch.stack([network(batch.images) for network in networks]).float()
        collected.append((logits, batch.targets))
    return collected


def describe(batches: list[tuple[Tensor, Tensor]], weights: Tensor, form: str) -> str:
    """Cross-entropy and accuracy of the weighted members."""
    logits = torch.cat([combine(members, weights, form) for members, _ in batches])
    targets = torch.cat([targets for _, targets in batches])
    accuracy = 100 * (logits.argmax(1) == targets).double().mean().item()
    return f"cross-entropy {F.cross_entropy(logits, targets).item():.4f}, accuracy {accuracy:.2f}"


def run(args: argparse.Namespace, runtime: Runtime) -> None:
    file = read_ensemble(find_path(args.ensemble, PAPER))
    data = load_data(args)
    members = file.load(network_input(args, data))
    _, validation = split(data.train)
    batches = part_batches(args, validation, runtime)
    if not len(batches):
        raise UserError(f"no validation images are left to calibrate on: {data.name} has {len(data.train)} images")
    logits = [(logits.clone(), targets.clone()) for logits, targets in all_logits(members, batches, runtime)]
    before = torch.tensor(file.weights, device=runtime.device)
    print(f"{batches.samples} validation images of {data.name} ({data.content})")
    print(f"before: {describe(logits, before, args.form)}")
    steps = max(1, ACCUMULATED // args.batch_size)
    after, _ = calibrate(logits, before, epochs=args.epochs, accumulation_steps=steps, form=args.form)
    print(f"after:  {describe(logits, after, args.form)}")
    weights = [round(weight, 4) for weight in after.tolist()]
    file.with_weights(weights)
    print(f"weights of the {args.form}: {weights}, written to {file.path}")


@entry_point
def main() -> None:
    args = parse_arguments()
    with runtime_from(args) as runtime:
        if runtime.distributed:
            raise UserError("calibrate.py runs in one process: start it without torchrun")
        run(args, runtime)


if __name__ == "__main__":
    main()
