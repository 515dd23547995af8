"""What a run leaves behind: networks and history under their published names, everything else in its own directory."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from common.errors import UserError
from common.run_record import NAME, read_record
from common.training.checkpoints import CheckpointFiles, save_checkpoint
from common.training.engine import Trainer
from common.training.runs import RunFiles, write_json

State = Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class NetworkFiles:
    """Paths of the run `name`, below `models/` in the working directory.

    Attributes:
        name: `--name`.
        export: makes of a network's weights those that are published; None where they are the same.
    """

    name: str
    export: Callable[[State], State] | None = None

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
        return self.network if self.export is None else self.directory / "best.pth"

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
        snapshots = [file for file in models.glob("*.pth") if self._is_snapshot(file)]
        return RunFiles(
            self.directory,
            CheckpointFiles(last=self.directory / "last.pth.tar", best=None),
            events=self.directory / "tensorboard",
            log=self.directory / "train.log",
            others=(self.network, self.history, *snapshots),
        )

    def _is_snapshot(self, file: Path) -> bool:
        """Whether a file is a snapshot of this run by its name, and not the network of a run that is called so."""
        return _parts(file.stem)[0] == self.name and not (file.with_suffix("") / NAME).is_file()

    def require_own(self, epochs: int, every: int) -> None:
        """Check that no snapshot of one run goes by the name of another's network.

        Args:
            epochs: of this run.
            every: so many of them there is a snapshot.

        Raises:
            UserError: a snapshot of this run would be another run's network, or its network another's snapshot.
        """
        for other in sorted(record.parent for record in self.directory.parent.glob(f"*/{NAME}")):
            run, number = _parts(other.name)
            if run == self.name and number <= epochs and number % every == 0:
                raise UserError(
                    f"--name {self.name}: a snapshot would take the place of {self.snapshot(number)}, the network of "
                    f"the run {other.name}; give another name or --save-frequency"
                )
        run, number = _parts(self.name)
        if not number or (self.directory / NAME).is_file():
            return
        other = read_record(self.directory.with_name(run))
        if other is not None and (self.network.is_file() or not other.done):
            raise UserError(
                f"--name {self.name}: {self.network} is the name of a snapshot of the run {run}; give another name"
            )

    def save_networks(self, trainer: Trainer, is_best: bool, every: int) -> None:
        """Write the networks that are due after an epoch."""
        state, done = trainer.method.student.state_dict(), len(trainer.state.history)
        exported = state if self.export is None else self.export(state)
        if is_best:
            if self.export is not None:
                save_checkpoint(state, self.multi_exit_checkpoint)
            save_checkpoint(exported, self.network)
        if done % every == 0:
            save_checkpoint(exported, self.snapshot(done))

    def save_history(self, lines: list[dict]) -> None:
        """Write the history under its published keys: losses are means over batches, accuracies fractions."""
        columns = {
            "sd_loss": [line["train/sd_loss"] for line in lines],
            "valid_loss": [line["validation/loss"] for line in lines],
            "valid_acc": [line["validation/accuracy"] / 100 for line in lines],
        }
        write_json(self.history, {"distil": columns})


def _parts(stem: str) -> tuple[str, int]:
    """Name of the run and number of epochs in the name of a snapshot; no name and 0 where it is none."""
    found = re.fullmatch(r"(.+)_e_([1-9][0-9]{0,17})", stem)
    return (found[1], int(found[2])) if found else ("", 0)
