"""Steps of each paper's published setting: plain, fast, in every precision, beside the rate of a matrix product."""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import statistics
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch

from benchmarks.arithmetic import flops_of, matrix_product
from benchmarks.first_run.training import BF16, BF16_EAGER, EAGER, FAST, PLAIN, Way, make_trainer, noise
from benchmarks.first_run.verdicts import AbsentError, Check, Finding, Place
from benchmarks.step import SETTINGS, Setting
from common.data import Batch, DeviceLoader
from common.training.schedules import step_decay

LEARNING_RATE = 0.01
SECONDS, ROUNDS = 0.4, 3  # of a measurement, and how many
WARM_UP_STEPS = 6  # kernels are chosen, the step is captured
WAYS = {
    "plain": PLAIN,
    "captured": FAST,
    "captured, bf16": BF16,
    "captured, tf32": Way(tf32=True),
    "eager": EAGER,
    "eager, bf16": BF16_EAGER,
    "plain, tf32": Way(plain=True, tf32=True),
    "plain, bf16": Way(plain=True, amp="bf16"),
}
SMALL_NETWORKS = {  # for a CPU: paper -> student, teacher
    "tfkd": ("shufflenet_v2", None),
    "edkd": ("resnet8", "resnet8"),
    "mtkd_rl": ("resnet8", None),
    "mlkd": (None, "resnet18"),
}


@functools.cache
def product_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of large square matrices; in float32, TensorFloat-32 or bfloat16."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    try:
        work = matrix_product(device, dtype)
        rates = []
        for _ in range(4):
            started = time.perf_counter()
            operations = work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            rates.append(operations / (time.perf_counter() - started))
        return statistics.median(rates[1:])
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


@functools.cache
def setting_of(paper: str, device: torch.device, miniature: bool) -> Setting:
    """A paper's published setting; its networks are built once."""
    student, teacher = SMALL_NETWORKS[paper] if miniature else (None, None)
    torch.manual_seed(0)
    args = argparse.Namespace(student=student, teacher=teacher)
    return SETTINGS[paper](args, torch.arange(2000) % 100, PLAIN.runtime(device))


class Endless:
    """As many batches per epoch as `steps` says, from one epoch of `batches` after the other."""

    def __init__(self, batches: Any, batch_size: int) -> None:
        self.batches, self.batch_size, self.steps = batches, batch_size, 1

    def __len__(self) -> int:
        return self.steps

    @property
    def samples(self) -> int:
        return self.steps * self.batch_size

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        whole = (self.batches.epoch(number) for number in itertools.count(epoch))
        return itertools.islice(itertools.chain.from_iterable(whole), self.steps)


class Stepper:
    """Trains copies of a setting's networks for a number of steps, and says how long that took."""

    def __init__(self, setting: Setting, way: Way, batch_size: int, place: Place) -> None:
        normalization, augmentation = setting.transforms_for
        options = {"augmentation": augmentation, "shuffle": True}
        small = DeviceLoader(noise(batch_size * 60), batch_size, normalization, place.device, **options)
        self.batches = Endless(setting.upscale(small) if setting.upscale else small, batch_size)
        self.trainer = make_trainer(
            setting.make_method(),
            lambda parameters: torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=0.9, weight_decay=5e-4),
            step_decay(LEARNING_RATE, (), 1.0),
            self.batches,
            way.runtime(place.device),
            place.scratch,
        )
        self.epoch = 1  # the first one is another method for MTKD-RL

    def __call__(self, steps: int) -> float:
        """Seconds; an epoch ends by reading its sums, so that all of it is over."""
        self.batches.steps = steps
        started = time.perf_counter()
        self.trainer.train_epoch(self.epoch, show_progress=False)
        self.epoch += 1
        return time.perf_counter() - started


def check_speed(paper: str, name: str, place: Place) -> Finding:
    """Steps per second of a paper's setting, its share of the rate of a matrix product, its peak of memory."""
    way = WAYS[name]
    if place.device.type == "cpu" and (way.tf32 or (way.graphs and not way.plain)):
        raise AbsentError("a CPU has neither CUDA graphs nor TensorFloat-32")
    torch.backends.cudnn.benchmark = True  # as runs have it
    setting = setting_of(paper, place.device, place.miniature)
    batch_size = 4 if place.miniature else setting.batch_size
    seconds, rounds = (0.0, 1) if place.miniature else (SECONDS, ROUNDS)
    take = Stepper(setting, way, batch_size, place)
    take(1 if place.miniature else WARM_UP_STEPS)
    count = 1 if place.miniature else 4
    steps = max(1, math.ceil(seconds / (take(count) / count)))
    rates = [steps / take(steps) for _ in range(rounds)]
    rate, execution = statistics.median(rates), take.trainer.execution()
    del take
    flops = flops_of_step(paper, place, batch_size)
    precision = "tf32" if way.tf32 else "bf16" if way.amp == "bf16" else "fp32"
    share = rate * flops / product_rate(place.device, precision)
    memory = execution["peak_memory_mib"]
    peak = f", peak {memory['allocated']:.0f} MiB" if memory else ""
    text = (
        f"{setting.title}, batch {batch_size}: {rate:.1f} steps/s ({min(rates):.1f} to {max(rates):.1f}), "
        f"{rate * batch_size:.0f} images/s, {rate * flops * 1e-12:.2f} TFLOP/s, {share:.3f} of the {precision} product"
        f"{peak}; {execution['layout']}, step {execution['step']}"
    )
    figures = {
        "setting": setting.title,
        "steps_per_second": rates,
        "batch_size": batch_size,
        "flops_per_step": flops,
        "product_flops_per_second": product_rate(place.device, precision),
        "share": share,
        "execution": execution,
    }
    return Finding(text, figures)


_FLOPS: dict[tuple[str, int], int] = {}


def flops_of_step(paper: str, place: Place, batch_size: int) -> int:
    """Of matrix products and convolutions, forward and backward, teachers too; counted once on the plain way."""
    if (paper, batch_size) not in _FLOPS:
        setting = setting_of(paper, place.device, place.miniature)
        torch.backends.cudnn.benchmark = False  # nobody waits for these kernels
        take = Stepper(setting, PLAIN, 2, place)
        _FLOPS[paper, batch_size] = flops_of(lambda: take(1)) * batch_size // 2
    return _FLOPS[paper, batch_size]


MAIN_WAYS = ("plain", "captured", "captured, bf16", "captured, tf32")


def _checks(ways: Iterable[str]) -> dict[str, Check]:
    return {
        f"speed / {paper}, {name}": Check(partial(check_speed, paper, name), alone=True, limit=60.0)
        for name in ways
        for paper in SETTINGS
    }


SPEED, MORE_SPEED = _checks(MAIN_WAYS), _checks(name for name in WAYS if name not in MAIN_WAYS)
