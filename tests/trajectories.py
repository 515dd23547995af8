"""Steps of the project's own training loop, watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.training.engine import CheckpointFiles, Trainer
from common.training.fast_path import capture_blocker, use_fused
from common.training.method import Method
from common.training.runtime import Runtime
from common.training.schedules import Schedule
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
    """Train the given epochs (from 0) on the CPU; returns rate and losses of each step, before its update.

    "captured" is what a GPU does by default: fused, and replayed from the second step on. "compile" needs
    a C++ compiler.
    """
    trainer = Trainer(
        method,
        make_optimizer,
        schedule,
        epochs=1000,
        train=batches,
        test=batches,
        runtime=Runtime(torch.device("cpu"), plain=way == "plain", compile=way == "compile"),
        files=CheckpointFiles(scratch / "last", scratch / "best"),
        settings={},
    )
    graphs = OperatorLog()
    captured = way == "captured" and capture_blocker(method, trainer.optimizer, trainer.runtime, 1) is None
    if captured:
        use_fused(trainer.optimizer)
        trainer.capture_steps(graphs)
        trainer._graphed_step.warm_up = 1
        trainer._rate = trainer._rate.double()  # figures in float64 show the rounding of the rate, which a GPU keeps
    seen = []
    train_step = trainer._train_step

    def watch(*args):
        step = train_step(*args)
        seen.append((trainer.optimizer.param_groups[0]["lr"], {k: v.item() for k, v in step.losses.items()}))
        return step

    monkeypatch.setattr(trainer, "_train_step", watch)
    for epoch in epochs:
        trainer.train_epoch(epoch, show_progress=False)
    assert trainer.messages == []  # nothing fell back to another way
    assert (graphs.replays > 0) == captured
    return seen
