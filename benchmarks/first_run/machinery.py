"""What the fast path promises whatever the method: replays see the host's changes, failures leave nothing broken."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.first_run.methods import CLASSES, METHODS, Setting, tfkd_sgd
from benchmarks.first_run.steps import (
    ROUNDING_FACTOR,
    UPDATE_FLOOR,
    allowed_distance,
    amount_at,
    distance,
    require_within,
)
from benchmarks.first_run.training import (
    EAGER,
    EXACT,
    FAST,
    PLAIN,
    Amount,
    Trace,
    Watched,
    Way,
    counted_replays,
    kernels_by_trial,
    make_trainer,
    noise_batches,
    parameters_of,
    train,
    train_epochs,
)
from benchmarks.first_run.verdicts import Check, CheckError, Finding, Place, device_works
from common.data import Batch
from common.errors import TrainingError, UserError, first_line
from common.models import create_model
from common.run_record import Data, Limits, RunRecord, read_record
from common.training.checkpoints import CheckpointFiles, load_checkpoint
from common.training.cuda_graphs import CLEANS_UP, CudaGraphs, torch_version
from common.training.engine import Trainer
from common.training.evaluation import Evaluation
from common.training.method import Method, StepOutput
from common.training.runs import RunDirectory, RunFiles
from common.training.runtime import Runtime, use_tf32
from common.training.schedules import step_decay


class Small(Method):
    """Cross-entropy of a resnet8: what the checks here train."""

    graph_capturable = True
    epoch_dependent_until = 0

    def __init__(self) -> None:
        super().__init__()
        self.student: nn.Module = create_model("resnet8", CLASSES)

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        return StepOutput(logits, {"cross_entropy": F.cross_entropy(logits, targets)})


def small_setting(kind: type[Method] = Small, lr: float = 1e-4) -> Setting:
    return Setting(lambda targets: kind(), lr, tfkd_sgd)


def require(holds: bool, message: str) -> None:
    """Raises:
    CheckError: with the message, unless it holds.
    """
    if not holds:
        raise CheckError(message)


def require_captured(trainer: Trainer) -> None:
    step = trainer.execution()["step"]
    require(step == "captured", f"steps were not captured: {step}; {'; '.join(trainer.messages)}")


# --------------------------------------------------------------------------------------------- what replays have to see


class Snapshots(Watched):
    """Batches that note the trained parameters after each step, too."""

    def __init__(self, batches: Any, method: Method) -> None:
        super().__init__(batches)
        self.method, self.parameters = method, [parameters_of(method)]

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        for batch in super().epoch(epoch):
            yield batch
            self.parameters.append(parameters_of(self.method))


def check_learning_rate(place: Place) -> Finding:
    """A learning rate that changes at every step is what each step uses: 0 leaves every bit, others move weights."""
    place.require_gpu()
    amount = amount_at(place)
    torch.manual_seed(0)
    method = Small()
    lrs = (1e-3, 0.0, 2e-3)
    train_batches = Snapshots(noise_batches(amount, place.device), method)
    trainer = make_trainer(
        method,
        lambda parameters: torch.optim.SGD(parameters, lr=1.0),
        lambda epoch, iteration, iterations: lrs[iteration % 3],
        train_batches,
        FAST.runtime(place.device),
        place.scratch,
    )
    train_epochs(trainer, range(3))
    require_captured(trainer)
    moved = [(b - a).norm().item() for a, b in itertools.pairwise(train_batches.parameters)]
    zero = [m for i, m in enumerate(moved) if lrs[i % (amount.full + 1) % 3] == 0]
    some = [m for i, m in enumerate(moved) if lrs[i % (amount.full + 1) % 3] > 0]
    require(max(zero) == 0, f"a learning rate of 0 moved the weights by {max(zero):.1e}")
    require(min(some) > 0, "a learning rate above 0 did not move the weights")
    return Finding(f"{len(zero)} steps at learning rate 0 left every bit, {len(some)} others did not")


class SameBatch:
    """One batch again and again."""

    def __init__(self, batch: Batch, count: int) -> None:
        self.batch, self.count, self.samples = batch, count, count * len(batch.targets)

    def __len__(self) -> int:
        return self.count

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        for _ in range(self.count):
            yield self.batch


class Dropping(Small):
    """Drops half of the pixels."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        return super().forward(F.dropout(images, 0.5), targets, indices, epoch)


