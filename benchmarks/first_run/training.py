"""Trainings of a few steps by the project's own loop, watched."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.first_run.methods import CLASSES, IMAGE_SIZE, Setting
from common.data import Augmentation, Batch, DeviceLoader, ImageArrays, Normalization
from common.training.checkpoints import CheckpointFiles
from common.training.engine import Loaders, Trainer
from common.training.method import Method, StepOutput
from common.training.runtime import Runtime, use_tf32
from common.training.schedules import Schedule, step_decay
from common.training.training_step import Optimization

NORMALIZATION, AUGMENTATION = Normalization((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)), Augmentation(padding=4, flip=True)


@dataclasses.dataclass(frozen=True)
class Way:
    """How the same steps are taken: flags of the scripts, and `double` for a reference in float64."""

    plain: bool = False
    graphs: bool = True
    amp: str = "off"
    tf32: bool = False
    double: bool = False

    def runtime(self, device: torch.device) -> Runtime:
        return Runtime(device=device, amp=self.amp, plain=self.plain, tf32=self.tf32, graphs=self.graphs)


PLAIN, EXACT, EAGER, FAST = Way(plain=True), Way(plain=True, double=True), Way(graphs=False), Way()
BF16_EAGER, BF16 = Way(amp="bf16", graphs=False), Way(amp="bf16")


@dataclasses.dataclass(frozen=True)
class Amount:
    """How much is trained.

    Attributes:
        batch: images per step.
        full: steps of that size an epoch; another of `odd` images follows.
        epochs: of `full` + 1 steps.
    """

    batch: int = 64
    full: int = 6
    odd: int = 24
    epochs: int = 3

    @property
    def images(self) -> int:
        return self.batch * self.full + self.odd


MINIATURE = Amount(batch=4, full=4, odd=3, epochs=2)


class Watched:
    """Batches in another precision, of whose steps the losses are noted.

    Args:
        batches: what is trained on.
        dtype: of the images.
    """

    def __init__(self, batches: Any, dtype: torch.dtype = torch.float32) -> None:
        self.batches, self.dtype = batches, dtype
        self.noted: list[dict[str, Tensor]] = []

    def watch(self, trainer: Trainer) -> None:
        """Note the losses of each of the trainer's steps from now on.

        They are what the step returns: a replay leaves them where the capture put them, and calls nothing that a hook
        could see.
        """

        def note(epoch: int, iteration: int, output: StepOutput) -> None:
            self.noted.append({name: loss.clone() for name, loss in output.losses.items()})

        trainer.on_step = note

    def __len__(self) -> int:
        return len(self.batches)

    @property
    def samples(self) -> int:
        return self.batches.samples

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        for batch in self.batches.epoch(epoch):
            yield batch._replace(images=batch.images.to(self.dtype))

    def losses(self) -> list[dict[str, float]]:
        """Of each step so far."""
        return [{name: loss.item() for name, loss in step.items()} for step in self.noted]


@dataclasses.dataclass
class Trace:
    """What a training has left behind.

    Attributes:
        losses: named, of each step.
        before, after: all trainable parameters in float64 on the host, before and after.
        execution: of `Trainer.execution`.
        replays: CUDA graphs that were launched.
        messages: of the loop.
    """

    losses: list[dict[str, float]]
    before: Tensor
    after: Tensor
    execution: dict[str, Any]
    replays: int
    messages: list[str]

    @property
    def captured(self) -> bool:
        return self.execution["step"] == "captured"


def noise(count: int, size: int = IMAGE_SIZE) -> ImageArrays:
    """Random images, the same each time."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return ImageArrays(pixels, np.arange(count, dtype=np.int64) % CLASSES)


def noise_batches(amount: Amount, device: torch.device, *, train: bool = True) -> DeviceLoader:
    """Augmented and shuffled for training, else as they are; the last batch is smaller."""
    options = {"augmentation": AUGMENTATION, "shuffle": True} if train else {}
    return DeviceLoader(noise(amount.images), amount.batch, NORMALIZATION, device, **options)


def parameters_of(method: Method) -> Tensor:
    """All trainable parameters, [number of scalars], in float64 on the host."""
    return torch.cat([p.detach().double().flatten().cpu() for p in method.trainable_parameters()])


@contextlib.contextmanager
def counted_replays() -> Iterator[Callable[[], int]]:
    """Counts how often a CUDA graph is launched."""
    replay, launches = torch.cuda.CUDAGraph.replay, []

    def counted(graph: torch.cuda.CUDAGraph) -> None:
        launches.append(1)
        replay(graph)

    with mock.patch.object(torch.cuda.CUDAGraph, "replay", counted):
        yield lambda: len(launches)


@contextlib.contextmanager
def kernels_by_trial() -> Iterator[None]:
    """cuDNN chooses kernels by trying them, as in runs: two trainings may choose others."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def make_trainer(
    method: Method,
    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    schedule: Schedule,
    train: Any,
    runtime: Runtime,
    scratch: Path,
    *,
    test: Any = None,
    epochs: int = 1000,
    accumulation_steps: int = 1,
    layout: torch.memory_format | None = None,
) -> Trainer:
    """A trainer whose checkpoints go to `scratch`; evaluated on `test`, by default on what is trained on. Batches that
    are `Watched` note its losses."""
    use_tf32(runtime.tf32)
    files = CheckpointFiles(scratch / "last", scratch / "best")
    trainer = Trainer(
        method,
        Optimization(make_optimizer, schedule, epochs, accumulation_steps),
        Loaders(train, train if test is None else test),
        runtime,
        files,
        settings={},
        layout=layout,
    )
    if isinstance(train, Watched):
        train.watch(trainer)
    return trainer


def train_epochs(trainer: Trainer, epochs: Iterable[int]) -> None:
    """Train, seeding each epoch as a run does."""
    for epoch in epochs:
        torch.manual_seed(epoch)
        trainer.train_epoch(epoch, show_progress=False)


def train(setting: Setting, way: Way, amount: Amount, device: torch.device, scratch: Path) -> Trace:
    """Train a setting from the same weights, on the same batches, with a learning rate that changes at every step
    of the first epoch and drops after the second."""
    torch.manual_seed(0)
    batches = noise_batches(amount, device)
    method = setting.build(batches.targets.cpu())
    dtype = torch.float32
    if way.double:
        method, dtype = method.double(), torch.float64
    watched = Watched(batches, dtype)
    schedule = step_decay(setting.lr, [2], 0.1, warmup_epochs=1)
    runtime = way.runtime(device)
    trainer = make_trainer(method, lambda p: setting.make_optimizer(p, setting.lr), schedule, watched, runtime, scratch)
    before = parameters_of(trainer.method)
    with counted_replays() as replays:
        train_epochs(trainer, range(amount.epochs))
        after = parameters_of(trainer.method)
        execution, launched = trainer.execution(), replays()
    return Trace(watched.losses(), before, after, execution, launched, list(trainer.messages))
