"""Which epoch of a run counts: by the test split, as these papers report, or by a validation split alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass
class Accuracies:
    """Test accuracy in percent under the three protocols of these papers.

    Attributes:
        last: after the last epoch.
        best: the best over all epochs, chosen on the test set itself (what these papers report).
        best_epoch: epoch of `best`, from 0, the latest of equals.
        selected: of the epoch that the validation split chose; None without a validation split.
        best_validation: the accuracy on the validation split that chose it.
    """

    last: float = math.nan
    best: float = -math.inf
    best_epoch: int = -1
    selected: float | None = None
    best_validation: float = -math.inf

    monitored = "test"  # the split whose metrics the log shows

    def __str__(self) -> str:
        chosen = "" if self.selected is None else f", chosen by validation {self.selected:.2f}"
        return f"test accuracy: last epoch {self.last:.2f}, best epoch {self.best:.2f}{chosen}"

    def update(self, line: Mapping[str, Any]) -> bool:
        """Take in an epoch's line of the history; says whether it is the best on test."""
        epoch, test, validation = line["epoch"], line["test/accuracy"], line.get("validation/accuracy")
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
    """What training goes by where it never sees the test set: the loss on the validation split.

    Attributes:
        last: accuracy on the validation split in percent, after the last epoch.
        best: the same of the chosen epoch.
        best_epoch: the epoch of the lowest loss, from 0, the earliest of equals.
        best_loss: that loss.
    """

    last: float = math.nan
    best: float = math.nan
    best_epoch: int = -1
    best_loss: float = math.inf

    monitored = "validation"

    def __str__(self) -> str:
        return f"validation accuracy: last epoch {self.last:.2f}, chosen epoch {self.best:.2f}"

    def update(self, line: Mapping[str, Any]) -> bool:
        """Take in an epoch's line of the history; says whether it is the best."""
        epoch, loss, accuracy = line["epoch"], line["validation/loss"], line["validation/accuracy"]
        self.last = accuracy
        if loss < self.best_loss:
            self.best, self.best_epoch, self.best_loss = accuracy, epoch, loss
        return self.best_epoch == epoch

    def results(self) -> dict[str, Any]:
        """Fields of `run.json`; who trains without a test set measures the accuracy on it afterwards."""
        return {"accuracy": None, "validation": dataclasses.asdict(self) if self.best_epoch >= 0 else None}
