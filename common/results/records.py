"""Finished runs as their own files tell them, and what runs must share to be averaged."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.command_line import printable
from common.errors import UserError
from common.field_types import require_field_types
from common.run_record import (
    METRICS,
    NAME,
    TRAINED_HERE,
    Computing,
    RunRecord,
    Segment,
    Teacher,
    read_metrics,
    read_record,
    record_directories,
)

PUBLISHED_CONTENT = "published "  # begins what a record says of data whose checksums, or layout and counts, are right


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Data and budget of a run. Runs of different conditions are never averaged.

    Attributes:
        content, fingerprint: what the data were, in words and as a digest.
        dataset: name of the dataset.
        epochs: trained; `published_epochs`: of the paper.
        batches, eval_batches: limits on batches per epoch and an evaluation; None without a limit.
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

    def is_comparable(self, other: Conditions) -> bool:
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
            parts.append(f"at most {self.batches} batches per epoch")
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
            split chose; None where it was not measured.
        started: time, ISO 8601 in UTC.
        commit, hardware: on which its epochs were computed; of several, all of them.
        mixed: in what the starts that computed them differ.
        directory: of the run; holds `run.json` and `metrics.jsonl`.
        command, called_in: what was typed, and the working directory.
        method, batch_size: what was trained, and samples per step over all ranks.
        analysis: fidelity and calibration (docs/metrics.md); None of runs from before there was one.
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
    mixed: tuple[str, ...]
    directory: Path
    command: tuple[str, ...]
    called_in: str
    teacher: str | None = None
    method: str | None = None
    batch_size: int | None = None
    analysis: dict[str, Any] | None = None

    def curve(self) -> Curve | None:
        """Accuracy by epoch, from `metrics.jsonl`; None without one, or with a damaged one."""
        try:
            return _curve(self.directory)
        except (OSError, ValueError):
            return None


@dataclasses.dataclass(frozen=True)
class Curve:
    """Accuracy in percent on a `split` of the data, "test" or "validation", by number of finished epochs."""

    split: str
    points: tuple[tuple[int, float], ...]


def _curve(directory: Path) -> Curve:
    """Raises:
    OSError, ValueError: no `metrics.jsonl`, or a damaged one.
    """
    lines = read_metrics(directory)
    split = "test" if lines and "test/accuracy" in lines[0] else "validation"
    points = tuple((epoch, _percentage(line.get(f"{split}/accuracy"))) for epoch, line in enumerate(lines, 1))
    if not points:
        raise ValueError("no epoch")
    return Curve(split, points)


def _percentage(value: Any) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 100.0001:
        raise ValueError(f"no percentage: {value!r:.40}")
    return float(value)


def _has_damaged_curve(directory: Path) -> bool:
    """Whether there is a `metrics.jsonl` that cannot be shown."""
    try:
        _curve(directory)
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        return True
    return False


def _precision(runtime: Computing) -> str:
    """That of convolutions: "off" for float32, else its name."""
    return "tf32" if runtime.get("tf32") and runtime["amp"] == "off" else runtime["amp"]


def read_runs(directories: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """All finished runs below `directories` (or in `run.json` files), and messages about the others.

    Raises:
        UserError: a directory or file that is not there.
    """
    records, unfinished, messages, blind = [], Counter(), [], 0
    for directory in _run_directories(directories):
        record = read_record(directory)
        if record is not None and record.done and record.accuracy is None and record.validation:
            blind += 1
        elif record is not None and not record.done:
            unfinished[record.status] += 1
        elif record is not None and (finished := _finished(record, directory)):
            records.append(finished)
            if _has_damaged_curve(directory):
                messages.append(f"Left out: the curve in {printable(directory / METRICS)}, which is damaged.")
        else:
            messages.append(f"Left out: {printable(directory / NAME)} is not a complete record of a run.")
    counts = ", ".join(f"{count} {status}" for status, count in sorted(unfinished.items()))
    if blind:
        messages.insert(0, f"Left out: runs that never looked at the test split ({blind}).")
    return records, [*([f"Left out: runs that are not finished ({counts})."] if counts else []), *messages]


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A run that did not come to its end.

    Attributes:
        paper, experiment: what the tables know it by.
        status: "failed", "stopped" or "running".
        reason: why, and how far it came.
        epochs, batches: of its budget.
        directory: of the run.
    """

    paper: str
    experiment: str
    status: str
    reason: str
    epochs: int | None
    batches: int | None
    directory: Path


def unfinished_runs(directories: Iterable[Path]) -> list[Unfinished]:
    """The runs below `directories` that are not finished, oldest first."""
    found = []
    for directory in _run_directories(directories):
        record = read_record(directory)
        if record is not None and not record.done:
            epochs = record.budget.get("epochs")
            reason = f"{record.error or record.status}; {record.epochs_done} of {epochs} epochs are finished"
            what = (record.paper, record.experiment, record.status, reason, epochs, record.budget.get("batches"))
            found.append((record.started, Unfinished(*what, directory)))
    return [run for _, run in sorted(found, key=lambda pair: pair[0])]


def _run_directories(given: Iterable[Path]) -> list[Path]:
    """The directories of runs below those that are given, each once."""
    found = {}
    for place in given:
        if place.is_file():
            found[place.parent.resolve()] = place.parent
        elif not place.is_dir():
            raise UserError(f"no directory {place}")
        found |= {directory.resolve(): directory for directory in record_directories(place)}
    return sorted(found.values())