def check_dropout(place: Place) -> Finding:
    """Every replay drops something else, and what it drops is what steps that are not captured drop."""
    place.require_gpu()
    seen = {}
    for way in (FAST, EAGER):
        torch.manual_seed(0)
        method = Dropping()
        batch = next(noise_batches(amount_at(place), place.device).epoch(0))
        watched = Watched(SameBatch(batch, 10))
        runtime = way.runtime(place.device)
        schedule = step_decay(0.0, (), 1.0)  # the weights stay: nothing but the dropout differs
        trainer = make_trainer(method, lambda p: torch.optim.SGD(p, lr=1.0), schedule, watched, runtime, place.scratch)
        train_epochs(trainer, range(2))
        if way == FAST:
            require_captured(trainer)
        seen[way] = [loss["cross_entropy"] for loss in watched.losses()]
    distinct = len(set(seen[FAST]))
    require(distinct == 20, f"20 steps on one batch saw only {distinct} different masks")
    apart = max(abs(a - b) / b for a, b in zip(seen[FAST], seen[EAGER], strict=True))
    require(apart < 1e-5, f"replays drop other pixels than eager steps of the same seed: losses {apart:.1e} apart")
    return Finding(f"20 different masks in 20 steps; losses {apart:.1e} from those of eager steps")


class EachEpochAnew(Small):
    """A loss that depends on the epoch."""

    epoch_dependent_until = math.inf

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        step = super().forward(images, targets, indices, epoch)
        return StepOutput(step.logits, {name: loss * (1 + epoch) for name, loss in step.losses.items()})


def check_recapture(place: Place) -> Finding:
    """Many captures, without an evaluation that shares their memory: each epoch is replayed, and memory stays."""
    place.require_gpu()
    amount = amount_at(place)
    traces: dict[Way, Trace] = {}
    for way in (FAST, EAGER):
        longer = Amount(amount.batch, amount.full, amount.odd, epochs=8)
        traces[way] = train(small_setting(EachEpochAnew), way, longer, place.device, place.scratch)
    found = distance(traces[FAST], traces[EAGER])
    require(traces[FAST].captured, traces[FAST].execution["step"])
    require(traces[FAST].replays >= 8 * (amount.full - 1) - 3, f"only {traces[FAST].replays} replays in 8 epochs")
    require(found.loss < 1e-4, f"captured from eager: {found}")
    return Finding(f"8 epochs, each captured again: {traces[FAST].replays} replays; captured from eager: {found}")


def check_recapture_memory(place: Place) -> Finding:
    """Captures replace each other in memory."""
    place.require_gpu()
    torch.manual_seed(0)
    method = EachEpochAnew()
    batches = noise_batches(amount_at(place), place.device)
    runtime = FAST.runtime(place.device)
    schedule = step_decay(1e-4, (), 1.0)
    trainer = make_trainer(method, lambda p: tfkd_sgd(p, 1e-4), schedule, batches, runtime, place.scratch)
    reserved = []
    for epoch in range(10):
        train_epochs(trainer, [epoch])
        reserved.append(torch.cuda.memory_reserved(place.device) / 2**20)
    require_captured(trainer)
    require(
        reserved[-1] <= 1.1 * reserved[2] + 8,
        f"memory grows with captures: {reserved[2]:.0f} to {reserved[-1]:.0f} MiB",
    )
    return Finding(f"{reserved[2]:.0f} MiB reserved after 3 captures, {reserved[-1]:.0f} after 10")


# ----------------------------------------------------------------------------------------------------------- evaluation


