"""Teachers' logits that are computed ahead of an epoch or read from a file, in captured steps."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch

from benchmarks.first_run.methods import METHODS, Setting
from benchmarks.first_run.steps import ROUNDING_FACTOR, Distance, distance, require_within
from benchmarks.first_run.training import (
    FAST,
    Amount,
    Trace,
    Watched,
    kernels_by_trial,
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
IN_EACH_STEP = "in each step"


def how(trace: Trace) -> str:
    """How a training's logits of its teacher came about."""
    count = trace.execution.get("teacher_logits") or {}
    ahead, read = count.get("computed_ahead", 0), count.get("from_cache", 0)
    return f"{ahead} ahead, {read} from the file" if ahead + read else IN_EACH_STEP


def remembered(setting: Setting, teacher_cache: str, amount: Amount, place: Place) -> Trace:
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
    return Trace(watched.losses(), before, after, execution, 0, list(trainer.messages))


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
        eager = [run.execution["step"] for run in (off, auto, asked, filled) if not run.captured]
        if eager:
            raise CheckError(f"not captured: {'; '.join(eager)}")
    if how(asked) == IN_EACH_STEP:
        raise CheckError(f"asked for, but not remembered: {'; '.join(asked.messages)}")
    own, found = distance(again, off), distance(auto, off)
    require_within(found, Distance(ROUNDING_FACTOR * own.loss, ROUNDING_FACTOR * own.update), "auto from off")
    ahead, read = distance(asked, off), distance(filled, off)
    for what, one in (("asked for", ahead), ("from a file", read)):
        require_within(one, ROUNDED, f"{what}, from off")
    text = (
        f"two without: {own}; auto ({how(auto)}): {found}; on ({how(asked)}): {ahead}; on again ({how(filled)}): {read}"
        f" | {'; '.join(auto.messages) or 'no message'} | {'; '.join(filled.messages)}"
    )
    return Finding(text, {"auto": how(auto), "on": how(asked), "on_again": how(filled)})


REMEMBERED_CHECKS = {f"loop / remembered logits, {name}": Check(partial(check_remembered, name)) for name in REMEMBERED}
