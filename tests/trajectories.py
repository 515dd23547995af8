"""Steps of the project's own training loop, watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.training.checkpoints import CheckpointFiles
from common.training.engine import Loaders, Trainer
from common.training.fast_path import capture_blocker, use_fused
from common.training.method import Method
from common.training.runtime import Runtime
from common.training.schedules import Schedule
from common.training.training_step import Optimization
from tests.operators import OperatorLog

WAYS = ["plain", "fast", "captured"]  # of taking the same steps


def watched_steps(
    method: Method,
    make_optimizer: Callable,
    schedule: Schedule,
    batches: Any,
    epochs: Iterable[int],
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str = "fast",
) -> list[tuple[float, dict[str, float]]]:
    """Train the given epochs (from 0) on the CPU; returns learning rate and losses of each step, before its update.

    "captured" is what a GPU does by default: fused, and replayed from the second step on. "compile" needs
    a C++ compiler.
    """
    trainer = Trainer(
        method,
        Optimization(make_optimizer, schedule, epochs=1000),
        Loaders(batches, batches),
        Runtime(torch.device("cpu"), plain=way == "plain", compile=way == "compile"),
        CheckpointFiles(scratch / "last", scratch / "best"),
        settings={},
    )
    graphs = OperatorLog()
    captured = way == "captured" and capture_blocker(method, trainer.step.optimizer, trainer.runtime, 1) is None
    if captured:
        use_fused(trainer.step.optimizer)
        trainer.step.capture(graphs, warm_up=1)
        # figures in float64 show the rounding of the learning rate, which a GPU keeps
        trainer.step.device_lr = trainer.step.device_lr.double()
    seen = []

    def watch(epoch, iteration, output):
        lr = trainer.step.optimizer.param_groups[0]["lr"]
        seen.append((lr, {name: loss.item() for name, loss in output.losses.items()}))

    trainer.on_step = watch
    for epoch in epochs:
        trainer.train_epoch(epoch, show_progress=False)
    assert trainer.messages == []  # nothing fell back to another way
    assert (graphs.replays > 0) == captured
    return seen
