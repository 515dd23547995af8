"""Steps of the project's own training loop, watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from common.training.engine import CheckpointFiles, Trainer
from common.training.method import Method
from common.training.runtime import Runtime
from common.training.schedules import Schedule


def watched_steps(
    method: Method,
    make_optimizer: Callable,
    schedule: Schedule,
    batches: Any,
    epochs: Iterable[int],
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> list[tuple[float, dict[str, float]]]:
    """Train the given epochs (from 0) on the CPU; returns rate and losses of each step, before its update."""
    trainer = Trainer(
        method,
        make_optimizer,
        schedule,
        epochs=1000,
        train=batches,
        test=batches,
        runtime=Runtime(torch.device("cpu")),
        files=CheckpointFiles(scratch / "last", scratch / "best"),
        settings={},
    )
    seen = []
    train_step = trainer._train_step

    def watch(*args):
        step = train_step(*args)
        seen.append((trainer.optimizer.param_groups[0]["lr"], {k: v.item() for k, v in step.losses.items()}))
        return step

    monkeypatch.setattr(trainer, "_train_step", watch)
    for epoch in epochs:
        trainer.train_epoch(epoch, show_progress=False)
    return seen
