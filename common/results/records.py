"""Finished runs as their `run.json` files tell them, and what runs must share to be averaged."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import UserError

PUBLISHED_CONTENT = "published archive"  # begins what a record says about data whose checksums were right


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Data and budget of a run. Runs of different conditions never stand in one table.

    Attributes:
        content, fingerprint: what the data were, in words and as a digest.
        epochs: trained; `published_epochs`: of the paper.
        batches, eval_batches: limits on batches an epoch and an evaluation; None without a limit.
        precision: mixed precision, or "off" for float32.
    """

    content: str
    fingerprint: str
    epochs: int
    published_epochs: int
    batches: int | None = None
    eval_batches: int | None = None
    precision: str = "off"

    @property
    def published_data(self) -> bool:
        return self.content.startswith(PUBLISHED_CONTENT)

    @property
    def as_published(self) -> bool:
        """Whether data and budget are the paper's."""
        whole = self.batches is None and self.eval_batches is None
        return self.published_data and whole and self.epochs == self.published_epochs

    @property
    def budget(self) -> str:
        """The budget in words."""
        parts = [f"{self.epochs} of {self.published_epochs} epochs"]
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
        best, last: test accuracy in percent at the best epoch and at the last.
        started: time, ISO 8601 in UTC.
    """

    paper: str
    experiment: str
    seed: int
    settings: dict[str, Any]
    conditions: Conditions
    best: float
    last: float
    started: str
    commit: str
    hardware: str


def read_runs(directories: Iterable[Path]) -> tuple[list[Record], list[str]]:
    """All finished runs below `directories`, and remarks about the others.

    Raises:
        UserError: a directory that is not there.
    """
    records, unfinished, unreadable = [], Counter(), []
    for file in _run_files(directories):
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["status"] == "done":
                records.append(_record(content))
            else:
                unfinished[content["status"]] += 1
        except (OSError, ValueError, KeyError, TypeError):
            unreadable.append(f"Left out: {file} is not a complete record of a run.")
    counts = ", ".join(f"{count} {status}" for status, count in sorted(unfinished.items()))
    return records, [*([f"Left out: runs that are not finished ({counts})."] if counts else []), *unreadable]


def _run_files(directories: Iterable[Path]) -> list[Path]:
    files = {}
    for directory in directories:
        if not directory.is_dir():
            raise UserError(f"no directory {directory}")
        for folder, _, names in os.walk(directory):  # does not follow links, so that no run is met twice
            if "run.json" in names:
                file = Path(folder, "run.json")
                files[file.resolve()] = file
    return sorted(files.values())


def _record(content: dict[str, Any]) -> Record:
    settings, data, budget = dict(content["settings"]), content["data"], content["budget"]
    hardware = content["hardware"]
    on_gpu = content["runtime"]["device"] == "cuda"
    return Record(
        content["paper"],
        content["experiment"],
        settings.pop("seed"),
        settings,
        Conditions(
            data["content"],
            data["fingerprint"],
            budget["epochs"],
            budget["published_epochs"],
            budget["batches"],
            settings.get("limit_eval_batches"),
            content["runtime"]["amp"],
        ),
        float(content["accuracy"]["best"]),
        float(content["accuracy"]["last"]),
        content["started"],
        content["commit"],
        hardware["gpu"] if on_gpu else f"{hardware['cpu']} (CPU)",
    )


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
        best, last: accuracy at the best epoch and at the last, over seeds.
        superseded: how many older runs do not count, because a newer one has other settings or the same seed.
    """

    runs: tuple[Record, ...]
    best: Mean
    last: Mean
    superseded: int


def measure(records: list[Record]) -> Measured:
    """Average over seeds. Where settings differ, only the runs with the newest run's settings count."""
    newest = max(records, key=lambda record: record.started)
    by_seed: dict[int, Record] = {}
    for record in sorted(records, key=lambda record: record.started):
        if record.settings == newest.settings:
            by_seed[record.seed] = record
    runs = tuple(by_seed[seed] for seed in sorted(by_seed))
    best, last = Mean.of([run.best for run in runs]), Mean.of([run.last for run in runs])
    return Measured(runs, best, last, len(records) - len(runs))


def measure_all(records: Iterable[Record]) -> dict[Conditions, dict[tuple[str, str], Measured]]:
    """Conditions -> (paper, experiment) -> figures; the conditions nearest to the paper's come first."""
    groups: dict[Conditions, dict[tuple[str, str], list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        groups[record.conditions][record.paper, record.experiment].append(record)

    def distance(conditions: Conditions) -> tuple:
        return not conditions.as_published, not conditions.published_data, -conditions.epochs, str(conditions)

    return {
        conditions: {key: measure(runs) for key, runs in groups[conditions].items()}
        for conditions in sorted(groups, key=distance)
    }