def check_evaluation(place: Place) -> Finding:
    """Captured evaluation gives what eager evaluation gives, odd last batch included, also after the weights moved."""
    place.require_gpu()
    batches = noise_batches(amount_at(place), place.device, train=False)
    worst = 0.0
    for amp in ("off", "bf16"):
        runtime = Way(amp=amp).runtime(place.device)
        network = create_model("resnet8", CLASSES).to(place.device)
        captured = Evaluation(network, batches, runtime, graphs=CudaGraphs(place.device))
        eager = Evaluation(network, batches, Way(amp=amp, graphs=False).runtime(place.device))
        with counted_replays() as replays:
            for _ in range(3):
                ours, theirs = captured(), eager()
                worst = max([worst, *(abs(ours[k] - theirs[k]) / max(1e-9, abs(theirs[k])) for k in theirs)])
                with torch.no_grad():
                    for parameter in network.parameters():
                        parameter.add_(0.1 * torch.randn_like(parameter))
            require(replays() > 0, "evaluation was not replayed")
    require(worst < 1e-6, f"captured from eager: {worst:.1e}, allowed 1e-6")
    return Finding(f"float32 and bfloat16, weights changed twice: {worst:.1e} apart at most")


class WaitsInEvaluation(nn.Module):
    """A network that asks the device when it is evaluated."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits = self.network(images)
        return logits if self.training or logits.sum().item() < math.inf else -logits


class WaitingEvaluation(Small):
    def __init__(self) -> None:
        super().__init__()
        self.student = WaitsInEvaluation(self.student)


def check_evaluation_that_cannot(place: Place) -> Finding:
    """An evaluation that cannot be captured is said, and is done without, or ends the run with one line."""
    place.require_gpu()
    torch.manual_seed(0)
    method = WaitingEvaluation()
    trainer = _trainer(method, place, FAST, epochs=2)
    try:
        trainer.fit(None)
    except (TrainingError, UserError) as error:
        return _ended_by_a_capture(error)
    said = trainer.execution()["evaluation"]
    require(said.startswith("eager"), f"said to be {said}")
    require(device_works(place.device), "the device does not answer afterwards")
    return Finding(f"{said}")


# ------------------------------------------------------------------------------------------------- failures of captures


class Waiting(Small):
    """Asks the device for a number."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        step = super().forward(images, targets, indices, epoch)
        step.losses["cross_entropy"].item()
        return step


class FromTheHost(Small):
    """Sends a number to the device."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        return super().forward(images * torch.tensor([1.0], device=images.device), targets, indices, epoch)


class Masking(Small):
    """Chooses samples by a mask, whose count the host has to know."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        chosen = targets >= 0
        return StepOutput(logits, {"cross_entropy": F.cross_entropy(logits[chosen], targets[chosen])})


def _ended_by_a_capture(error: Exception) -> Finding:
    """A run may end by a failed capture where PyTorch cannot clean up after one, and says what to do in one line."""
    message = str(error).strip()
    require("\n" not in message, f"more than one line: {message}")
    require("cannot be captured" in message and "--no-graphs" in message, f"not by its capture: {message}")
    require(torch_version() < CLEANS_UP, f"PyTorch {torch.__version__} cleans up, and yet the run ends: {message}")
    return Finding(f"ends the run: {message}", note=True)


def check_failed_capture(kind: type[Method], place: Place) -> Finding:
    """A method that declares itself capturable and is not: the run goes on as it is, or ends with one line."""
    place.require_gpu()
    amount = amount_at(place)
    try:
        ours = train(small_setting(kind), FAST, amount, place.device, place.scratch)
    except (TrainingError, UserError) as error:
        return _ended_by_a_capture(error)
    plain, exact = (train(small_setting(), way, amount, place.device, place.scratch) for way in (PLAIN, EXACT))
    found, allowed = distance(ours, plain), allowed_distance(distance(plain, exact))
    require_within(found, allowed, "after the failed capture, from plain")
    said = ours.execution["step"]
    if said == "captured":
        return Finding(f"was captured all the same; from plain: {found}", note=True)
    require(bool(ours.messages), "nothing was said of it")
    current, default = torch.cuda.current_stream(place.device), torch.cuda.default_stream(place.device)
    require(current == default, "the capture stream was left current")
    torch.cuda.synchronize(place.device)
    torch.cuda.empty_cache()
    torch.randn(1000, device=place.device).sum().item()
    healthy = train(small_setting(), FAST, amount, place.device, place.scratch)
    require(healthy.captured, f"a healthy method is not captured afterwards: {healthy.execution['step']}")
    require_within(distance(healthy, plain), allowed, "a healthy method afterwards, from plain")
    return Finding(f"{said}; from plain: {found}; a healthy method is captured afterwards")