def _finished(record: RunRecord, directory: Path) -> Record | None:
    """What tables show of a finished run; None where it lacks what they need."""
    try:
        finished = _record(record, directory)
        require_field_types(finished)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return finished


def _record(record: RunRecord, directory: Path) -> Record:
    data, budget, accuracy = record.data, record.budget, record.accuracy
    if accuracy is None:
        raise ValueError("no accuracy")
    # who trains without a look at the test set chooses nothing on it
    best = None if record.validation else accuracy.get("best")
    last, selected = accuracy.get("last"), accuracy.get("selected_by_validation")
    if best is None and last is None and selected is None:
        raise ValueError("no accuracy")
    settings = {key: value for key, value in record.settings.items() if key != "seed"}
    teachers = [_known_as(teacher) for teacher in record.teachers]
    conditions = Conditions(
        content=data["content"],
        fingerprint=data["fingerprint"],
        dataset=data.get("name", ""),
        epochs=budget["epochs"],
        published_epochs=budget["published_epochs"],
        batches=budget["batches"],
        eval_batches=settings.get("limit_eval_batches"),
        precision=_precision(record.segments[-1].runtime),
        other_batch_size=record.batch_size != budget["published_batch_size"],
    )
    return Record(
        paper=record.paper,
        experiment=record.experiment,
        seed=record.seed,
        settings={**settings, "teachers' weights": teachers},
        conditions=conditions,
        best=best,
        last=last,
        selected=selected,
        started=record.started,
        commit=" + ".join(dict.fromkeys(segment.commit for segment in record.computed)),
        hardware=" + ".join(dict.fromkeys(_hardware(segment) for segment in record.computed)),
        mixed=tuple(record.mixed),
        directory=directory,
        command=tuple(record.command),
        called_in=record.directory,
        teacher=_teacher(record),
        method=record.method,
        batch_size=record.batch_size,
        analysis=record.analysis,
    )


def _hardware(segment: Segment) -> str:
    gpu, cpu = segment.hardware["gpu"], segment.hardware["cpu"]
    if segment.runtime["device"] != "cuda":
        return f"{cpu} (CPU)"
    if gpu is None:
        raise ValueError("computed on a GPU without a name")
    return gpu


def _known_as(teacher: Teacher) -> str | None:
    """By what runs of the same teacher are averaged.

    One that was trained here is another one for each seed, and takes part in what a seed changes: how long it was
    trained takes the place of its digest, by which no two seeds would ever be averaged.
    """
    origin = teacher.get("origin") or ""
    return _without_accuracy(origin) if origin.startswith(TRAINED_HERE) else teacher.get("digest")


def _without_accuracy(origin: str) -> str:
    return origin.partition(",")[0] if origin.startswith(TRAINED_HERE) else origin


def _teacher(record: RunRecord) -> str | None:
    """Name and origin of the teacher, or of each of several; None where the record does not say."""
    described = []
    for teacher in record.teachers:
        if (origin := teacher.get("origin")) is None:
            return None
        described.append(f"{teacher.get('name', 'teacher')}: {_without_accuracy(origin)}")
    return ", ".join(described) or None


@dataclasses.dataclass(frozen=True)
class Mean:
    """Mean and, of two runs or more, standard deviation (of a sample) over seeds."""

    value: float
    std: float | None

    @classmethod
    def of(cls, values: list[float]) -> Mean:
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    def __format__(self, spec: str) -> str:
        """Both by a number's `spec`; two digits where none is given."""
        spec = spec or ".2f"
        return format(self.value, spec) + ("" if self.std is None else f" ± {format(self.std, spec)}")

    def __str__(self) -> str:
        return format(self)


@dataclasses.dataclass(frozen=True)
class SeedSummary:
    """What the runs of one experiment under the same conditions give.

    Attributes:
        conditions: data and budget of all of them.
        runs: those that count, one a seed.
        best, last, selected: the runs' figures of these names, over seeds; None where a run lacks it.
        superseded: how many older runs do not count, because a newer one has other settings or the same seed.
    """

    conditions: Conditions
    runs: tuple[Record, ...]
    best: Mean | None
    last: Mean | None
    selected: Mean | None
    superseded: int


def measure(records: list[Record]) -> SeedSummary:
    """Average over seeds runs of the same conditions; where settings differ, only those with the newest run's count."""
    newest = max(records, key=lambda record: record.started)
    by_seed: dict[int, Record] = {}
    for record in sorted(records, key=lambda record: record.started):
        if record.settings == newest.settings:
            by_seed[record.seed] = record
    runs = tuple(by_seed[seed] for seed in sorted(by_seed))
    return SeedSummary(
        conditions=newest.conditions,
        runs=runs,
        best=_mean([run.best for run in runs]),
        last=_mean([run.last for run in runs]),
        selected=_mean([run.selected for run in runs]),
        superseded=len(records) - len(runs),
    )


def _mean(values: Sequence[float | None]) -> Mean | None:
    known = [value for value in values if value is not None]
    return Mean.of(known) if len(known) == len(values) else None


def measure_all(records: Iterable[Record]) -> dict[Conditions, dict[tuple[str, str], SeedSummary]]:
    """Conditions -> (paper, experiment) -> figures; the conditions nearest to the paper's come first."""
    groups: dict[Conditions, dict[tuple[str, str], list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[record.conditions][record.paper, record.experiment].append(record)

    return {
        conditions: {key: measure(runs) for key, runs in groups[conditions].items()}
        for conditions in sorted(groups, key=lambda conditions: conditions.distance)
    }
