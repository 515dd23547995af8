"""Which memory layout is faster: networks x layouts x precisions, for eager and for replayed steps.

`python -m benchmarks.layouts` measures one network of each kind; `--networks all` those of the papers' tables,
`--networks tfkd/resnext29 mdistiller/MobileNetV2` those that are named. A step is a whole one (forward, backward,
optimizer, sums of the epoch) on a batch that lies on the device. All four ways of a row take turns. The last lines say
what the measurements would put into `common/training/layouts.py`, and where its table says something else.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.timing import hardware
from common.command_line import ArgumentParser, cli_main, nonnegative_float, output_file, positive_int
from common.data import Augmentation, Batch, DeviceLoader, ImageArrays, Normalization
from common.errors import UserError
from common.models import FAMILIES, create_model, list_models
from common.training.checkpoints import CheckpointFiles
from common.training.engine import Loaders, Trainer
from common.training.layouts import convolution_kind, layout_of
from common.training.runs import write_json
from common.training.runtime import Runtime, add_runtime_flags, runtime_from, use_tf32
from common.training.schedules import step_decay
from common.training.training_step import Optimization
from tfkd.methods import Baseline

NETWORKS = ("tfkd/shufflenet_v2", "tfkd/resnet18", "tfkd/resnext29", "mdistiller/resnet8x4")
ALL_NETWORKS = (
    *(f"tfkd/{name}" for name in ("shufflenet_v2", "mobilenet_v2", "resnext29", "resnet18", "resnet50")),
    *(f"tfkd/{name}" for name in ("googlenet", "densenet121")),
    *(f"mdistiller/{name}" for name in ("resnet8x4", "resnet20", "wrn_16_2", "vgg8", "ShuffleV1", "MobileNetV2")),
    *(f"mtkd_rl/{name}" for name in ("RegNetX_200MF", "RegNetY_400MF", "ShuffleV2", "resnet56")),
)
WAYS = {"fp32": {}, "tf32": {"tf32": True}, "bf16": {"amp": "bf16"}}  # precision -> fields of the runtime
GPU_ALONE = "tf32"
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
MODES = {"eager": False, "replayed": True}
MARGIN = 1.05  # the table is at odds with a measurement that is so much faster the other way
QUICK = {"batch_size": 128, "rounds": 3, "seconds": 0.15}  # what a first look takes


class RepeatedBatch:
    """One batch of random images on the device, as `common.data.DeviceLoader` makes them, again and again."""

    def __init__(self, size: int, image_size: int, steps: int, device: torch.device) -> None:
        random = np.random.default_rng(0)
        pixels = random.integers(0, 256, (size, image_size, image_size, 3), dtype=np.uint8)
        images = ImageArrays(pixels, random.integers(0, 100, size))
        normalization = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
        self.batch = next(
            DeviceLoader(images, size, normalization, device, augmentation=Augmentation(flip=True)).epoch(0)
        )
        self.steps, self.samples = steps, steps * size

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        for _ in range(self.steps):
            yield self.batch


@dataclasses.dataclass
class Side:
    """A way of taking the steps of a row.

    Attributes:
        trainer: takes them.
        batches: that it is given.
        rates: images per second of each round.
    """

    trainer: Trainer
    batches: RepeatedBatch
    rates: list[float] = dataclasses.field(default_factory=list)
    epochs: int = 0

    def run(self, steps: int) -> float:
        """Take some steps; returns the seconds. An epoch ends by reading its sums, so that all of it is over."""
        self.batches.steps = steps
        started = time.perf_counter()
        self.trainer.train_epoch(self.epochs, show_progress=False)
        self.epochs += 1
        return time.perf_counter() - started

    @property
    def how(self) -> str:
        """How the steps really ran."""
        return self.trainer.execution()["step"]


@dataclasses.dataclass
class Row:
    """A network in one precision.

    Attributes:
        images_per_second: (layout, "eager" or "replayed") -> median.
        how: the same -> how the steps really ran.
    """

    network: str
    kind: str
    precision: str
    images_per_second: dict[tuple[str, str], float]
    how: dict[tuple[str, str], str]

    def ratio(self, mode: str) -> float:
        """Channels-last to contiguous."""
        return self.images_per_second["channels_last", mode] / self.images_per_second["contiguous", mode]

    def __str__(self) -> str:
        cells = [f"{self.images_per_second[layout, mode]:10.0f}" for mode in MODES for layout in FORMATS]
        eager, replayed = (f"{self.ratio(mode):6.2f}" for mode in MODES)
        fell_back = {how for (_, mode), how in self.how.items() if MODES[mode] and how != "captured"}
        note = f"  replayed: {'; '.join(sorted(fell_back))}" if fell_back else ""
        return (
            f"{self.network:24} {self.kind:8} {self.precision:5} {cells[0]} {cells[1]} {eager} "
            f"{cells[2]} {cells[3]} {replayed}{note}"
        )

    def contradicts(self, device: torch.device) -> bool:
        """Whether the table of layouts has the slower one, by more than the margin."""
        chosen = layout_of(device, self.precision, self.kind)
        gain = self.ratio("replayed") if chosen == torch.contiguous_format else 1 / self.ratio("replayed")
        return gain > MARGIN

    def content(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "network": self.network,
            "kind": self.kind,
            "precision": self.precision,
            **{f"{layout} {mode}": rate for (layout, mode), rate in self.images_per_second.items()},
            "how": {" ".join(key): how for key, how in self.how.items()},
        }

    @classmethod
    def of(cls, content: dict[str, Any]) -> Row:
        """The row that `content` was made of."""
        ways = [(layout, mode) for mode in MODES for layout in FORMATS]
        rates, how = ({way: source[" ".join(way)] for way in ways} for source in (content, content["how"]))
        return cls(content["network"], content["kind"], content["precision"], rates, how)


HEADER = (
    f"{'':39} {'eager, images/s':>28} {'replayed, images/s':>28}\n"
    f"{'network':24} {'convol.':8} {'prec.':5} {'chan.-last':>10} {'contiguous':>10} {'ratio':>6} "
    f"{'chan.-last':>10} {'contiguous':>10} {'ratio':>6}"
)


def measure(network: str, precision: str, runtime: Runtime, batch_size: int, rounds: int, seconds: float) -> Row:
    """A row of the table.

    Args:
        network: family/name.
        precision: of `WAYS`.
        runtime: where, in float32.
        batch_size: of a step.
        rounds: measurements of each side.
        seconds: of a measurement, at least.
    """
    family, _, name = network.partition("/")
    use_tf32(precision == "tf32")
    sides: dict[tuple[str, str], Side] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for mode, graphs in MODES.items():
            for layout, memory_format in FORMATS.items():
                given = dataclasses.replace(runtime, graphs=graphs, **WAYS[precision])
                student = create_model(name, 100, family=family)
                sides[layout, mode] = _side(student, given, memory_format, batch_size, Path(scratch))
        count = _steps_for(sides, seconds)
        for _ in range(rounds):
            for side in sides.values():
                side.rates.append(count * batch_size / side.run(count))
    rates = {key: statistics.median(side.rates) for key, side in sides.items()}
    kind = convolution_kind(next(iter(sides.values())).trainer.method)
    return Row(network, kind, precision, rates, {key: side.how for key, side in sides.items()})


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9, weight_decay=5e-4)


def _side(student: nn.Module, runtime: Runtime, layout: torch.memory_format, batch_size: int, scratch: Path) -> Side:
    batches = RepeatedBatch(batch_size, 32, 5, runtime.device)
    trainer = Trainer(
        Baseline(student),
        Optimization(_sgd, step_decay(0.01, (), 1.0), epochs=1),
        Loaders(batches, batches),
        runtime,
        CheckpointFiles(scratch / "last", scratch / "best"),
        settings={},
        layout=layout,
    )
    return Side(trainer, batches)


def _steps_for(sides: dict[tuple[str, str], Side], seconds: float) -> int:
    """Warm all sides up; returns how many steps take the fastest of them that long."""
    for side in sides.values():
        side.run(6)  # kernels are chosen, the step is captured
    fastest = min(side.run(3) for side in sides.values()) / 3
    return max(3, math.ceil(seconds / fastest))


def suggestions(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[str, float]]:
    """(precision, kind) -> the faster layout of replayed steps, and its geometric mean over the other."""
    groups: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        groups.setdefault((row.precision, row.kind), []).append(math.log(row.ratio("replayed")))
    means = {key: math.exp(statistics.mean(logs)) for key, logs in groups.items()}
    return {key: ("channels_last", mean) if mean >= 1 else ("contiguous", 1 / mean) for key, mean in means.items()}


def report(rows: Sequence[Row], device: torch.device) -> list[str]:
    """Lines that say what the rows suggest, and where the table of layouts says something else."""
    lines = []
    for (precision, kind), (layout, factor) in suggestions(rows).items():
        chosen = layout_of(device, precision, kind)
        agrees = FORMATS[layout] == chosen
        verdict = "as the table has it" if agrees else "the table has the other"
        if not agrees and factor < MARGIN:
            verdict += ", which costs little"
        lines.append(
            f"{device.type}, {precision}, {kind} convolutions: {layout} is {factor:.2f} times as fast, {verdict}"
        )
    return lines


def networks_of(names: Sequence[str]) -> Sequence[str]:
    """The networks that the flag names.

    Raises:
        UserError: one that there is not.
    """
    if list(names) == ["all"]:
        return ALL_NETWORKS
    for network in names:
        family, _, name = network.partition("/")
        if family not in FAMILIES or name not in list_models(family):
            raise UserError(f"--networks {network}: give FAMILY/NAME, for example {NETWORKS[0]}, or all")
    return names


@cli_main
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), metavar="FAMILY/NAME", help="or all")
    parser.add_argument("--precisions", nargs="+", choices=list(WAYS), help="default: all of the device's")
    parser.add_argument("--batch-size", type=positive_int, default=128, help="images per step")
    parser.add_argument("--rounds", type=positive_int, default=3, help="measurements of each side")
    parser.add_argument("--seconds", type=nonnegative_float, default=0.3, help="of a measurement, at least")
    parser.add_argument("--minutes", type=nonnegative_float, default=math.inf, help="no row is begun later than that")
    parser.add_argument(
        "--output", type=output_file('{\n  "hardware": {'), metavar="FILE", help="write the table as JSON, too"
    )
    add_runtime_flags(parser)
    args = parser.parse_args()
    if args.plain or args.compile or args.no_graphs or args.tf32 or args.amp != "off":
        parser.error("layouts, precisions and capture are what is compared: leave their flags out")
    networks, until, rows = networks_of(args.networks), time.time() + 60 * args.minutes, []
    with runtime_from(args) as runtime:
        precisions = args.precisions or [way for way in WAYS if way != GPU_ALONE or runtime.device.type == "cuda"]
        if GPU_ALONE in precisions and runtime.device.type != "cuda":
            raise UserError(f"--precisions {GPU_ALONE}: TF32 is a precision of NVIDIA's GPUs; this is {runtime.device}")
        print(f"layouts: a training step, batch {args.batch_size}, median of {args.rounds} | {hardware()}\n{HEADER}")
        for network in networks:
            for precision in precisions:
                if time.time() < until:
                    rows.append(measure(network, precision, runtime, args.batch_size, args.rounds, args.seconds))
                    print(rows[-1], flush=True)
        if args.output:
            write_json(args.output, {"hardware": hardware(), "rows": [row.content() for row in rows]})
        print("\n".join(report(rows, runtime.device)))
    left = len(networks) * len(precisions) - len(rows)
    if left:
        print(f"out of time: {left} rows are not measured")


if __name__ == "__main__":
    main()
