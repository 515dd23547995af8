"""Each method: captured or why not, and the fast way against the plain one."""

from __future__ import annotations

import dataclasses
from functools import partial

import torch
from torch import Tensor

from benchmarks.first_run.methods import CLASSES, METHODS
from benchmarks.first_run.training import BF16, BF16_EAGER, EXACT, FAST, MINIATURE, PLAIN, Amount, Trace, train
from benchmarks.first_run.verdicts import Check, CheckError, Finding, Place
from common.training.fast_path import capture_blocker

# Two float32 trainings part by rounding, which the steps amplify alike: as far as the plain one is from float64, the
# fast one may be too, times what summing in another order, or Winograd's convolutions, can make of it. The floors are
# for rectifiers that rounding switches on one side only: seen on a CPU, a single one moves the gradients of the layers
# before it by half a hundredth, and over some steps of four images the update by 7e-2; the loss stays within 1e-5.
ROUNDING_FACTOR = 32
LOSS_FLOOR = 5e-5
UPDATE_FLOOR = 8e-2
# Same kernels on the same numbers: captured or not, bfloat16 steps part only where sums of atomic additions do, by
# some roundings of 2^-9.
BF16_TOLERANCE = 2**-6


@dataclasses.dataclass(frozen=True)
class Distance:
    """How far two trainings are from each other.

    Attributes:
        loss: largest relative difference of a step's loss.
        update: difference of the trained parameters as a share of what training changed.
    """

    loss: float
    update: float

    def __str__(self) -> str:
        return f"loss {self.loss:.1e}, update {self.update:.1e}"


def distance(ours: Trace, theirs: Trace) -> Distance:
    """Of two trainings from the same weights; not a number counts as infinitely far."""
    a, b = (torch.tensor([sum(step.values()) for step in t.losses], dtype=torch.float64) for t in (ours, theirs))
    if len(a) != len(b):
        raise CheckError(f"{len(a)} steps against {len(b)}")
    changed = (theirs.after - theirs.before).norm().clamp_min(1e-300)
    return Distance(_finite(((a - b) / b).abs().max()), _finite((ours.after - theirs.after).norm() / changed))


def _finite(value: Tensor) -> float:
    return value.item() if value.isfinite() else float("inf")


def allowed_distance(plain_from_exact: Distance, loss_tolerance: float = 0.0) -> Distance:
    """Between the fast way and the plain one, by how far the plain one is from float64."""
    return Distance(
        max(LOSS_FLOOR, ROUNDING_FACTOR * plain_from_exact.loss, loss_tolerance),
        max(UPDATE_FLOOR, ROUNDING_FACTOR * plain_from_exact.update, loss_tolerance),
    )


def require_within(found: Distance, allowed: Distance, what: str) -> None:
    """Raises:
    CheckError: farther than allowed.
    """
    if found.loss > allowed.loss or found.update > allowed.update:
        raise CheckError(f"{what}: {found} apart; allowed: {allowed}")


def amount_at(place: Place) -> Amount:
    return MINIATURE if place.miniature else Amount()


def capture_of(trace: Trace, declared: bool, amount: Amount) -> str:
    """How the steps ran, in words.

    Raises:
        CheckError: a method that declares itself capturable was not captured on a GPU, or hardly replayed.
    """
    step = trace.execution["step"]
    if step != "captured":
        if declared and "no GPU" not in step:
            raise CheckError(f"declared capturable, but {step}; {'; '.join(trace.messages)}")
        return step
    expected = amount.epochs * amount.full - 3  # all of the full size but the three that warm up
    # a method that depends on the epoch runs one step per epoch before it is captured again
    if trace.replays < expected - amount.epochs:
        raise CheckError(f"captured, but replayed {trace.replays} times in {expected} steps")
    return f"captured, {trace.replays} replays"


def check_steps(name: str, place: Place) -> Finding:
    """A method's steps, fast against plain, in float32 without TF32, an odd last batch and a changing learning rate."""
    setting, amount = METHODS[name], amount_at(place)
    ways = {"fast": FAST, "plain": PLAIN, "exact": EXACT}
    traces = {key: train(setting, way, amount, place.device, place.scratch) for key, way in ways.items()}
    declared = is_capturable(name)
    how = capture_of(traces["fast"], declared, amount)
    found = distance(traces["fast"], traces["plain"])
    reference = distance(traces["plain"], traces["exact"])
    allowed = allowed_distance(reference, setting.loss_tolerance)
    require_within(found, allowed, "fast from plain")
    figures = {
        "step": traces["fast"].execution["step"],
        "replays": traces["fast"].replays,
        "fast_from_plain": dataclasses.asdict(found),
        "plain_from_float64": dataclasses.asdict(reference),
        "allowed": dataclasses.asdict(allowed),
    }
    return Finding(f"{how}; fast from plain: {found} (allowed {allowed})", figures, note=not declared)


def check_bf16(name: str, place: Place) -> Finding:
    """A method's steps in bfloat16, captured against not captured."""
    setting, amount = METHODS[name], amount_at(place)
    captured, eager = (train(setting, way, amount, place.device, place.scratch) for way in (BF16, BF16_EAGER))
    how = capture_of(captured, is_capturable(name), amount)
    found = distance(captured, eager)
    tolerance = max(BF16_TOLERANCE, setting.loss_tolerance)
    require_within(Distance(found.loss, 0.0), Distance(tolerance, 0.0), "captured from eager")
    if not all(torch.tensor(list(step.values())).isfinite().all() for step in captured.losses):
        raise CheckError("a loss is not finite")
    figures = {"step": captured.execution["step"], "captured_from_eager": dataclasses.asdict(found)}
    return Finding(f"{how}; captured from eager: {found} (allowed loss {tolerance:.1e})", figures)


def is_capturable(name: str) -> bool:
    """Whether the loop has no reason not to capture the method on a GPU."""
    setting, gpu = METHODS[name], FAST.runtime(torch.device("cuda"))
    method = setting.build(torch.arange(64) % CLASSES)
    optimizer = setting.make_optimizer(method.trainable_parameters(), setting.lr)
    return capture_blocker(method, optimizer, gpu, accumulation_steps=1) is None


STEPS = {f"steps / {name}": Check(partial(check_steps, name)) for name in METHODS}
BF16_STEPS = {f"bf16 / {name}": Check(partial(check_bf16, name)) for name in METHODS}
