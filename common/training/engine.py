"""The training loop. It asks nothing about the paper: a `Method` gives the losses, the loop does the rest."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from common.data import Batch, Batches
from common.errors import TrainingError, UserError, is_out_of_memory
from common.training.checkpoints import load_checkpoint, save_checkpoint
from common.training.cuda_graphs import CudaGraphs, GraphedCallable, graphs_blocker
from common.training.epoch_sums import EpochSums
from common.training.evaluation import Evaluation
from common.training.fast_path import (
    apply_fast_path,
    capture_blocker,
    keep_implementation,
    keep_parameter_layout,
    refuse_old_names,
    use_fused,
    use_fused_loss_scaling,
)
from common.training.gpu_memory import explained_out_of_memory, peak_memory, reset_peak_memory
from common.training.layouts import layout_for, layout_name
from common.training.method import Method, Step
from common.training.runs import RunDirectory
from common.training.runtime import Runtime, reduce_sum
from common.training.saved_state import (
    MismatchError,
    is_empty,
    nonfinite_names,
    parameters_of,
    require_finite,
    require_history,
    require_keys,
    require_optimizer_options,
    require_optimizer_state,
    require_weights,
    stepped_template,
)
from common.training.schedules import Schedule

WARM_UP_STEPS = 3  # before a step is captured; what PyTorch's documentation of CUDA graphs does


@dataclasses.dataclass(frozen=True)
class CheckpointFiles:
    """Where a run keeps its checkpoints, under its paper's published names.

    Attributes:
        last: after every epoch; what `--resume` reads.
        best: at the best test accuracy so far, the latest of equals; None where the script keeps the best itself.
        snapshots: file that keeps the student's weights -> number of finished epochs when it is written.
        weights_key, optimizer_key, accuracy_key: what the published files call the student's weights, the optimiser's
            state and the best accuracy so far; without the last it is kept under a name of ours alone.
        constants: what the published files hold besides.
    """

    last: Path
    best: Path | None
    snapshots: dict[Path, int] = dataclasses.field(default_factory=dict)
    weights_key: str = "state_dict"
    optimizer_key: str = "optim_dict"
    accuracy_key: str | None = None
    constants: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Accuracies:
    """Test accuracy in percent under the three protocols of these papers.

    Attributes:
        last: after the last epoch.
        best: the best over all epochs, chosen on the test set itself (what these papers report).
        best_epoch: epoch of `best`, from 0, the latest of equals.
        selected: of the epoch that the validation part chose; None without a validation part.
        best_validation: the accuracy on the validation part that chose it.
    """

    last: float = math.nan
    best: float = -math.inf
    best_epoch: int = -1
    selected: float | None = None
    best_validation: float = -math.inf

    def __str__(self) -> str:
        chosen = "" if self.selected is None else f", chosen by validation {self.selected:.2f}"
        return f"test accuracy: last epoch {self.last:.2f}, best epoch {self.best:.2f}{chosen}"

    def update(self, epoch: int, test: float, validation: float | None) -> bool:
        """Take in one epoch; says whether it is the best on test."""
        self.last = test
        if validation is not None and validation >= self.best_validation:
            self.selected, self.best_validation = test, validation
        if test >= self.best:
            self.best, self.best_epoch = test, epoch
        return self.best_epoch == epoch

    def results(self) -> dict[str, Any]:
        """Fields of `run.json`."""
        if self.best_epoch < 0:
            return {"accuracy": None}
        figures = {"last": self.last, "best": self.best, "best_epoch": self.best_epoch}
        return {"accuracy": {**figures, "selected_by_validation": self.selected}}


@dataclasses.dataclass
class ValidationFigures:
    """What training goes by where it never sees the test set: the loss on the validation part.

    Attributes:
        last: accuracy on the validation part in percent, after the last epoch.
        best: the same of the chosen epoch.
        best_epoch: the epoch of the lowest loss, from 0, the earliest of equals.
        best_loss: that loss.
    """

    last: float = math.nan
    best: float = math.nan
    best_epoch: int = -1
    best_loss: float = math.inf

    def __str__(self) -> str:
        return f"validation accuracy: last epoch {self.last:.2f}, chosen epoch {self.best:.2f}"

    def update(self, epoch: int, loss: float, accuracy: float) -> bool:
        """Take in one epoch; says whether it is the best."""
        self.last = accuracy
        if loss < self.best_loss:
            self.best, self.best_epoch, self.best_loss = accuracy, epoch, loss
        return self.best_epoch == epoch

    def results(self) -> dict[str, Any]:
        """Fields of `run.json`; who trains without a test set measures the accuracy on it afterwards."""
        return {"accuracy": None, "validation": dataclasses.asdict(self) if self.best_epoch >= 0 else None}


class Trainer:
    """Trains a method.

    Args:
        method: losses and student, not yet on the device.
        make_optimizer: builds the optimiser from the trainable parameters.
        schedule: learning rate by position.
        epochs: how many to train.
        train, test: batches of both parts; without a test part the validation loss chooses the best epoch.
        validation: batches of a part cut from the training set, where there is one.
        accumulation_steps: batches whose gradients are summed before each update; the last batch of an epoch updates
            with whatever has come together.
        layout: of images and weights in memory (default: `layout_for` the method).
        runtime: device, precision, processes.
        files: where checkpoints go.
        settings: everything that makes two runs the same; a run is resumed only with the settings that it began with.
    """

    def __init__(
        self,
        method: Method,
        make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
        schedule: Schedule,
        epochs: int,
        train: Batches,
        test: Batches | None,
        runtime: Runtime,
        files: CheckpointFiles,
        settings: dict[str, Any],
        validation: Batches | None = None,
        accumulation_steps: int = 1,
        layout: torch.memory_format | None = None,
    ) -> None:
        refuse_old_names(method)
        self.layout = layout or layout_for(method, runtime)
        if not runtime.plain:
            apply_fast_path(method, self.layout, runtime)
        self.method = method.to(runtime.device)
        self._make_optimizer = make_optimizer
        self.optimizer = make_optimizer(self.method.trainable_parameters())
        keep_parameter_layout(self.optimizer)
        keep_implementation(self.optimizer)
        self.schedule, self.epochs = schedule, epochs
        self.train, self.test, self.validation = train, test, validation
        self.runtime, self.files, self.settings = runtime, files, {**settings, **runtime.compared_settings()}
        self.accumulation_steps = accumulation_steps
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.amp == "fp16")
        self.accuracies = ValidationFigures() if test is None else Accuracies()
        self.history: list[dict[str, Any]] = []  # the lines of metrics.jsonl
        self.epochs_done = 0
        self.seconds = 0.0
        self._nonfinite_before = nonfinite_names({"weights": self._trained_state()})  # a mask, for example
        self._forward: nn.Module = self.method
        if runtime.compile:
            from torch._inductor import config as inductor  # slow to import

            inductor.fallback_random = True  # the same dropout masks as without compilation
            self._forward = torch.compile(self.method)
        if runtime.distributed:
            # of 1 x 1 convolutions, whose gradients are laid out alike in both memory formats
            warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # PyTorch is about to rename the flag
                # what the method trains by itself is its own business
                DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
                    self._forward, _names_of_others(self._forward, self.method.trainable_parameters())
                )
                # running statistics are averaged once an epoch instead of broadcast at every step
                self._forward = DistributedDataParallel(self._forward, broadcast_buffers=False)

        self._epoch = 0  # that is being trained
        self._phase: float | None = None  # of it: steps of one phase are the same
        self._sums = EpochSums(runtime)
        self._graphed_step: GraphedCallable | None = None
        # on how this run computes, for its log; people's own batches need not have one
        self.messages: list[str] = [message for message in [getattr(train, "message", None)] if message]
        if runtime.device.type == "cuda" and not runtime.plain:
            use_fused(self.optimizer)
            if self.scaler.is_enabled():
                use_fused_loss_scaling(self.optimizer)
        self._capture_blocker = graphs_blocker(runtime)
        graphs = CudaGraphs(runtime.device) if self._capture_blocker is None else None
        if graphs is not None:
            self._capture_blocker = capture_blocker(self.method, self.optimizer, runtime, accumulation_steps)
            if self._capture_blocker is None:
                self.capture_steps(graphs)
            else:
                self.messages.append(f"steps: not captured as a CUDA graph: {self._capture_blocker}")
        how = {"graphs": graphs, "layout": self.layout, "report": self.messages.append}
        self._evaluations = [
            None if part is None else Evaluation(method.evaluated, part, runtime, method.evaluation_loss, **how)
            for part in (test, validation)
        ]
        reset_peak_memory(runtime.device)

    def capture_steps(self, graphs: CudaGraphs) -> None:
        """Replay steps from a capture; the learning rate then lies on the device."""
        self._rate = torch.zeros((), device=self.runtime.device)
        self._graphed_step = GraphedCallable(self._update, graphs, "steps", WARM_UP_STEPS, self.messages.append)

    def execution(self) -> dict[str, Any]:
        """How this run really computes, for its record.

        Returns:
            `layout`; `precision`; `step` and `evaluation`, each "captured", "warming up", or "eager: " and the reason;
            and `peak_memory_mib`, which is None on a CPU.
        """
        step = self._graphed_step.status if self._graphed_step else f"eager: {self._capture_blocker}"
        return {
            "layout": layout_name(self.layout),
            "precision": self.runtime.precision,
            "step": step,
            "evaluation": next(part.execution for part in self._evaluations if part),
            "peak_memory_mib": peak_memory(self.runtime.device),
        }

    def resume(self) -> bool:
        """Go back to the state of the last checkpoint, if there is one.

        Returns:
            Whether there was one.

        Raises:
            UserError: a damaged checkpoint, or one of a run with other settings.
        """
        if not self.files.last.is_file():
            return False
        content = load_checkpoint(self.files.last, self.runtime.device)
        try:
            state = content["training"]
            for key in {**self.settings, **state["settings"]}:
                before, now = state["settings"].get(key), self.settings.get(key)
                if before != now:
                    raise UserError(
                        f"{self.files.last} belongs to a run {_with(key, before)}, not {_with(key, now)}: give the "
                        "same settings, or start again without --resume"
                    )
            accuracies = self._check(content)
            # teachers stay as they were loaded
            self.method.load_state_dict({**self.method.state_dict(), **state["weights"]})
            self.optimizer.load_state_dict(content[self.files.optimizer_key])
            self.scaler.load_state_dict(state["scaler"])
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            why = f" ({error})" if isinstance(error, MismatchError) else ""
            raise UserError(
                f"{self.files.last} was not written here and cannot be resumed exactly{why}; start without --resume"
            ) from error
        self.accuracies, self.history, self.seconds = accuracies, state["history"], state["seconds"]
        self.epochs_done = content["epoch"]
        self._phase = None  # what was captured before works on other tensors
        return True

    def _check(self, content: dict[str, Any]) -> Accuracies | ValidationFigures:
        """Whether a checkpoint is what this run would have written; nothing is changed.

        Returns:
            The accuracies, which follow from the history.

        Raises:
            MismatchError, KeyError, TypeError: it is not.
        """
        own = self._content(0)
        require_keys(content, own, "checkpoint")
        epoch, state = content["epoch"], content["training"]
        if type(epoch) is not int or not 1 <= epoch <= self.epochs:
            raise MismatchError(f"it says that {epoch!r:.40} of {self.epochs} epochs are finished")
        require_keys(state, own["training"], "training")
        expected = own["training"]["weights"]
        if (extra := "_extra_state") in expected and extra not in state["weights"] and is_empty(expected[extra]):
            # of before the method kept anything besides tensors
            expected = {key: value for key, value in expected.items() if key != extra}
            self.messages.append(
                "warning: the checkpoint has nothing but tensors: what else the method learns begins anew"
            )
        require_weights(state["weights"], expected, "training.weights")
        require_weights(content[self.files.weights_key], own[self.files.weights_key], self.files.weights_key)
        optimizer = content[self.files.optimizer_key]
        require_keys(optimizer, {"state": None, "param_groups": None}, "optimizer")
        require_optimizer_options(optimizer["param_groups"], self.optimizer)
        self._check_optimizer(optimizer, state["weights"])
        require_keys(state["scaler"], own["training"]["scaler"], "scaler")
        require_finite(state["scaler"], "scaler")
        if type(state["seconds"]) is not float or not 0 <= state["seconds"] < math.inf:
            raise MismatchError(f"it says that {state['seconds']!r:.40} seconds have passed")
        require_history(state["history"], epoch, self._figure_names())
        accuracies = type(self.accuracies)()
        for line in state["history"]:
            self._judge(accuracies, line)
        if state["accuracies"] != dataclasses.asdict(accuracies):
            raise MismatchError("its accuracies are not those of its history")
        if self.files.accuracy_key and content[self.files.accuracy_key] != accuracies.best:
            raise MismatchError(f"'{self.files.accuracy_key}' is not the best accuracy of its history")
        return accuracies

    def _check_optimizer(self, state: Any, weights: dict[str, Any] | None) -> None:
        """Whether the optimizer can have had this state.

        Args:
            state: its state dict.
            weights: of the method at the same moment; a parameter that training has not moved needs no state. None for
                the state of another run.

        Raises:
            MismatchError: it cannot.
        """
        names = {id(parameter): name for name, parameter in self.method.named_parameters()}
        trained = parameters_of(self.optimizer)
        unmoved = weights and {i for i, p in enumerate(trained) if torch.equal(weights[names[id(p)]], p.detach())}
        template = stepped_template(self.optimizer, self._make_optimizer)
        require_optimizer_state(state, self.optimizer, template, unmoved)

    def _figure_names(self) -> list[str]:
        """What each line of the history has, besides the method's own losses and figures."""
        parts = [name for name, part in (("test", self.test), ("validation", self.validation)) if part is not None]
        evaluated = [f"{part}/{figure}" for part in parts for figure in ("accuracy", "top5", "loss")]
        return ["epoch", "learning_rate", "train/loss", "train/accuracy", *evaluated, "images_per_second"]

    def restore_optimizer(self, checkpoint: dict[str, Any]) -> None:
        """Take the optimizer's state from a checkpoint and begin at epoch 0 all the same.

        Raises:
            UserError: there is none, or one of another optimizer or model.
        """
        try:
            self._check_optimizer(checkpoint[self.files.optimizer_key], None)
            self.optimizer.load_state_dict(checkpoint[self.files.optimizer_key])
            self._phase = None  # what was captured before works on other tensors
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError("the restored checkpoint has no optimiser state that fits this model") from error

    def _frozen_names(self) -> tuple[str, ...]:
        """What the names of frozen modules' state begin with."""
        left_out = {id(module) for module in self.method.frozen_modules()}
        return tuple(f"{name}." for name, module in self.method.named_modules() if id(module) in left_out)

    def _trained_state(self) -> dict[str, Any]:
        """State of the method without what is frozen."""
        frozen = self._frozen_names()
        return {k: v for k, v in self.method.state_dict().items() if not k.startswith(frozen)}

    def _content(self, finished: int) -> dict[str, Any]:
        """A checkpoint of `finished` epochs."""
        content = {
            **self.files.constants,
            "epoch": finished,
            self.files.weights_key: self.method.student.state_dict(),
            self.files.optimizer_key: self.optimizer.state_dict(),
            "training": {
                "weights": self._trained_state(),
                "scaler": self.scaler.state_dict(),
                "accuracies": dataclasses.asdict(self.accuracies),
                "history": self.history,
                "seconds": self.seconds,
                "settings": self.settings,
            },
        }
        if self.files.accuracy_key:
            content[self.files.accuracy_key] = self.accuracies.best
        return content

    def _save(self, finished: int, is_best: bool) -> None:
        """Write the checkpoints of `finished` epochs."""
        content = self._content(finished)
        for file, moment in self.files.snapshots.items():
            if finished == moment:
                save_checkpoint({key: content[key] for key in ("epoch", self.files.weights_key)}, file)
        # `last` comes after all others: a run killed in between repeats this epoch and writes the same again
        if is_best and self.files.best:
            save_checkpoint(content, self.files.best)
        save_checkpoint(content, self.files.last)

    def fit(
        self,
        run: RunDirectory | None,
        after_epoch: Callable[[dict[str, float], bool], None] | None = None,
        after_training: Callable[[], dict[str, Any]] | None = None,
    ) -> Accuracies | ValidationFigures:
        """Train to the end.

        Args:
            run: receives records; None on all but the main process.
            after_epoch: called on the main process with the test figures (of the validation part where there is no test
                part) and whether they are the best so far.
            after_training: called on all processes after the last epoch; gives more fields of the run's record.

        Raises:
            TrainingError: a loss that is not finite, or more memory than the GPU has; checkpoints stay as they were
                after the last good epoch.
        """
        status, problem, more = "failed", None, {}
        try:
            self._log_messages(run)
            with explained_out_of_memory("training", graphs=False):
                for epoch in range(self.epochs_done, self.epochs):
                    self._run_epoch(epoch, run, after_epoch)
                if after_training is not None:
                    more = after_training()
            status = "done"
        except KeyboardInterrupt as signal:
            status = "stopped"
            signal.args = ("the same command with --resume goes on from the last finished epoch",)
            raise
        except Exception as error:
            problem = str(error)
            raise
        finally:
            if run is not None:
                run.close(status, error=problem, **{**self._results(), **more})
        return self.accuracies

    def _log_messages(self, run: RunDirectory | None) -> None:
        if run is not None:
            for message in self.messages:
                run.log(message)
        self.messages.clear()

    def _results(self) -> dict[str, Any]:
        """Figures for `run.json`, as far as training has come."""
        return {
            **self.accuracies.results(),
            "epochs_done": self.epochs_done,
            "seconds": round(self.seconds, 2),
            "execution": self.execution(),
        }

    def _run_epoch(self, epoch: int, run: RunDirectory | None, after_epoch: Callable | None) -> None:
        """Train one epoch, evaluate, record, save."""
        # dropout, too, depends on the position alone
        seeds = np.random.SeedSequence([self.runtime.seed, epoch, self.runtime.rank])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        started = time.perf_counter()
        train = self.train_epoch(epoch, show_progress=run is not None)
        training_seconds = time.perf_counter() - started
        self._average_running_statistics(self.method.student)
        test, validation = (evaluate() if evaluate else None for evaluate in self._evaluations)
        judged, part = (validation, "validation") if test is None else (test, "test")
        line = {
            "epoch": epoch,
            "learning_rate": self.schedule(epoch, len(self.train) - 1, len(self.train)),
            **{f"train/{name}": value for name, value in train.items()},
            **{f"test/{name}": value for name, value in (test or {}).items()},
            **{f"validation/{name}": value for name, value in (validation or {}).items()},
            "images_per_second": self.train.samples / training_seconds,
        }
        self._require_finite(line)
        is_best = self._judge(self.accuracies, line)
        self.seconds += time.perf_counter() - started
        self.history.append(line)
        self._log_messages(run)
        if run is None:
            return
        run.log_epoch(line)
        if after_epoch is not None:
            after_epoch(judged, is_best)
        self._save(epoch + 1, is_best)
        self.epochs_done = epoch + 1
        run.update(**self._results())
        run.log(
            f"epoch {epoch + 1}/{self.epochs}: rate {line['learning_rate']:.4g}, "
            f"train loss {train['loss']:.4f} accuracy {train['accuracy']:.2f}, "
            f"{part} loss {judged['loss']:.4f} accuracy {judged['accuracy']:.2f} "
            f"(best {self.accuracies.best:.2f}), {self.train.samples / training_seconds:.0f} images/s"
        )

    @staticmethod
    def _judge(accuracies: Accuracies | ValidationFigures, line: dict[str, Any]) -> bool:
        """Let `accuracies` take in an epoch's figures; says whether it is the best."""
        validation = line.get("validation/accuracy")
        if isinstance(accuracies, ValidationFigures):
            return accuracies.update(line["epoch"], line["validation/loss"], validation)
        return accuracies.update(line["epoch"], line["test/accuracy"], validation)

    def _require_finite(self, line: dict[str, Any]) -> None:
        """Let nothing that is not finite come into a record or a checkpoint; processes agree.

        Raises:
            TrainingError: a figure of the epoch, or the state after it, is not finite where it was so at the beginning.
        """
        state = {"weights": self._trained_state(), "optimizer": self.optimizer.state_dict()["state"]}
        bad = [f"the {name.replace('/', ' ')}" for name in sorted(nonfinite_names(line))]
        bad += [f"'{name}'" for name in sorted(nonfinite_names(state) - self._nonfinite_before)]
        if self.runtime.distributed:
            flag = torch.tensor(float(bool(bad)), device=self.runtime.device)
            dist.all_reduce(flag, dist.ReduceOp.MAX)
            bad = bad or ["the state of another process"] * int(flag)
        if bad:
            raise TrainingError(
                f"{bad[0]} is not finite after epoch {line['epoch'] + 1}: training stops; the checkpoints hold the "
                "last good epoch (a lower learning rate may help)"
            )

    def train_epoch(self, epoch: int, show_progress: bool) -> dict[str, float]:
        """One pass over the training batches, without waiting for the device until its end."""
        self.method.train()
        self._begin_epoch(epoch)
        iterations = len(self.train)
        progress = tqdm(
            self.train.epoch(epoch),
            total=iterations,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="batch",
            leave=False,
            disable=None if show_progress else True,  # None: only where a person is watching
        )
        for iteration, batch in enumerate(progress):
            self._set_rate(self.schedule(epoch, iteration, iterations))
            self._train_step(batch, epoch, iteration, iterations)
            if self.runtime.device.type == "cpu" and not self.runtime.distributed:
                self._sums.check(epoch)  # costs nothing where there is nobody to wait for
        self._sums.check(epoch)
        return {**self._sums.means(), **self._method_figures()}

    def _begin_epoch(self, epoch: int) -> None:
        """Sums at zero; what was captured of earlier epochs stays where steps are the same."""
        self._epoch, before = epoch, self._phase
        self._phase = min(epoch, self.method.epoch_dependent_until)
        if self._phase == before:
            self._sums.reset()
            return
        self._sums = EpochSums(self.runtime)  # losses may have other names now
        if self._graphed_step:
            self._graphed_step.invalidate()

    def _set_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        if self._graphed_step:
            self._rate.fill_(rate)

    def _train_step(self, batch: Batch, epoch: int, iteration: int, iterations: int) -> Step:
        if self._graphed_step:
            step = self._graphed_step(*batch.inputs)
        else:
            step = self._update(
                *batch.inputs,
                # processes average their gradients; with shares of unequal size each counts by its samples
                share=len(batch.targets) * self.runtime.world_size / batch.global_size,
                begins=iteration % self.accumulation_steps == 0,
                ends=(iteration + 1) % self.accumulation_steps == 0 or iteration + 1 == iterations,
            )
        self.method.after_step(epoch, iteration, iterations)
        return step

    def _update(
        self,
        images: Tensor,
        targets: Tensor,
        indices: Tensor,
        *strong_images: Tensor,
        share: float = 1.0,
        begins: bool = True,
        ends: bool = True,
    ) -> Step:
        """Losses and gradients of a batch, and what the optimiser makes of them; all of it on the device.

        Args:
            images, targets, indices, strong_images: the `inputs` of a `Batch`.
            share: by which the losses are scaled.
            begins: forget the gradients of the batches before.
            ends: let the optimiser have its turn.
        """
        images, *strong_images = (view.contiguous(memory_format=self.layout) for view in (images, *strong_images))
        with self.runtime.autocast():
            step: Step = self._forward(images, targets, indices, self._epoch, *strong_images)
        if begins:
            self.optimizer.zero_grad(set_to_none=True)
        weighted = {name: loss if share == 1 else loss * share for name, loss in step.losses.items()}
        self.method.backward({name: self.scaler.scale(loss) for name, loss in weighted.items()}, self.optimizer)
        if ends:
            self._step_optimizer()
        step = Step(step.logits.detach(), {name: loss.detach() for name, loss in step.losses.items()})
        self._sums.add(step, targets)
        self.method.after_update()
        return step

    def _step_optimizer(self) -> None:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        if self._graphed_step:
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate
        try:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        finally:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate  # a number again: checkpoints hold it

    def _method_figures(self) -> dict[str, float]:
        """The method's own figures of an epoch, averaged over processes."""
        figures = self.method.figures()
        if not figures:
            return {}
        values = reduce_sum(torch.stack([value.detach().double() for value in figures.values()]), self.runtime)
        means = dict(zip(figures, (values / self.runtime.world_size).tolist(), strict=True))
        for name in sorted(nonfinite_names(means)):
            self.messages.append(
                f"warning: {name} of epoch {self._epoch + 1} is not finite and is left out of the record"
            )
            del means[name]
        return means

    def _average_running_statistics(self, network: nn.Module) -> None:
        """Give all processes the same batch-norm statistics: the mean of theirs."""
        if not self.runtime.distributed:
            return
        for buffer in network.buffers():
            if buffer.is_floating_point():
                dist.all_reduce(buffer)
                buffer /= self.runtime.world_size


def _with(key: str, value: Any) -> str:
    """A setting in words."""
    return f"without {key}" if value is None else f"with {key} = {value}"


def _names_of_others(module: nn.Module, parameters: list[nn.Parameter]) -> list[str]:
    """Names in `module` of the parameters that are not among `parameters`."""
    ours = {id(parameter) for parameter in parameters}
    return [name for name, parameter in module.named_parameters() if id(parameter) not in ours]
