"""Checkpoints of trained teachers, the same for all papers, which say where they look and what trains one."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.errors import UserError
from common.run_record import TRAINED_HERE, RunRecord, Teacher, read_record
from common.training.checkpoints import apply_weights, load_checkpoint, model_weights


@dataclasses.dataclass(frozen=True)
class TeacherCheckpoint:
    """A file with a trained network's weights.

    Attributes:
        name: of the network.
        path: of the file.
        command: that trains one, with the directory to call it in.
        origin: who made it, in words.
        trained_on: fingerprint of the data that it was trained on, where that is known.
        accuracy: in percent on the whole test set, by the run that left it.
        budget: of that run, as its record has it.
        data: the name and content of `trained_on`, in words.
    """

    name: str
    path: Path
    command: str
    origin: str = "given"
    trained_on: str | None = None
    accuracy: float | None = None
    budget: Mapping[str, Any] | None = None
    data: str | None = None

    @classmethod
    def of(
        cls, name: str, path: Path, command: str, record: RunRecord | None, figure: str = "best"
    ) -> TeacherCheckpoint:
        """A checkpoint that a run here has left, where `record` is that run's; else one that was given.

        Args:
            figure: "best" or "last", the epoch that the file is of.
        """
        if record is None or record.student != name:
            return cls(name, path, command)
        whole = record.settings.get("limit_eval_batches") is None
        accuracy = (record.accuracy or {}).get(figure) if whole else None
        origin = origin_of(record, figure)
        data = ", ".join(filter(None, [record.data.get("name"), record.data["content"]]))
        return cls(name, path, command, origin, record.data["fingerprint"], accuracy, record.budget, data)

    @functools.cached_property
    def digest(self) -> str:
        """By which records know the file, wherever it lies."""
        return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]

    def load_into(self, network: nn.Module, prefix: str = "", called: str | None = None) -> Mapping[str, Any]:
        """Load the weights.

        Args:
            network: receives them.
            prefix: of the names of the weights in files that hold other networks as well.
            called: the network in messages; its name where that says enough.

        Returns:
            The whole checkpoint.

        Raises:
            UserError: unreadable, or of another architecture or class count; names the command that trains a right one.
        """
        try:
            content = load_checkpoint(self.path)
            weights = _without_prefix(model_weights(content, self.path), prefix)
            apply_weights(network, weights, self.path, called or self.name)
        except UserError as error:
            raise UserError(f"{error}; a right one comes from {self.command}") from error
        return content

    def messages_on_budget(self, epochs: int, published_epochs: int, batches: int | None) -> list[str]:
        """A warning where it was trained less than its student will be, each measured by what its paper asks for.

        Args:
            epochs, published_epochs, batches: of the student: trained, published, and at most per epoch (or None).
        """
        if self.budget is None:
            return []
        own = self.budget["epochs"], self.budget["published_epochs"]
        limit = self.budget["batches"]
        fewer_batches = limit is not None and (batches is None or limit < batches)
        if own[0] * published_epochs >= epochs * own[1] and not fewer_batches:
            return []
        length = f"{own[0]} of {own[1]} epochs" + (f" of at most {limit} batches" if limit is not None else "")
        mine = f"{epochs} of {published_epochs}" + (f" of at most {batches} batches" if batches is not None else "")
        return [f"warning: teacher {self.name} was trained for {length} only, and the student will be for {mine}"]

    def messages_on_data(self, fingerprint: str) -> list[str]:
        """A warning where it was trained on other data than its student's, as far as that is known.

        Args:
            fingerprint: of the student's data.
        """
        if self.trained_on in (None, fingerprint):
            return []
        words = f"{self.data}, fingerprint {self.trained_on}" if self.data else self.trained_on
        return [f"warning: teacher {self.name} was trained on other data ({words}) than the student will be"]

    def describe(self) -> Teacher:
        """What a run's record says about its teacher."""
        return {
            "name": self.name,
            "path": str(self.path),
            "digest": self.digest,
            "origin": self.origin,
            "trained_on": self.trained_on,
        }


def _without_prefix(weights: Mapping[str, Tensor], prefix: str) -> Mapping[str, Tensor]:
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    return own or weights


def origin_of(record: RunRecord, figure: str = "best") -> str:
    """Who made the network that a run left: how long it was trained here, and how well it does."""
    text = f"{TRAINED_HERE} for {record.epochs_done or record.budget['epochs']} epochs"
    accuracy = (record.accuracy or {}).get(figure)
    return text if accuracy is None else f"{text}, test accuracy {accuracy:.2f}"


def first_file(places: Iterable[Path]) -> Path | None:
    """The first of `places` that is a file."""
    return next((place for place in places if place.is_file()), None)


def run_beside(path: Path) -> RunRecord | None:
    """The record of the finished run that left a file, where it lies in that run's directory."""
    record = read_record(path.parent)
    return record if record is not None and record.done else None
