"""Finished runs as their own files tell them, and what runs must share to be averaged."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError

TRAINED_HERE = "trained here"  # begins what a record says of a teacher that an earlier run left
PUBLISHED_CONTENT = "published "  # begins what a record says of data whose checksums, or layout and counts, are right


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Data and budget of a run. Runs of different conditions are never averaged.

    Attributes:
        content, fingerprint: what the data were, in words and as a digest.
        dataset: name of the data set.
        epochs: trained; `published_epochs`: of the paper.
        batches, eval_batches: limits on batches an epoch and an evaluation; None without a limit.
        precision: mixed precision, or "off" for float32.
        other_batch_size: whether batches are not of the paper's size.
    """

    content: str
    fingerprint: str
    dataset: str
    epochs: int
    published_epochs: int
    batches: int | None = None
    eval_batches: int | None = None
    precision: str = "off"
    other_batch_size: bool = False

    @property
    def published_data(self) -> bool:
        return self.content.startswith(PUBLISHED_CONTENT)

    @property
    def as_published(self) -> bool:
        """Whether data and budget are the paper's."""
        whole = self.batches is None and self.eval_batches is None and not self.other_batch_size
        return self.published_data and whole and self.epochs == self.published_epochs

    def beside(self, other: Conditions) -> bool:
        """Whether both can stand in one table: the same budget, on different sets that are both real or both not."""
        mine, others = (dataclasses.replace(c, content="", dataset="", fingerprint="") for c in (self, other))
        return mine == others and self.published_data == other.published_data and self.dataset != other.dataset

    @property
    def distance(self) -> tuple:
        """Sorts the conditions nearest to the paper's first."""
        return not self.as_published, not self.published_data, -self.epochs, str(self)

    @property
    def budget(self) -> str:
        """The budget in words."""
        return self._in_words(f"{self.epochs} of {self.published_epochs} epochs")

    @property
    def training(self) -> str:
        """The same without the paper's: how long was trained, whatever is published."""
        return self._in_words(f"{self.epochs} epochs")

    def _in_words(self, epochs: str) -> str:
        parts = [epochs]
        if self.batches is not None:
            parts.append(f"at most {self.batches} batches an epoch")
        if self.eval_batches is not None:
            parts.append(f"tested on at most {self.eval_batches} batches")
        if self.precision != "off":
            parts.append(f"precision {self.precision}")
        return ", ".join(parts)


