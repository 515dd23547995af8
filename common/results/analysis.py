"""What runs say beyond accuracy (docs/metrics.md): columns of tables, a small table, a reliability diagram."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.analysis import MEAN
from common.command_line import nearest
from common.errors import UserError
from common.results.records import Mean, Record

LAST, BEST = "last", "best"
# that some papers' runs leave -> what they show
PICTURES = {
    "exits.svg": "accuracy over MACs of each exit; second line: the early-exit policy as its threshold moves",
    "teacher_agreement.svg": "agreement with each teacher beside the weight that the agent gave it, by class",
}
MOST_PICTURE_BYTES = 1 << 20  # of one that is embedded in the page
Part = Mapping[str, Any]


def _taught(key: str) -> Callable[[Part, Part], Any]:
    """Of the one teacher, or of the mean of several."""

    def value(test: Part, train: Part) -> Any:
        fidelity = test["fidelity"]
        return (fidelity.get(MEAN) or next(iter(fidelity.values()), {})).get(key)

    return value


def _train_agreement(test: Part, train: Part) -> Any:
    shares = train["agreement"]
    return shares.get(MEAN, next(iter(shares.values()), None))


@dataclasses.dataclass(frozen=True)
class Metric:
    """One of the figures.

    Attributes:
        title: as a column's head.
        digits: after the point.
        value: from the analysis of an epoch on the test and on the training split.
    """

    title: str
    digits: int
    value: Callable[[Part, Part], Any]


METRICS = {
    "agreement": Metric("agreement, %", 2, _taught("agreement")),
    "agreement_where_teacher_wrong": Metric("agreement where wrong, %", 2, _taught("agreement_where_teacher_wrong")),
    "kl": Metric("KL", 3, _taught("kl")),
    "kl_at_temperature": Metric("KL at its temperature", 3, _taught("kl_at_temperature")),
    "nll": Metric("NLL", 3, lambda test, train: test["nll"]),
    "ece": Metric("ECE, %", 2, lambda test, train: test["ece"]),
    "optimal_temperature": Metric("best temperature", 3, lambda test, train: test["optimal_temperature"]),
    "ece_at_optimal_temperature": Metric("ECE after it, %", 2, lambda test, train: test["ece_at_optimal_temperature"]),
    "train_accuracy": Metric("accuracy on training images, %", 2, lambda test, train: train["accuracy"]),
    "train_agreement": Metric("agreement on training images, %", 2, _train_agreement),
}


def parse_metrics(text: str) -> tuple[str, ...]:
    """Names from a list such as `agreement,ece`.

    Raises:
        UserError: a name that there is not.
    """
    names = tuple(dict.fromkeys(name for name in text.split(",") if name))
    for name in names:
        if name not in METRICS:
            hint = nearest(name, METRICS, "docs/metrics.md")
            raise UserError(f"--metrics: no metric '{name}' among {', '.join(METRICS)}: {hint}")
    if not names:
        raise UserError(f"--metrics: give names, of {', '.join(METRICS)}")
    return names


def figure(run: Record, name: str, epoch: str = LAST) -> float | None:
    """A metric of one run; None where it has none, or a record that was tampered with."""
    try:
        analysis = run.analysis or {}
        value = METRICS[name].value(analysis["test"][epoch], analysis.get("train", {}).get(epoch, {}))
    except (KeyError, TypeError, AttributeError):
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None


def mean_figure(runs: Sequence[Record], name: str, epoch: str = LAST) -> str | None:
    """A metric over seeds, as text; None where a run lacks it."""
    values = [value for run in runs if (value := figure(run, name, epoch)) is not None]
    if not values or len(values) < len(runs):
        return None
    mean, digits = Mean.of(values), METRICS[name].digits
    return f"{mean:.{digits}f}"


@dataclasses.dataclass(frozen=True)
class ReliabilityDiagram:
    """Accuracy over confidence, in pixels.

    Attributes:
        label: what it shows, in words.
        size: of the picture; left, top, side: of the square frame in it.
        bars: (x, y, width, height, words), one for each bin that has images.
    """

    label: str
    size: int
    left: float
    top: float
    side: float
    bars: tuple[tuple[float, float, float, float, str], ...]


@dataclasses.dataclass(frozen=True)
class Picture:
    """One that the runs of a row left, each its own.

    Attributes:
        words: what it shows.
        source: the first run's, as a data URI; None where that is no SVG, or too large for a page.
        files: seed and file of each run that has it.
    """

    words: str
    source: str | None
    files: tuple[tuple[int, Path], ...]


@dataclasses.dataclass(frozen=True)
class AnalysisSummary:
    """What the page shows of the runs of a row.

    Attributes:
        rows: metric, its value of the last epoch and of the best one.
        diagram: of the last epoch, over all seeds; None where a run has no bins.
        pictures: further ones in the directories of the runs.
    """

    rows: tuple[tuple[str, str, str], ...]
    diagram: ReliabilityDiagram | None
    pictures: tuple[Picture, ...]


def summarize(runs: Sequence[Record]) -> AnalysisSummary | None:
    """None where no run has an analysis."""
    rows = []
    for name, metric in METRICS.items():
        last, best = (mean_figure(runs, name, epoch) for epoch in (LAST, BEST))
        if last is not None:
            rows.append((metric.title, last, best or "–"))
    pictures = [picture for name in PICTURES if (picture := _picture(runs, name)) is not None]
    if not rows and not pictures:
        return None
    return AnalysisSummary(tuple(rows), reliability_diagram(runs), tuple(pictures))


def _picture(runs: Sequence[Record], name: str) -> Picture | None:
    files = tuple((run.seed, file) for run in runs if (file := run.directory / name).is_file())
    if not files:
        return None
    content, (_, first) = b"", files[0]
    with contextlib.suppress(OSError):
        content = first.read_bytes() if first.stat().st_size <= MOST_PICTURE_BYTES else b""
    is_svg = b"<svg" in content[:1000]
    # as an image, and not as a part of the page: a script in it would not be executed
    source = f"data:image/svg+xml;base64,{base64.b64encode(content).decode()}" if is_svg else None
    return Picture(PICTURES[name], source, files)


def reliability_diagram(runs: Sequence[Record], size: int = 220) -> ReliabilityDiagram | None:
    """The bins of all runs together."""
    try:
        of_runs = [(run.analysis or {})["test"][LAST]["bins"] for run in runs]
        bins = [_pooled(each) for each in zip(*of_runs, strict=True)]
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    if not bins:
        return None
    left, top, side, width = 34.0, 8.0, size - 46.0, 1 / len(bins)
    bars = tuple(
        (
            round(left + side * i * width, 1),
            round(top + side * (1 - accuracy / 100), 1),
            round(side * width - 1, 1),
            round(side * accuracy / 100, 1),
            f"confidence {confidence:.1f}, accuracy {accuracy:.1f}, {count} images",
        )
        for i, (count, confidence, accuracy) in enumerate(bins)
        if count
    )
    shown = "; ".join(words for *_, words in bars)
    return ReliabilityDiagram(f"Accuracy by confidence: {shown}", size, left, top, side, bars)


def _pooled(bins: Sequence[Mapping[str, Any]]) -> tuple[int, float, float]:
    """Count, mean confidence and accuracy of one bin over several runs."""
    count = sum(int(each["count"]) for each in bins)
    if not count:
        return 0, 0.0, 0.0
    confidence, accuracy = (
        sum(each["count"] * float(each[key]) for each in bins if each["count"]) / count
        for key in ("confidence", "accuracy")
    )
    if not (0 <= confidence <= 100 and 0 <= accuracy <= 100):
        raise ValueError("no shares")
    return count, confidence, accuracy
