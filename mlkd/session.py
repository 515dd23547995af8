"""From flags to a finished run, the same for students and teachers: train, choose by validation, measure on test."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from common.data import Dataset
from common.training.checkpoints import load_weights
from common.training.engine import Trainer
from common.training.method import Method
from common.training.runs import RunDirectory, is_done, read_json
from common.training.runtime import Runtime
from common.training.schedules import Schedule
from mlkd.data import PartBatches, dataset_name
from mlkd.exits import Accuracies
from mlkd.run_files import RunFiles
from mlkd.teachers import PAPER, Teacher

# Flags without which two runs are not the same, whatever is trained; a run is resumed with the same ones only
FLAGS_THAT_MATTER = (
    *("image_size", "mixup_alpha", "cutmix_alpha", "epochs", "batch_size", "seed", "amp"),
    *("limit_train_batches", "limit_eval_batches"),
)


class Session:
    """One run of one of the scripts.

    Args:
        args: flags.
        data: data set.
        batches: of its three parts.
        method: what is trained.
        schedule, weight_decay: of AdamW.
        files: of the run.
        settings: what else makes two runs the same.
        runtime: where.
        accumulation_steps: batches an update.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        data: Dataset,
        batches: dict[str, PartBatches],
        method: Method,
        schedule: Schedule,
        weight_decay: float,
        files: RunFiles,
        settings: dict[str, Any],
        runtime: Runtime,
        accumulation_steps: int = 1,
    ) -> None:
        self.args, self.data, self.files, self.runtime = args, data, files, runtime
        self.test = batches["test"]
        self.accumulation_steps = accumulation_steps
        settings = {
            "dataset": dataset_name(args),
            "data": data.fingerprint,
            "method": type(method).__name__,
            **settings,
            **{key: getattr(args, key) for key in FLAGS_THAT_MATTER},
            "global_batch_size": args.batch_size * runtime.world_size,
        }
        self.trainer = Trainer(
            method,
            lambda parameters: torch.optim.AdamW(parameters, weight_decay=weight_decay),
            schedule,
            args.epochs,
            batches["train"],
            None,  # the test set is for the end
            runtime,
            files.checkpoints,
            settings,
            validation=batches["validation"],
            accumulation_steps=accumulation_steps,
        )

    def run(
        self,
        experiment: str,
        published_epochs: int,
        remarks: list[str],
        measure: Callable[[nn.Module], Accuracies],
        after_epoch: Callable[[], None] = lambda: None,
        report: Callable[[Accuracies, Accuracies, RunDirectory], dict[str, Any]] = lambda *_: {},
        teachers: Sequence[Teacher] = (),
    ) -> None:
        """Train to the end, or from where `--resume` finds the run.

        Args:
            experiment: what the tables know this run by.
            published_epochs: of the paper.
            remarks: first lines of the log.
            measure: test accuracies of a network; called on all processes.
            after_epoch: called on the main process.
            report: makes of the test accuracies of the chosen and of the last network more fields of the record;
                called on the main process.
            teachers: of the student; the record says where they come from.
        """
        trainer, files, args = self.trainer, self.files, self.args
        resumed = args.resume and trainer.resume()
        if resumed and is_done(files.directory):
            if self.runtime.is_main:
                done = read_json(files.directory / "run.json")["accuracy"]
                print(f"{files.directory} is finished: {_test_accuracies(done)}")
            return
        budget = {"epochs": args.epochs, "published_epochs": published_epochs, "batches": args.limit_train_batches}
        run = None
        if self.runtime.is_main:
            run = RunDirectory(
                files.directory,
                {
                    "paper": PAPER,
                    "experiment": experiment,
                    "settings": trainer.settings,
                    "runtime": self.runtime.settings(),
                    "data": self.data.describe(),
                    "budget": budget,
                    **({"teacher": [teacher.origin() for teacher in teachers]} if teachers else {}),
                },
                events=files.directory / "tensorboard",
                log_file=files.directory / "train.log",
                history=trainer.history,
            )
            if resumed:
                remarks = [*remarks, f"resuming after epoch {trainer.epochs_done}/{args.epochs}"]
            for remark in (*remarks, self._batches_in_words(), f"{experiment} on {self.data.content}"):
                run.log(remark)

        def save(figures: dict[str, float], is_best: bool) -> None:
            files.save_networks(trainer, is_best, args.save_frequency)
            after_epoch()

        def measured() -> dict[str, Any]:
            network, chosen = trainer.method.student, trainer.accuracies.best_epoch
            last = best = measure(network)
            if chosen != args.epochs - 1:
                self._load_chosen(network)
                best = measure(network)
            if run is None:
                return {}
            accuracy = {"last": last["final"], "best": best["final"], "best_epoch": chosen}
            run.log(_test_accuracies(accuracy))
            return {"accuracy": {**accuracy, "selected_by_validation": best["final"]}, **report(best, last, run)}

        trainer.fit(run, save, measured)

    def _batches_in_words(self) -> str:
        each, processes, steps = self.args.batch_size, self.runtime.world_size, self.accumulation_steps
        text = f"global batch {each * processes}: {each} images in each of {processes} process{'es' * (processes > 1)}"
        return text + (f", gradients of {steps} batches summed before an update" if steps > 1 else "")

    def _load_chosen(self, network: nn.Module) -> None:
        """Take the weights of the epoch with the lowest validation loss, from the main process's file."""
        if self.runtime.is_main:
            load_weights(network, self.files.whole_network, self.args.name)
        if self.runtime.distributed:
            for value in network.state_dict().values():
                dist.broadcast(value, 0)


def _test_accuracies(accuracy: dict[str, Any]) -> str:
    """A line for people, from the `accuracy` of a run's record."""
    return f"test accuracy: last epoch {accuracy['last']:.2f}, chosen by validation {accuracy['best']:.2f}"
