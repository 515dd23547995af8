"""What a run of this framework leaves behind, under the published names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.training.checkpoints import CheckpointFiles, save_checkpoint
from common.training.engine import Trainer
from common.training.runs import RunDirectory, RunFiles
from edkd.engine.node import Node
from edkd.engine.wandb_log import WandbLog
from edkd.engine.worklog import epoch_figures, write_worklog


class Outputs:
    """The files of one run, and its W&B run.

    Args:
        cfg: configuration.
        opts: `KEY VALUE ...` of the command line, which tag the W&B run.
        directory: of the run.
    """

    def __init__(self, cfg: Node, opts: Sequence[str], directory: Path) -> None:
        self.cfg, self.opts, self.directory = cfg, opts, directory
        self.files = RunFiles(
            directory, checkpoint_files(cfg, directory), events=directory / "train.events", log=directory / "train.log"
        )
        self._wandb: WandbLog | None = None

    def start(self, run: RunDirectory) -> None:
        cfg, tags = self.cfg, [*self.cfg.EXPERIMENT.TAG.split(","), *self.opts]
        key = f"{run.path.resolve()} {run.record.started}"
        self._wandb = WandbLog(
            cfg.LOG.WANDB, cfg.EXPERIMENT.PROJECT, run.path.name, tags, key, cfg.as_dict(), run.path, run.log
        )

    def save_student(self, trainer: Trainer, run: RunDirectory, test: dict[str, float], is_best: bool) -> None:
        """The student's weights alone."""
        weights = {"model": trainer.method.student.state_dict()}
        save_checkpoint(weights, run.path / "student_latest")
        if is_best:
            save_checkpoint(weights, run.path / "student_best")

    def report(self, trainer: Trainer, run: RunDirectory) -> None:
        """The worklog, and W&B's figures of an epoch."""
        write_worklog(run.path / "worklog.txt", trainer.state.history, self.cfg.SOLVER.EPOCHS)
        if self._wandb is not None:
            self._wandb.log(epoch_figures(trainer.state.history[-1]), trainer.state.history[-1]["epoch"])

    def finish(self, trainer: Trainer, run: RunDirectory | None) -> dict:
        if self._wandb is not None:
            self._wandb.finish()
        return {}


def checkpoint_files(cfg: Node, directory: Path) -> CheckpointFiles:
    """The published names, and what is kept every `LOG.SAVE_CHECKPOINT_FREQ` epochs."""
    every = cfg.LOG.SAVE_CHECKPOINT_FREQ
    moments = range(every, cfg.SOLVER.EPOCHS + 1, every)
    kept = {directory / f"{name}_{n}": n for n in moments for name in ("epoch", "student")}
    return CheckpointFiles(
        last=directory / "latest",
        best=directory / "best",
        snapshots=kept,
        weights_key="model",
        optimizer_key="optimizer",
        accuracy_key="best_acc",
    )