@dataclasses.dataclass(frozen=True)
class Record:
    """One finished run.

    Attributes:
        paper, experiment: what the tables know it by.
        settings: everything that made the run, but the seed.
        teacher: name and origin ("resnet56: trained here for 240 epochs"); None where the record does not say.
        best, last, selected: test accuracy in percent at the best epoch, at the last, and at the one that a validation
            part chose; None where it was not measured.
        started: time, ISO 8601 in UTC.
        directory: of the run; holds `run.json` and `metrics.jsonl`.
        command, called_in: what was typed, and the working directory.
    """

    paper: str
    experiment: str
    seed: int
    settings: dict[str, Any]
    conditions: Conditions
    best: float | None
    last: float | None
    selected: float | None
    started: str
    commit: str
    hardware: str
    directory: Path
    command: tuple[str, ...]
    called_in: str
    teacher: str | None = None

    @property
    def batch_size(self) -> int | None:
        return _batch_size(self.settings)

    @property
    def method(self) -> str | None:
        return self.settings.get("method", self.settings.get("DISTILLER.TYPE"))

    def curve(self) -> Curve | None:
        """Accuracy by epoch, from `metrics.jsonl`; None without one, or with a damaged one."""
        try:
            lines = (self.directory / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            epochs = [json.loads(line) for line in lines]
            part = "test" if "test/accuracy" in epochs[0] else "validation"
            points = tuple((int(epoch["epoch"]) + 1, float(epoch[f"{part}/accuracy"])) for epoch in epochs)
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        return Curve(part, points) if all(math.isfinite(accuracy) for _, accuracy in points) else None


@dataclasses.dataclass(frozen=True)
class Curve:
    """Accuracy in percent on a `part` of the data, "test" or "validation", by number of finished epochs."""

    part: str
    points: tuple[tuple[int, float], ...]


def _precision(runtime: dict[str, Any]) -> str:
    """That of convolutions: "off" for float32, else its name."""
    return "tf32" if runtime.get("tf32") and runtime["amp"] == "off" else runtime["amp"]


def _batch_size(settings: dict[str, Any]) -> int | None:
    return settings.get("batch_size", settings.get("SOLVER.BATCH_SIZE"))


def read_runs(directories: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """All finished runs below `directories` (or in `run.json` files), and remarks about the others.

    Raises:
        UserError: a directory or file that is not there.
    """
    records, unfinished, unreadable = [], Counter(), []
    for file in _run_files(directories):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["status"] == "done":
                records.append(_record(content, file.parent))
            else:
                unfinished[content["status"]] += 1
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            unreadable.append(f"Left out: {file} is not a complete record of a run.")
    counts = ", ".join(f"{count} {status}" for status, count in sorted(unfinished.items()))
    return records, [*([f"Left out: runs that are not finished ({counts})."] if counts else []), *unreadable]


def _run_files(directories: Iterable[Path]) -> list[Path]:
    files = {}
    for directory in directories:
        if directory.is_file():
            files[directory.resolve()] = directory
        elif not directory.is_dir():
            raise UserError(f"no directory {directory}")
        for folder, _, names in os.walk(directory):  # does not follow links, so that no run is met twice
            if "run.json" in names:
                file = Path(folder, "run.json")
                files[file.resolve()] = file
    return sorted(files.values())


def _record(content: dict[str, Any], directory: Path) -> Record:
    settings, data, budget = dict(content["settings"]), content["data"], content["budget"]
    hardware, accuracy = content["hardware"], content["accuracy"]
    figures = [accuracy.get(key) for key in ("best", "last", "selected_by_validation")]
    if content.get("validation"):  # trained without a look at the test set, so that nothing was chosen on it
        figures[0] = None
    if all(figure is None for figure in figures):
        raise ValueError("no accuracy")
    on_gpu = content["runtime"]["device"] == "cuda"
    teacher = _teacher(content, settings)
    batch_size = _batch_size(settings)
    published_batch_size = budget.get("published_batch_size", batch_size)
    return Record(
        content["paper"],
        content["experiment"],
        settings.pop("seed"),
        settings,
        Conditions(
            data["content"],
            data["fingerprint"],
            data.get("name", ""),
            budget["epochs"],
            budget["published_epochs"],
            budget["batches"],
            settings.get("limit_eval_batches"),
            _precision(content["runtime"]),
            batch_size != published_batch_size,
        ),
        *figures,
        content["started"],
        content["commit"],
        hardware["gpu"] if on_gpu else f"{hardware['cpu']} (CPU)",
        directory,
        tuple(content["command"]),
        content.get("directory", ""),
        teacher,
    )


def _teacher(content: dict[str, Any], settings: dict[str, Any]) -> str | None:
    """Name and origin of the teacher, or of each of several.

    One that was trained here is another one for each seed, and takes part in what a seed changes: in the settings how
    long it was trained takes the place of its digest, by which no two seeds would ever be averaged.
    """
    described = content.get("teacher") or []
    teachers = described if isinstance(described, list) else [described]
    if not teachers or any(teacher.get("origin") is None for teacher in teachers):
        return None
    origins = [teacher["origin"] for teacher in teachers]
    trained = [origin.partition(",")[0] if origin.startswith(TRAINED_HERE) else None for origin in origins]
    if members := settings.get("teachers"):  # of an ensemble
        names = [member["name"] for member in members]
        settings["teachers"] = [
            {**member, "checkpoint": here or member["checkpoint"]}
            for member, here in zip(members, trained, strict=True)
        ]
    else:
        names = settings.get("DISTILLER.TEACHER", "teacher")
        names = names if isinstance(names, list) else [names]
        if any(trained):
            digests = str(settings.get("teacher")).split("+")
            settings["teacher"] = "+".join(here or digest for here, digest in zip(trained, digests, strict=True))
    shown = [here or origin for here, origin in zip(trained, origins, strict=True)]  # without its accuracy
    return ", ".join(f"{name}: {origin}" for name, origin in zip(names, shown, strict=True))


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean and, of two runs or more, standard deviation (of a sample) over seeds."""

    value: float
    std: float | None

    @classmethod
    def of(cls, values: list[float]) -> Mean:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What the runs of one experiment under the same conditions give.

    Attributes:
        runs: those that count, one a seed.
        best, last, selected: the runs' figures of these names, over seeds; None where a run lacks it.
        superseded: how many older runs do not count, because a newer one has other settings or the same seed.
    """

    runs: tuple[Record, ...]
    best: Mean | None
    last: Mean | None
    selected: Mean | None
    superseded: int


def measure(records: list[Record]) -> Measured:
    """Average over seeds. Where settings differ, only the runs with the newest run's settings count."""
    newest = max(records, key=lambda record: record.started)
    by_seed: dict[int, Record] = {}
    for record in sorted(records, key=lambda record: record.started):
        if record.settings == newest.settings:
            by_seed[record.seed] = record
    runs = tuple(by_seed[seed] for seed in sorted(by_seed))
    return Measured(runs, *(_mean(runs, name) for name in ("best", "last", "selected")), len(records) - len(runs))


def _mean(runs: Sequence[Record], name: str) -> Mean | None:
    values = [getattr(run, name) for run in runs]
    return None if None in values else Mean.of(values)


def measure_all(records: Iterable[Record]) -> dict[Conditions, dict[tuple[str, str], Measured]]:
    """Conditions -> (paper, experiment) -> figures; the conditions nearest to the paper's come first."""
    groups: dict[Conditions, dict[tuple[str, str], list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[record.conditions][record.paper, record.experiment].append(record)

    return {
        conditions: {key: measure(runs) for key, runs in groups[conditions].items()}
        for conditions in sorted(groups, key=lambda conditions: conditions.distance)
    }
