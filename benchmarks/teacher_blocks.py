"""What it would bring to show MTKD-RL's teachers several batches at once, ahead of the steps that need them.

Its teachers' maps are too many to be kept, but those of some steps could be computed together. The paper's four
teachers are shown batches one by one, as in a step, and in blocks of several, in turns; on a GPU each way is captured.
Beside them runs the whole step, so that the last lines can say what a block would make of it.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.loader import training_images
from benchmarks.step import mtkd_rl_setting
from benchmarks.teacher_cache import trainer_of
from benchmarks.timing import how_it_ran, interleave, report
from common.command_line import ArgumentParser, cli_main, positive_int
from common.data import DeviceLoader
from common.training.cuda_graphs import CudaGraphs, GraphedCallable, graphs_blocker
from common.training.runtime import Runtime, add_runtime_flags, runtime_from

ONE = "one batch at a time"


def showing(teachers: Sequence[nn.Module], runtime: Runtime) -> Callable[[Tensor], list[tuple[Tensor, ...]]]:
    """What shows all teachers some images: logits, map and embedding of each; captured where steps would be."""

    def show(images: Tensor) -> list[tuple[Tensor, ...]]:
        with torch.no_grad(), runtime.autocast():
            return [teacher(images) for teacher in teachers]

    if graphs_blocker(runtime):
        return show
    return GraphedCallable(show, CudaGraphs(runtime.device), "teachers", warm_up=2)


def in_blocks(show: Callable[[Tensor], object], images: Tensor, size: int) -> Callable[[], int]:
    """Shows all images, `size` at a time; says how many they were."""

    def shown() -> int:
        for block in images.split(size):
            show(block)
        return len(images)

    return shown


def step_ratio(step: float, one_by_one: float, block: float) -> float:
    """How many times as fast a step is whose teachers run in blocks; all three in images per second."""
    return (1 / step) / (1 / step - 1 / one_by_one + 1 / block)


@cli_main
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--student", help="network (default: ShuffleV2)")
    parser.add_argument("--blocks", type=positive_int, nargs="+", default=[2, 4, 8], help="batches of a block")
    parser.add_argument("--batch-size", type=positive_int, default=64)
    parser.add_argument("--rounds", type=positive_int, default=3)
    add_runtime_flags(parser)
    args = parser.parse_args()
    with runtime_from(args) as runtime, tempfile.TemporaryDirectory() as scratch:
        measure(args, runtime, Path(scratch))


def measure(args: argparse.Namespace, runtime: Runtime, scratch: Path) -> None:
    """Print the rates of all ways, and what each block would make of a step."""
    images = training_images()
    setting = mtkd_rl_setting(args, torch.from_numpy(images.targets), runtime)
    normalization, augmentation = setting.transforms_for
    steps = max(args.blocks)
    options = {"augmentation": augmentation, "shuffle": True, "limit": steps}
    loader = DeviceLoader(images, args.batch_size, normalization, runtime.device, **options)
    trainer = trainer_of(setting.make_method(), loader, runtime, scratch)
    teachers = list(trainer.method.get_submodule("teachers").children())
    shown = torch.cat([batch.images for batch in loader.epoch(0)]).contiguous(memory_format=trainer.layout)

    def whole_steps() -> int:
        trainer.train_epoch(1, show_progress=False)  # the agent acts from the second epoch on
        return len(shown)

    sides = {ONE: in_blocks(showing(teachers, runtime), shown, args.batch_size)}
    for count in args.blocks:
        sides[f"{count} at a time"] = in_blocks(showing(teachers, runtime), shown, count * args.batch_size)
    rates = interleave({**sides, "whole steps": whole_steps}, args.rounds)
    step = statistics.median(rates.pop("whole steps"))
    report(f"{setting.title}, teachers alone, batch {args.batch_size}", rates)
    one_by_one = statistics.median(rates.pop(ONE))
    share = step / one_by_one
    print(f"  whole steps: {step:.0f} images/s, {how_it_ran(trainer.execution())}; teachers take {share:.2f} of them")
    for name, values in rates.items():
        print(f"  {name}, a step would be {step_ratio(step, one_by_one, statistics.median(values)):.2f} times as fast")


if __name__ == "__main__":
    main()
