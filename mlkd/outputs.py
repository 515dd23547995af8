"""What a run leaves behind: networks and history under their published names, everything else in its own directory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from common.training.checkpoints import CheckpointFiles, save_checkpoint
from common.training.engine import Trainer
from common.training.runs import RunFiles, write_json

State = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class NetworkFiles:
    """Paths of the run `name`, below `models/` in the working directory.

    Attributes:
        name: `--name`.
        export: makes of a network's weights those that are published.
    """

    name: str
    export: Callable[[State], State] = dict

    @property
    def directory(self) -> Path:
        """`run.json`, `metrics.jsonl`, the log, TensorBoard's events, and what `--resume` reads."""
        return Path.cwd() / "models" / self.name

    @property
    def network(self) -> Path:
        """The exported weights of the epoch with the lowest validation loss."""
        return self.directory.with_name(f"{self.name}.pth")

    @property
    def multi_exit_checkpoint(self) -> Path:
        """The weights of the same epoch before they are exported."""
        return self.directory / "best.pth"

    @property
    def history(self) -> Path:
        return self.directory.with_name(f"{self.name}_history.json")

    def snapshot(self, epochs: int) -> Path:
        """The exported weights after so many epochs."""
        return self.directory.with_name(f"{self.name}_e_{epochs}.pth")

    @property
    def run_files(self) -> RunFiles:
        """All of them."""
        models = self.directory.parent
        snapshots = [file for file in models.glob("*.pth") if file.name.startswith(f"{self.name}_e_")]
        return RunFiles(
            self.directory,
            CheckpointFiles(last=self.directory / "last.pth.tar", best=None),
            events=self.directory / "tensorboard",
            log=self.directory / "train.log",
            others=(self.network, self.history, *snapshots),
        )

    def save_networks(self, trainer: Trainer, is_best: bool, every: int) -> None:
        """Write the networks that are due after an epoch."""
        state, done = trainer.method.student.state_dict(), len(trainer.state.history)
        if is_best:
            save_checkpoint(state, self.multi_exit_checkpoint)
            save_checkpoint(self.export(state), self.network)
        if done % every == 0:
            save_checkpoint(self.export(state), self.snapshot(done))

    def save_history(self, lines: list[dict]) -> None:
        """Write the history under its published keys: losses are means over batches, accuracies fractions."""
        columns = {
            "sd_loss": [line["train/sd_loss"] for line in lines],
            "valid_loss": [line["validation/loss"] for line in lines],
            "valid_acc": [line["validation/accuracy"] / 100 for line in lines],
        }
        write_json(self.history, {"distil": columns})
