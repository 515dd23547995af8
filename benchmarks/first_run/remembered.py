"""Teachers' logits that are computed ahead of an epoch or read from a file, in captured steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from benchmarks.first_run.methods import METHODS, Setting
from benchmarks.first_run.steps import ROUNDING_FACTOR, Distance, distance, require_within
from benchmarks.first_run.training import (
    FAST,
    Amount,
    Trace,
    Watched,
    make_trainer,
    noise,
    noise_batches,
    parameters_of,
    train_epochs,
)
from benchmarks.first_run.verdicts import Check, CheckError, Finding, Place
from common.data import Dataset
from common.training.remember_teachers import remember_teachers
from common.training.schedules import step_decay

# A pass wants an epoch of at least one batch of its own: 1024 images on a GPU, 64 on a CPU.
AMOUNT, MINIATURE = Amount(full=20, epochs=2), Amount(batch=16, full=4, odd=3, epochs=2)
# Where the bits of large batches differ, by some roundings of 2^-24, steps go on from there as from any rounding.
ROUNDED = Distance(5e-4, 8e-2)
REMEMBERED = ("edkd KD", "edkd EDKD", "tfkd kd")


@dataclasses.dataclass
class Remembered:
    """A training, and how its teacher's logits came about."""

    trace: Trace
    from_file: int
    computed_ahead: int
    messages: str

    @property
    def how(self) -> str:
        if not self.from_file + self.computed_ahead:
            return "in each step"
        return f"{self.computed_ahead} ahead, {self.from_file} from the file"


@contextmanager
def kernels_by_trial() -> Iterator[None]:
    """cuDNN chooses kernels by trying them, as in runs: two trainings may choose others."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def remembered(setting: Setting, teacher_cache: str, amount: Amount, place: Place) -> Remembered:
    """Train a setting, with the file of logits that is below the scratch directory.

    Args:
        setting: a method with a frozen teacher.
        teacher_cache: the flag `--teacher-cache`: off, auto or on.
        amount: of images.
        place: of the check.
    """
    torch.manual_seed(0)
    batches = noise_batches(amount, place.device)
    method = setting.build(batches.targets.cpu())
    runtime = dataclasses.replace(FAST.runtime(place.device), teacher_cache=teacher_cache)
    trainer = make_trainer(
        method,
        lambda parameters: setting.make_optimizer(parameters, setting.lr),
        step_decay(setting.lr, (), 1.0),
        batches,
        runtime,
        place.scratch,
    )
    watched = Watched(batches)  # notes losses; what is trained on stays a loader whose views are known
    watched.watch(trainer)
    images = noise(amount.images)
    classes = tuple(map(str, range(100)))
    remember_teachers(trainer, Dataset("noise", images, images, classes, "", "", root=place.scratch))
    before = parameters_of(trainer.method)
    train_epochs(trainer, range(amount.epochs))
    after, execution = parameters_of(trainer.method), trainer.execution()
    count = execution.get("teacher_logits") or {}
    trace = Trace(watched.losses(), before, after, execution, 0, list(trainer.messages))
    return Remembered(trace, count.get("from_cache", 0), count.get("computed_ahead", 0), "; ".join(trainer.messages))


def check_remembered(name: str, place: Place) -> Finding:
    """Off, as runs decide by themselves, asked for with an empty and with a filled file: the same steps.

    To the bit, or as near as two trainings without are, where the logits have the same bits; as near as rounding is
    where somebody asked for logits of other bits.
    """
    amount = MINIATURE if place.miniature else AMOUNT
    with kernels_by_trial():
        off, again, auto, asked, filled = (
            remembered(METHODS[name], cache, amount, place) for cache in ("off", "off", "auto", "on", "on")
        )
    if place.device.type == "cuda":
        eager = [run.trace.execution["step"] for run in (off, auto, asked, filled) if not run.trace.captured]
        if eager:
            raise CheckError(f"not captured: {'; '.join(eager)}")
    if not asked.computed_ahead + asked.from_file:
        raise CheckError(f"asked for, but not remembered: {asked.messages}")
    own, found = distance(again.trace, off.trace), distance(auto.trace, off.trace)
    require_within(found, Distance(ROUNDING_FACTOR * own.loss, ROUNDING_FACTOR * own.update), "auto from off")
    ahead, read = distance(asked.trace, off.trace), distance(filled.trace, off.trace)
    for what, one in (("asked for", ahead), ("from a file", read)):
        require_within(one, ROUNDED, f"{what}, from off")
    text = (
        f"two without: {own}; auto ({auto.how}): {found}; on ({asked.how}): {ahead}; on again ({filled.how}): {read}"
        f" | {auto.messages or 'no message'} | {filled.messages}"
    )
    return Finding(text, {"auto": auto.how, "on": asked.how, "on_again": filled.how})


REMEMBERED_CHECKS = {f"loop / remembered logits, {name}": Check(partial(check_remembered, name)) for name in REMEMBERED}
