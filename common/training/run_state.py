"""The state of a run between two epochs: what its checkpoints hold, and whether a checkpoint is one of this run."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from common.errors import UserError, is_out_of_memory
from common.run_record import split_teacher_files
from common.training.checkpoints import CheckpointFiles, load_checkpoint, save_checkpoint
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
from common.training.selection import Accuracies, ValidationFigures
from common.training.training_step import TrainingStep

LENGTH = ("epochs", "milestones")  # what settings call the number of epochs, and what follows from it


class RunState:
    """How far a run has come, with everything that it trains.

    Args:
        step: with the method and its optimizer.
        files: where checkpoints go.
        settings: everything that makes two runs the same; a run is resumed only with the settings that it began with.
        selection: the accuracies before the first epoch.
        columns: what each line of the history has, besides the method's own losses and figures.
        length: those of the settings that say how long the run is, the number of epochs first; it may grow in a resume.

    Attributes:
        selection: which epoch counts, so far.
        history: the lines of metrics.jsonl.
        epochs_done: finished epochs.
        seconds: that these took.
    """

    def __init__(
        self,
        step: TrainingStep,
        files: CheckpointFiles,
        settings: dict[str, Any],
        selection: Accuracies | ValidationFigures,
        columns: list[str],
        length: Sequence[str] = LENGTH,
    ) -> None:
        self.step, self.method, self.optimizer = step, step.method, step.optimizer
        self.files, self.settings, self.columns, self.length = files, settings, columns, length
        self.selection = selection
        self.history: list[dict[str, Any]] = []
        self.epochs_done = 0
        self.seconds = 0.0
        self._nonfinite_before = nonfinite_names({"weights": self._trained_state()})  # a mask, for example

    def nonfinite_names(self) -> set[str]:
        """What of the state is not finite, though it was so at the beginning."""
        state = {"weights": self._trained_state(), "optimizer": self.optimizer.state_dict()["state"]}
        return nonfinite_names(state) - self._nonfinite_before

    @property
    def last_is_best(self) -> bool:
        """Whether no epoch was better than the last one that is finished."""
        return self.selection.best_epoch == self.epochs_done - 1

    def save(self, finished: int) -> None:
        """Write the checkpoint of `finished` epochs, from which a run goes on."""
        save_checkpoint(self._content(finished), self.files.last)
        self.epochs_done = finished

    def save_copies(self) -> None:
        """Write the other checkpoints that are due after the last finished epoch.

        They come after `last`, which has all that is in them: a run killed in between writes them when it is resumed.
        The other way round it would repeat the epoch, on a GPU to other bits, and lose the best one's before it.
        """
        weights_key = self.files.weights_key
        for file, moment in self.files.snapshots.items():
            if moment == self.epochs_done:
                weights = self.method.student.state_dict()
                save_checkpoint({"epoch": self.epochs_done, weights_key: weights}, file)
        if self.last_is_best and self.files.best:
            save_checkpoint(self._content(self.epochs_done), self.files.best)

    def resume(self, iterations: int) -> list[str] | None:
        """Go back to the state of the last checkpoint.

        A run may go on for more epochs than it was begun for, where its finished ones would have been the same.

        Args:
            iterations: per epoch.

        Returns:
            What a person should know about it; None where there is no checkpoint.

        Raises:
            UserError: a damaged checkpoint, or one of a run with other settings.
        """
        if not self.files.last.is_file():
            return None
        content = load_checkpoint(self.files.last, self.step.runtime.device)
        try:
            state = content["training"]
            messages = self._require_same_settings(state["settings"], self.files.last)
            selection = self._check(content, messages)
            messages += self._require_same_past(state, iterations)
            # teachers stay as they were loaded
            self.method.load_state_dict({**self.method.state_dict(), **state["weights"]})
            self.optimizer.load_state_dict(content[self.files.optimizer_key])
            self.step.scaler.load_state_dict(state["scaler"])
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            why = f" ({error})" if isinstance(error, MismatchError) else ""
            raise UserError(
                f"{self.files.last} was not written here and cannot be resumed exactly{why}; start without --resume"
            ) from error
        self.selection, self.history, self.seconds = selection, state["history"], state["seconds"]
        self.epochs_done = content["epoch"]
        self.step.state_was_replaced()
        return messages

    @contextlib.contextmanager
    def weights_from(self, file: Path) -> Iterator[None]:
        """Within it the method is what a checkpoint of this run says, on all ranks; afterwards what it was before.

        Raises:
            UserError: as of `require_best`.
        """
        before = copy.deepcopy(self._trained_state())
        if self.step.runtime.is_main:
            try:
                content = self.require_best(file)
            except UserError as error:
                how = "it was this run's: put it back and --resume, or start again with --overwrite"
                raise UserError(f"{error}; {how}") from error
            if file == self.files.best:
                self.method.load_state_dict({**self.method.state_dict(), **content["training"]["weights"]})
            else:
                self.method.student.load_state_dict(content)
        if self.step.runtime.distributed:
            for value in self._trained_state().values():
                if isinstance(value, Tensor):
                    dist.broadcast(value, 0)
        try:
            yield
        finally:
            self.method.load_state_dict({**self.method.state_dict(), **before})

    def require_best(self, file: Path) -> dict[str, Any]:
        """The checkpoint of the best epoch, as this run has written it.

        Args:
            file: `files.best`, or where the run's script keeps the student's weights alone, of which no more is known
                than that they fit.

        Raises:
            UserError: a checkpoint that is absent, damaged, or of another network, run or epoch.
        """
        content = load_checkpoint(file, self.step.runtime.device)
        try:
            if file != self.files.best:
                require_weights(content, self.method.student.state_dict(), "checkpoint")
                return content
            state = content["training"]
            self._require_same_settings(state["settings"], file)
            require_weights(state["weights"], self._expected_weights(state["weights"], []), "training.weights")
            epoch = self.selection.best_epoch + 1
            if content["epoch"] != epoch:
                raise MismatchError(f"it is of epoch {content['epoch']!r:.40}, not {epoch}")
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            if is_out_of_memory(error):
                raise
            why = f" ({error})" if isinstance(error, MismatchError) else ""
            raise UserError(f"{file} is not what this run has written after its best epoch{why}") from error
        return content

    def restore_optimizer(self, checkpoint: dict[str, Any]) -> None:
        """Take the optimizer's state from a checkpoint and begin at epoch 0 all the same.

        Raises:
            UserError: there is none, or one of another optimizer or model.
        """
        try:
            self._check_optimizer(checkpoint[self.files.optimizer_key], None)
            self.optimizer.load_state_dict(checkpoint[self.files.optimizer_key])
            self.step.state_was_replaced()
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise UserError("the restored checkpoint has no optimizer state that fits this model") from error

    def _require_same_settings(self, saved: dict[str, Any], file: Path) -> list[str]:
        """Returns:
            What a person should know.

        Raises:
            UserError: the checkpoint in `file` is of a run with other settings.
        """
        saved, teachers = split_teacher_files(saved)
        own, own_teachers = split_teacher_files(self.settings)
        compared = {**own, **saved}
        if saved.get(self.length[0], 0) < own.get(self.length[0], 0):
            compared = {key: value for key, value in compared.items() if key not in self.length}
        for key in compared:
            if (before := saved.get(key)) != (now := own.get(key)):
                raise UserError(
                    f"{file} belongs to a run {_with(key, before)}, not {_with(key, now)}: give the "
                    "same settings, or start again without --resume"
                )
        if own_teachers and not teachers:  # Tf-KD's of before they held it
            return ["warning: the checkpoint does not say by which teacher's weights it was taught"]
        if teachers != own_teachers:
            raise UserError(
                f"{file} belongs to a run with other teachers' weights (digests {', '.join(teachers)}, not "
                f"{', '.join(own_teachers)}): give the same teachers, or start again without --resume"
            )
        return []

    def _require_same_past(self, state: dict[str, Any], iterations: int) -> list[str]:
        """Returns:
            What a person should know, where the run is to be longer than it was begun for.

        Raises:
            UserError: the finished epochs of the longer run would have had other learning rates.
        """
        changed = {key: state["settings"].get(key) for key in self.length if key in self.settings}
        changed = {key: before for key, before in changed.items() if before != self.settings[key]}
        if not changed:
            return []
        key = next(iter(changed))
        for line in state["history"]:
            lr = self.step.optimization.schedule(line["epoch"], iterations - 1, iterations)
            if not math.isclose(lr, line["learning_rate"], rel_tol=1e-9):
                raise UserError(
                    f"{self.files.last} belongs to a run {_with(key, changed[key])}, not "
                    f"{_with(key, self.settings[key])}, by which epoch {line['epoch'] + 1} would have had the learning "
                    f"rate {lr:g}, not {line['learning_rate']:g}: give the same, or start again without --resume"
                )
        return [f"the run was begun {_with(key, changed[key])} and is resumed {_with(key, self.settings[key])}"]

    def _check(self, content: dict[str, Any], messages: list[str]) -> Accuracies | ValidationFigures:
        """Whether a checkpoint is what this run would have written; nothing is changed.

        Returns:
            The accuracies, which follow from the history.

        Raises:
            MismatchError, KeyError, TypeError: it is not.
        """
        own, epochs = self._content(0), self.step.optimization.epochs
        require_keys(content, own, "checkpoint")
        epoch, state = content["epoch"], content["training"]
        if type(epoch) is not int or not 1 <= epoch <= epochs:
            raise MismatchError(f"it says that {epoch!r:.40} of {epochs} epochs are finished")
        require_keys(state, own["training"], "training")
        require_weights(state["weights"], self._expected_weights(state["weights"], messages), "training.weights")
        require_weights(content[self.files.weights_key], own[self.files.weights_key], self.files.weights_key)
        optimizer = content[self.files.optimizer_key]
        require_keys(optimizer, {"state": None, "param_groups": None}, "optimizer")
        require_optimizer_options(optimizer["param_groups"], self.optimizer)
        self._check_optimizer(optimizer, state["weights"])
        require_keys(state["scaler"], own["training"]["scaler"], "scaler")
        require_finite(state["scaler"], "scaler")
        if type(state["seconds"]) is not float or not 0 <= state["seconds"] < math.inf:
            raise MismatchError(f"it says that {state['seconds']!r:.40} seconds have passed")
        require_history(state["history"], epoch, self.columns)
        selection = type(self.selection)()
        for line in state["history"]:
            selection.update(line)
        if state["accuracies"] != dataclasses.asdict(selection):
            raise MismatchError("its accuracies are not those of its history")
        if self.files.accuracy_key and content[self.files.accuracy_key] != selection.best:
            raise MismatchError(f"'{self.files.accuracy_key}' is not the best accuracy of its history")
        return selection

    def _expected_weights(self, saved: Any, messages: list[str]) -> dict[str, Any]:
        """What the method's saved state is held against; an older one had nothing but tensors, which a message says."""
        expected = self._trained_state()
        if (extra := "_extra_state") in expected and extra not in saved and is_empty(expected[extra]):
            messages.append("warning: the checkpoint has nothing but tensors: what else the method learns starts again")
            return {key: value for key, value in expected.items() if key != extra}
        return expected

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
        unmoved = None
        if weights is not None:
            trained = enumerate(parameters_of(self.optimizer))
            unmoved = {i for i, p in trained if torch.equal(weights[names[id(p)]], p.detach())}
        template = stepped_template(self.optimizer, self.step.optimization.make_optimizer)
        require_optimizer_state(state, self.optimizer, template, unmoved)

    def _trained_state(self) -> dict[str, Any]:
        """State of the method without what is frozen."""
        left_out = {id(module) for module in self.method.frozen_modules()}
        frozen = tuple(f"{name}." for name, module in self.method.named_modules() if id(module) in left_out)
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
                "scaler": self.step.scaler.state_dict(),
                "accuracies": dataclasses.asdict(self.selection),
                "history": self.history,
                "seconds": self.seconds,
                "settings": self.settings,
            },
        }
        if self.files.accuracy_key:
            content[self.files.accuracy_key] = self.selection.best
        return content


def _with(key: str, value: Any) -> str:
    """A setting in words."""
    return f"without {key}" if value is None else f"with {key} = {value}"
