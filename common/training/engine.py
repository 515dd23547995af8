"""The training loop. It asks nothing about the paper: a `Method` gives the losses, the loop does the rest."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from common.data import BatchLoader
from common.errors import TrainingError
from common.training.batch_norm import explained_single_values
from common.training.checkpoints import CheckpointFiles
from common.training.data_parallel import average_running_statistics, on_any_rank
from common.training.evaluation import Evaluation
from common.training.fast_path import apply_fast_path, refuse_old_names
from common.training.gpu_memory import explained_out_of_memory, peak_memory, reset_peak_memory
from common.training.layouts import layout_for, layout_name
from common.training.method import Method, StepOutput
from common.training.progress import TimeLeft, progress
from common.training.run_state import LENGTH, RunState
from common.training.runs import RunDirectory
from common.training.runtime import Runtime, reduce_sum
from common.training.saved_state import nonfinite_names
from common.training.selection import Accuracies, ValidationFigures
from common.training.training_step import Optimization, TrainingStep


@dataclasses.dataclass(frozen=True)
class Loaders:
    """Batches of each split.

    Attributes:
        train: what is trained on.
        test: without it the validation loss chooses the best epoch.
        validation: of what is split off the training set, where anything is.

    Raises:
        ValueError: there is nothing to evaluate on.
    """

    train: BatchLoader
    test: BatchLoader | None = None
    validation: BatchLoader | None = None

    def __post_init__(self) -> None:
        if self.test is None and self.validation is None:
            raise ValueError("training needs a test or a validation split: there is nothing to evaluate on")


class Trainer:
    """Trains a method.

    Args:
        method: losses and student, not yet on the device.
        optimization: optimizer, schedule, number of epochs.
        loaders: batches of each split.
        runtime: device, precision, ranks.
        files: where checkpoints go.
        settings: everything that makes two runs the same; a run is resumed only with the settings that it began with.
        layout: of images and weights in memory (default: `layout_for` the method).
        length: those of the settings that say how long the run is (`RunState`).

    Attributes:
        step: what is done with each batch.
        state: how far the run has come.
        time_left: how long it still takes.
        on_step: called after each step with its position and output, which the next step may overwrite.
        messages: on how this run computes, for its log.
    """

    def __init__(
        self,
        method: Method,
        optimization: Optimization,
        loaders: Loaders,
        runtime: Runtime,
        files: CheckpointFiles,
        settings: dict[str, Any],
        layout: torch.memory_format | None = None,
        length: Sequence[str] = LENGTH,
    ) -> None:
        refuse_old_names(method)
        self.layout = layout or layout_for(method, runtime)
        if not runtime.plain:
            apply_fast_path(method, self.layout, runtime)
        self.method = method.to(runtime.device)
        self.loaders, self.runtime, self.epochs = loaders, runtime, optimization.epochs
        self.time_left = TimeLeft(self.epochs)
        # people's own batches need not have a message
        self.messages: list[str] = [message for message in [getattr(loaders.train, "message", None)] if message]
        report = self.messages.append
        self.step = TrainingStep(self.method, optimization, runtime, self.layout, report)
        self._evaluations = {
            name: Evaluation(
                method.evaluated, batches, runtime, method.evaluation_loss, self.step.graphs, self.layout, report
            )
            for name in ("test", "validation")
            if (batches := getattr(loaders, name)) is not None
        }
        selection = Accuracies() if "test" in self._evaluations else ValidationFigures()
        settings = {**settings, **runtime.compared_settings()}
        self.state = RunState(self.step, files, settings, selection, self._columns(), length)
        self.on_step: Callable[[int, int, StepOutput], None] | None = None
        reset_peak_memory(runtime.device)

    def _columns(self) -> list[str]:
        """What each line of the history has, besides the method's own losses and metrics."""
        evaluated = [f"{split}/{metric}" for split in self._evaluations for metric in ("accuracy", "top5", "loss")]
        return ["epoch", "learning_rate", "train/loss", "train/accuracy", *evaluated, "images_per_second"]

    def execution(self) -> dict[str, Any]:
        """How this run really computes, for its record.

        Returns:
            `layout`; `precision`; `step` and `evaluation`, each "captured", "warming up", or "eager: " and the reason;
            `peak_memory_mib`, which is None on a CPU; and, where they are computed ahead, of `teacher_logits` how many
            came from where.
        """
        teacher_pass = self.step.teacher_pass
        return {
            "layout": layout_name(self.layout),
            "precision": self.runtime.precision,
            "step": self.step.status,
            "evaluation": next(iter(self._evaluations.values())).execution,
            "peak_memory_mib": peak_memory(self.runtime.device),
            **({} if teacher_pass is None else {"teacher_logits": teacher_pass.summary()}),
        }

    def resume(self) -> bool:
        """Go back to the state of the last checkpoint, if there is one; says whether there was.

        Raises:
            UserError: a damaged checkpoint, or one of a run with other settings.
        """
        messages = self.state.resume(len(self.loaders.train))
        self.messages += messages or []
        return messages is not None

    def fit(
        self,
        run: RunDirectory | None,
        after_epoch: Callable[[], None] | None = None,
        after_save: Callable[[dict[str, float], bool], None] | None = None,
        after_training: Callable[[], dict[str, Any]] | None = None,
    ) -> Accuracies | ValidationFigures:
        """Train to the end, or as far as `Runtime.stop_after` says.

        Args:
            run: receives records; None on all but the main process.
            after_epoch: called on the main process before the checkpoint of an epoch is written.
            after_save: called on the main process once it is there, and first of all where training goes on from it,
                with the test metrics (of the validation split where there is no test split) and whether they are the
                best so far.
            after_training: called on all ranks after the last epoch; gives more fields of the run's record.

        Raises:
            TrainingError: a loss that is not finite, or more memory than the GPU has; checkpoints stay as they were
                after the last good epoch.
        """
        status, problem, more = "failed", None, {}
        try:
            self._log_messages(run)
            with explained_out_of_memory("training", graphs=False), explained_single_values():
                if run is not None and self.state.epochs_done:
                    self._save_copies(after_save)  # a run may have been killed before it did
                end = min(self.epochs, self.runtime.stop_after or self.epochs)
                for epoch in range(self.state.epochs_done, end):
                    self._run_epoch(epoch, run, after_epoch, after_save)
                if end < self.epochs:
                    status = "stopped"
                    return self.state.selection
                if after_training is not None:
                    more = after_training()
            status = "done"
        except KeyboardInterrupt as signal:
            status = "stopped"
            signal.args = ("the same command with --resume continues from the last finished epoch",)
            raise
        except Exception as error:
            problem = str(error)
            raise
        finally:
            if run is not None:
                run.close(status, error=problem, **{**self._results(), **more})
        return self.state.selection

    def _log_messages(self, run: RunDirectory | None) -> None:
        if run is not None:
            for message in self.messages:
                run.log(message)
        self.messages.clear()

    def _results(self) -> dict[str, Any]:
        """Figures for `run.json`, as far as training has come."""
        return {
            **self.state.selection.results(),
            "epochs_done": self.state.epochs_done,
            "seconds": round(self.state.seconds, 2),
            "execution": self.execution(),
        }

    def _run_epoch(
        self, epoch: int, run: RunDirectory | None, after_epoch: Callable | None, after_save: Callable | None
    ) -> None:
        """Train one epoch, evaluate, record, save."""
        # dropout, too, depends on the position alone
        seeds = np.random.SeedSequence([self.runtime.seed, epoch, self.runtime.rank])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        started = time.perf_counter()
        train = self.train_epoch(epoch, show_progress=run is not None)
        images_per_second = self.loaders.train.samples / (time.perf_counter() - started)
        average_running_statistics(self.method.student, self.runtime)
        metrics = {"train": train, **{name: evaluate() for name, evaluate in self._evaluations.items()}}
        iterations = len(self.loaders.train)
        line = {
            "epoch": epoch,
            "learning_rate": self.step.optimization.schedule(epoch, iterations - 1, iterations),
            **{f"{part}/{name}": value for part, of_part in metrics.items() for name, value in of_part.items()},
            "images_per_second": images_per_second,
        }
        self._require_finite(line)
        state = self.state
        state.selection.update(line)
        seconds = time.perf_counter() - started
        state.seconds += seconds
        self.time_left.update(seconds)
        state.history.append(line)
        self._log_messages(run)
        if run is None:
            return
        run.log_epoch(line)
        if after_epoch is not None:
            after_epoch()
        state.save(epoch + 1)
        self._save_copies(after_save)
        part = state.selection.monitored
        monitored = metrics[part]
        run.update(**self._results())
        run.log(
            f"epoch {epoch + 1}/{self.epochs}: lr {line['learning_rate']:.4g}, "
            f"train loss {train['loss']:.4f} accuracy {train['accuracy']:.2f}, "
            f"{part} loss {monitored['loss']:.4f} accuracy {monitored['accuracy']:.2f} "
            f"(best {state.selection.best:.2f}), {images_per_second:.0f} images/s{self.time_left.after(epoch + 1)}"
        )

    def _save_copies(self, after_save: Callable | None) -> None:
        """Write what follows from the checkpoint of the last finished epoch."""
        state = self.state
        state.save_copies()
        if after_save is not None:
            part = f"{state.selection.monitored}/"
            line = state.history[-1]
            monitored = {name.removeprefix(part): value for name, value in line.items() if name.startswith(part)}
            after_save(monitored, state.last_is_best)

    def _require_finite(self, line: dict[str, Any]) -> None:
        """Let nothing that is not finite come into a record or a checkpoint; ranks agree.

        Raises:
            TrainingError: a figure of the epoch, or the state after it, is not finite where it was so at the beginning.
        """
        bad = [f"the {name.replace('/', ' ')}" for name in sorted(nonfinite_names(line))]
        bad += [f"'{name}'" for name in sorted(self.state.nonfinite_names())]
        if on_any_rank(bool(bad), self.runtime):
            raise TrainingError(
                f"{bad[0] if bad else 'the state of another process'} is not finite after epoch {line['epoch'] + 1}: "
                "training stops; the checkpoints hold the last good epoch (a lower learning rate may help)"
            )

    def train_epoch(self, epoch: int, show_progress: bool) -> dict[str, float]:
        """One pass over the training batches, without waiting for the device until its end."""
        self.method.train()
        self.step.begin_epoch(epoch)
        teacher_pass = self.step.teacher_pass
        if teacher_pass and not teacher_pass.begin_epoch(epoch, show_progress):
            self.step.invalidate()
        iterations = len(self.loaders.train)
        title = f"epoch {epoch + 1}/{self.epochs}{self.time_left.after(epoch)}"
        batches = progress(self.loaders.train.epoch(epoch), iterations, title, show=show_progress)
        with self.step.surroundings():
            for iteration, batch in enumerate(batches):
                output = self.step(batch, iteration, iterations)
                if self.on_step is not None:
                    self.on_step(epoch, iteration, output)
                if self.runtime.device.type == "cpu" and not self.runtime.distributed:
                    self.step.sums.check(epoch)  # costs nothing where there is nobody to wait for
        self.step.sums.check(epoch)
        if teacher_pass:
            self.messages += teacher_pass.take_messages()
        return {**self.step.sums.compute(), **self._epoch_metrics(epoch)}

    def _epoch_metrics(self, epoch: int) -> dict[str, float]:
        """The method's own metrics of an epoch, averaged over ranks."""
        metrics = self.method.epoch_metrics()
        if not metrics:
            return {}
        values = reduce_sum(torch.stack([value.detach().double() for value in metrics.values()]), self.runtime)
        means = dict(zip(metrics, (values / self.runtime.world_size).tolist(), strict=True))
        for name in sorted(nonfinite_names(means)):
            self.messages.append(f"warning: {name} of epoch {epoch + 1} is not finite and is left out of the record")
            del means[name]
        return means