class Exploding(Small):
    """Not finite from the second epoch on."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        step = super().forward(images, targets, indices, epoch)
        bad = (indices == 7).any().float() * (math.inf if epoch == 1 else 0)
        return StepOutput(step.logits, {"cross_entropy": step.losses["cross_entropy"] + bad.nan_to_num(0.0, math.inf)})

    epoch_dependent_until = math.inf


def check_not_finite(place: Place) -> Finding:
    """A loss that is not finite in a replayed step stops the run, with the step named."""
    torch.manual_seed(0)
    trainer = _trainer(Exploding(), place, FAST, epochs=3)
    try:
        trainer.fit(None)
    except TrainingError as error:
        require("epoch 2" in str(error), f"another epoch is named: {error}")
        return Finding(first_line(error)[:100])
    raise CheckError("training went on with a loss that is not finite")


def check_out_of_memory(place: Place) -> Finding:
    """No memory for a batch: one line that says what to lower."""
    place.require_gpu()
    total = torch.cuda.get_device_properties(place.device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, 2**30 / total), place.device)
    amount = Amount(batch=8192, full=2, odd=2, epochs=1)
    try:
        train(METHODS["tfkd baseline"], FAST, amount, place.device, place.scratch)
    except (TrainingError, UserError) as error:
        require("\n" not in str(error).strip(), "more than one line")
        require("out of memory" in str(error) or "--amp bf16" in str(error), f"another error: {error}")
        return Finding(first_line(error))
    except torch.cuda.OutOfMemoryError as error:
        raise CheckError(f"a traceback instead of one line: {first_line(error)}") from error
    raise CheckError("a GiB was enough for 8192 images")


# ---------------------------------------------------------------------------------------------------------- checkpoints


def _trainer(method: Method, place: Place, way: Way, epochs: int, lr: float = 1e-4, **options: Any) -> Trainer:
    """A trainer of a few epochs of random images, with an evaluation."""
    amount = amount_at(place)
    return make_trainer(
        method,
        lambda parameters: tfkd_sgd(parameters, lr),
        step_decay(lr, [2], 0.1, warmup_epochs=1),
        noise_batches(amount, place.device),
        way.runtime(place.device),
        place.scratch,
        test=noise_batches(amount, place.device, train=False),
        epochs=epochs,
        **options,
    )


def _run(place: Path, runtime: Runtime) -> RunDirectory:
    nothing = CheckpointFiles(place / "last", None)
    budget = Limits(epochs=1, published_epochs=1, published_batch_size=None, batches=None)
    data = Data(content="noise", fingerprint="none")
    record = RunRecord("none", "none", "", "", 0, 0, settings={}, data=data, budget=budget)
    files = RunFiles(place, nothing, events=place / "events", log=place / "log")
    return RunDirectory(files, record, runtime.settings(), before=read_record(place))


def _small(_: int = 0) -> Small:
    torch.manual_seed(0)
    return Small()


def _fitted(place: Place, name: str, stop_in: int | None = None, way: Way = FAST, **options: Any) -> Trainer:
    """Train four epochs into the directory `name`, going on from what is there; interrupted in epoch `stop_in`."""
    there = dataclasses.replace(place, scratch=place.scratch / name)
    there.scratch.mkdir(exist_ok=True)
    trainer = _trainer(_small(), there, way, epochs=4, **options)
    trainer.resume()

    def after_epoch(*_: Any) -> None:
        if trainer.state.epochs_done == stop_in:
            raise KeyboardInterrupt

    with contextlib.suppress(KeyboardInterrupt):
        trainer.fit(_run(there.scratch, trainer.runtime), after_epoch)
    return trainer


def _difference(ours: Trainer, theirs: Trainer) -> float:
    """Of the trained parameters, relative."""
    a, b = parameters_of(ours.method), parameters_of(theirs.method)
    return ((a - b).norm() / b.norm()).item()


def check_resume(place: Place) -> Finding:
    """A run that is interrupted in its third epoch and resumed ends as one that was not.

    To the bit, but where atomic additions keep even two uninterrupted runs apart: then as near as those are, times the
    factor of rounding, and within a thousandth of what training changes.
    """
    whole, again = _fitted(place, "whole"), _fitted(place, "again")
    _fitted(place, "broken", stop_in=2)
    resumed = _fitted(place, "broken")
    require(resumed.state.epochs_done == 4, f"{resumed.state.epochs_done} epochs done")
    apart, own = _difference(resumed, whole), _difference(again, whole)
    require(
        apart <= max(1e-6, ROUNDING_FACTOR * own),
        f"{apart:.1e} from the uninterrupted run; two uninterrupted ones are {own:.1e} apart",
    )
    return Finding("to the bit" if apart == 0 else f"{apart:.1e} apart, as two uninterrupted runs are ({own:.1e})")


def check_restored_momentum(place: Place) -> Finding:
    """Momentum of a contiguous checkpoint, taken up by a channels-last run, moves weights as in the plain run."""
    lr = 1e-2  # at which rounding is a small share of what a step changes
    plain = _fitted(place, "plain", stop_in=1, way=PLAIN, lr=lr)
    content = load_checkpoint(plain.state.files.last, place.device)
    there = dataclasses.replace(place, scratch=place.scratch / "fast")
    there.scratch.mkdir()
    fast = _trainer(_small(), there, FAST, epochs=4, lr=lr, layout=torch.channels_last)
    other = _trainer(_small(), there, PLAIN, epochs=4, lr=lr)
    exact = _trainer(_small().double(), there, EXACT, epochs=4, lr=lr)
    precise = Watched(exact.loaders.train, torch.float64)
    exact.loaders = dataclasses.replace(exact.loaders, train=precise)
    for trainer in (fast, other, exact):
        trainer.method.student.load_state_dict(content["state_dict"])
        trainer.state.restore_optimizer(
            load_checkpoint(plain.state.files.last, place.device)
        )  # each takes the tensors over
    strange = [
        tuple(p.shape)
        for p, state in fast.step.optimizer.state.items()
        for value in state.values()
        if isinstance(value, Tensor) and value.shape == p.shape and value.stride() != p.stride()
    ]
    require(not strange, f"state in another layout than its parameter: {strange[:3]}")
    start = parameters_of(other.method)
    for trainer in (fast, other, exact):
        train_epochs(trainer, [1])
    changed = (parameters_of(exact.method) - start).norm()
    apart, own = (
        ((parameters_of(a.method) - parameters_of(b.method)).norm() / changed).item()
        for a, b in ((fast, other), (other, exact))
    )
    # momentum in a wrong order moves the weights by as much as the right one
    require(
        apart <= UPDATE_FLOOR, f"update {apart:.1e} from plain, allowed {UPDATE_FLOOR}; plain from float64 {own:.1e}"
    )
    return Finding(f"update {apart:.1e} from plain's (allowed {UPDATE_FLOOR}); {fast.execution()['step']}")


def check_resume_across_ways(place: Place) -> Finding:
    """A run begun with --plain and resumed without it goes on, or says in one line why not."""
    _fitted(place, "run", stop_in=2, way=PLAIN)
    try:
        resumed = _fitted(place, "run")
    except UserError as error:
        return Finding(f"refused: {first_line(error)}")
    whole = _fitted(place, "whole", way=PLAIN)
    apart = _difference(resumed, whole)
    require(apart < 1e-5, f"{apart:.1e} from the run that was plain throughout, allowed 1e-5")
    return Finding(f"goes on, {apart:.1e} from the run that was plain throughout")


# ------------------------------------------------------------------------------------------------------------ precision


def check_tf32(place: Place) -> Finding:
    """Convolutions are float32 without --tf32 and TensorFloat-32 with it; matrix products are float32 with both."""
    place.require_gpu()
    random = torch.Generator().manual_seed(0)
    x, w = (torch.randn(shape, generator=random).to(place.device) for shape in ((64, 64, 16, 16), (64, 64, 3, 3)))
    a, b = (torch.randn(512, 512, generator=random).to(place.device) for _ in range(2))
    found = {}
    for flag in (False, True):
        use_tf32(flag)
        pairs = ((F.conv2d(x, w), F.conv2d(x.double(), w.double())), (a @ b, a.double() @ b.double()))
        found[flag] = [((ours - exact).norm() / exact.norm()).item() for ours, exact in pairs]
    use_tf32(False)
    (conv, product), (conv_tf32, product_tf32) = found[False], found[True]
    text = f"convolution {conv:.1e}, with the flag {conv_tf32:.1e}; product {product:.1e}, with it {product_tf32:.1e}"
    # float32 rounds to 2^-24, TensorFloat-32 to 2^-11
    require(max(conv, product, product_tf32) < 1e-5, f"not float32: {text}")
    if torch.cuda.get_device_capability(place.device) >= (8, 0):
        require(1e-5 < conv_tf32 < 1e-2, f"not TensorFloat-32: {text}")
    return Finding(f"from float64: {text}")


def check_tf32_training(place: Place) -> Finding:
    """Training with --tf32 stays near the float32 one."""
    place.require_gpu()
    amount = amount_at(place)
    tf32, plain = (train(small_setting(), w, amount, place.device, place.scratch) for w in (Way(tf32=True), PLAIN))
    found = distance(tf32, plain)
    require(tf32.captured, tf32.execution["step"])
    require(tf32.execution["precision"] == "tf32", f"recorded as {tf32.execution['precision']}")
    require(0 < found.loss < 1e-2, f"from float32: {found}; allowed a loss of 1e-2, and not zero")
    return Finding(f"from float32: {found}")


def check_fp16(place: Place) -> Finding:
    """Loss scaling, not captured, stays near float32."""
    place.require_gpu()
    amount = amount_at(place)
    ours, plain = (train(small_setting(), w, amount, place.device, place.scratch) for w in (Way(amp="fp16"), PLAIN))
    found = distance(ours, plain)
    require(found.loss < 2e-2, f"from float32: {found}; allowed a loss of 2e-2")
    return Finding(f"{ours.execution['step']}; from float32: {found}")


def check_accumulation(place: Place) -> Finding:
    """Gradients of two batches are summed: fast as plain."""
    amount = amount_at(place)
    final = []
    for way in (FAST, PLAIN, EXACT):
        torch.manual_seed(0)
        method = Small().double() if way.double else Small()
        dtype = torch.float64 if way.double else torch.float32
        watched = Watched(noise_batches(amount, place.device), dtype)
        schedule = step_decay(1e-4, (), 1.0)
        runtime = way.runtime(place.device)
        trainer = make_trainer(
            method, lambda p: tfkd_sgd(p, 1e-4), schedule, watched, runtime, place.scratch, accumulation_steps=2
        )
        before = parameters_of(trainer.method)
        train_epochs(trainer, range(2))
        final.append(Trace(watched.losses(), before, parameters_of(trainer.method), trainer.execution(), 0, []))
    fast, plain, exact = final
    found, allowed = distance(fast, plain), allowed_distance(distance(plain, exact))
    require_within(found, allowed, "fast from plain")
    return Finding(f"{fast.execution['step']}; fast from plain: {found} (allowed {allowed})")


def check_autotuned(place: Place) -> Finding:
    """With cuDNN choosing kernels by trying them, as runs do: captured, and as near to plain as without."""
    place.require_gpu()
    amount, setting = amount_at(place), METHODS["tfkd baseline"]
    with kernels_by_trial():
        fast, plain, exact = (train(setting, w, amount, place.device, place.scratch) for w in (FAST, PLAIN, EXACT))
    require(fast.captured, fast.execution["step"])
    found, allowed = distance(fast, plain), allowed_distance(distance(plain, exact))
    require_within(found, allowed, "fast from plain")
    peak = (fast.execution["peak_memory_mib"] or {}).get("allocated", 0)
    require(peak > 0, "no peak of memory is recorded")
    return Finding(f"fast from plain: {found} (allowed {allowed}); peak {peak:.0f} MiB")


def check_layouts(place: Place) -> Finding:
    """Both memory layouts, whatever the table says, give the same steps."""
    amount = amount_at(place)
    traces = []
    for layout in (torch.channels_last, torch.contiguous_format):
        torch.manual_seed(0)
        method = METHODS["tfkd baseline"].build(torch.arange(amount.images) % CLASSES)
        watched = Watched(noise_batches(amount, place.device))
        schedule, runtime = step_decay(1e-5, (), 1.0), FAST.runtime(place.device)
        trainer = make_trainer(
            method, lambda p: tfkd_sgd(p, 1e-5), schedule, watched, runtime, place.scratch, layout=layout
        )
        before = parameters_of(trainer.method)
        train_epochs(trainer, range(2))
        traces.append(Trace(watched.losses(), before, parameters_of(trainer.method), trainer.execution(), 0, []))
    plain, exact = (train(METHODS["tfkd baseline"], w, amount, place.device, place.scratch) for w in (PLAIN, EXACT))
    found, allowed = distance(*traces), allowed_distance(distance(plain, exact))
    require_within(found, allowed, "channels-last from contiguous")
    return Finding(f"channels-last from contiguous: {found} (allowed {allowed})")


def check_pinned_copies(place: Place) -> Finding:
    """A thread that pins memory and copies during captures, as loaders of large images do, disturbs nothing."""
    place.require_gpu()
    over = threading.Event()

    def copy() -> None:
        stream = torch.cuda.Stream(place.device)
        while not over.is_set():
            pinned = torch.ones(1 << 16).pin_memory()
            with torch.cuda.stream(stream):
                pinned.to(place.device, non_blocking=True)
            stream.synchronize()

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    try:
        trace = train(small_setting(EachEpochAnew), FAST, amount_at(place), place.device, place.scratch)
    finally:
        over.set()
        thread.join()
    require(trace.captured, trace.execution["step"])
    return Finding(f"captured again in each of the epochs meanwhile, {trace.replays} replays")


def check_compile(place: Place) -> Finding:
    """--compile on this device: the same losses."""
    place.require_gpu()
    amount = Amount(amount_at(place).batch, 4, 8, epochs=1)
    torch.manual_seed(0)
    method = Small()
    batches = noise_batches(amount, place.device)
    runtime = dataclasses.replace(FAST.runtime(place.device), compile=True)
    schedule = step_decay(1e-4, (), 1.0)
    trainer = make_trainer(method, lambda p: tfkd_sgd(p, 1e-4), schedule, batches, runtime, place.scratch)
    torch.manual_seed(0)
    means = trainer.train_epoch(0, show_progress=False)
    reference = _mean_loss_of_an_epoch(amount, place)
    apart = abs(means["loss"] - reference) / reference
    require(apart < 1e-4, f"mean loss of an epoch {apart:.1e} from the eager one, allowed 1e-4")
    return Finding(f"{trainer.execution()['step']}; mean loss of an epoch {apart:.1e} from the eager one")


def _mean_loss_of_an_epoch(amount: Amount, place: Place) -> float:
    torch.manual_seed(0)
    method, schedule = Small(), step_decay(1e-4, (), 1.0)
    batches, runtime = noise_batches(amount, place.device), PLAIN.runtime(place.device)
    trainer = make_trainer(method, lambda p: tfkd_sgd(p, 1e-4), schedule, batches, runtime, place.scratch)
    torch.manual_seed(0)
    return trainer.train_epoch(0, show_progress=False)["loss"]


MACHINERY: dict[str, Callable[[Place], Finding]] = {
    "learning rate": check_learning_rate,
    "evaluation": check_evaluation,
    "dropout": check_dropout,
    "resume": check_resume,
    "restored momentum": check_restored_momentum,
    "resume, --plain before": check_resume_across_ways,
    "tf32 flag": check_tf32,
    "tf32 training": check_tf32_training,
    "kernels by trial": check_autotuned,
    "capture again": check_recapture,
    "capture again, memory": check_recapture_memory,
    "loss not finite": check_not_finite,
    "accumulation": check_accumulation,
    "fp16": check_fp16,
    "layouts agree": check_layouts,
    "pinned copies meanwhile": check_pinned_copies,
    "compile": check_compile,
}
# each leaves its process in a state that others should not inherit
FAILURES: dict[str, Callable[[Place], Finding]] = {
    "failed capture, reads the device": partial(check_failed_capture, Waiting),
    "failed capture, number from the host": partial(check_failed_capture, FromTheHost),
    "failed capture, boolean mask": partial(check_failed_capture, Masking),
    "failed capture, evaluation": check_evaluation_that_cannot,
    "out of memory": check_out_of_memory,
}
MACHINERY_CHECKS = {
    f"loop / {name}": Check(function, limit=150.0 if name == "compile" else 90.0)
    for name, function in MACHINERY.items()
}
FAILURE_CHECKS = {f"loop / {name}": Check(function) for name, function in FAILURES.items()}
