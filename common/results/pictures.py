"""Learning curves of many runs as one picture (SVG): a panel for each paper and budget, a line for each experiment."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import statistics
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from common.errors import UserError
from common.results.curves import COLORS, Plot, chart
from common.results.page import render_template
from common.results.records import Conditions, Curve, Record, SeedSummary, measure_all
from common.results.report import FIGURE_NAMES

_LINE = 15  # pixels from one line of text to the next
_COLUMN = 22  # characters of the longest name of which three go beside each other
_ROW = 76  # characters that fit in a panel


@dataclasses.dataclass(frozen=True)
class Name:
    """What a line is called, as a legend has it.

    Attributes:
        color: number of the line's class in the style.
        x, y: of its beginning, from that of the legend, in pixels.
        lines: of text.
    """

    color: int
    x: int
    y: int
    lines: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Panel:
    """A part of a picture.

    Attributes:
        title: for people; subtitles: lines below it.
        curves: what a line is called -> the line; as many as there are colors.
    """

    title: str
    subtitles: Sequence[str]
    curves: Mapping[str, Curve]

    @functools.cached_property
    def plot(self) -> Plot:
        return chart(self.curves)

    @functools.cached_property
    def legend(self) -> list[Name]:
        """Three short names beside each other; long ones below each other, in several lines."""
        if max(map(len, self.curves)) <= _COLUMN:
            return [Name(i, 145 * (i % 3), _LINE * (i // 3), [name]) for i, name in enumerate(self.curves)]
        texts = [textwrap.wrap(name, _ROW) for name in self.curves]
        above = itertools.accumulate(map(len, texts), initial=0)
        return [Name(i, 0, _LINE * row, lines) for i, (row, lines) in enumerate(zip(above, texts, strict=False))]

    @property
    def top(self) -> int:
        """Where the plot begins, in pixels."""
        return 29 + _LINE * len(self.subtitles)

    @property
    def height(self) -> int:
        """In pixels, with title and legend."""
        last = self.legend[-1]
        return self.top + self.plot.height + last.y + _LINE * len(last.lines) + 6


def render_panels(panels: Sequence[Panel], label: str) -> str:
    """The picture; `label` says what it shows, for those who cannot see it."""
    height = max((panel.height for panel in panels), default=0)
    return render_template("panels.svg", panels=panels, height=height, label=label) + "\n"


def draw_runs(records: Iterable[Record]) -> str:
    """The picture of finished runs, seeds averaged as in the tables.

    Raises:
        UserError: none of them has a curve.
    """
    panels = [panel for conditions, group in measure_all(records).items() for panel in _panels(conditions, group)]
    if not panels:
        raise UserError("there are no curves to draw: no finished run has a complete metrics.jsonl")
    return render_panels(panels, "Accuracy by epoch: " + "; ".join(dict.fromkeys(panel.title for panel in panels)))


def _panels(conditions: Conditions, group: Mapping[tuple[str, str], SeedSummary]) -> Iterator[Panel]:
    for paper in dict.fromkeys(paper for paper, _ in group):
        lines = {
            f"{experiment} – {_figure(summary)}": curve
            for (of_paper, experiment), summary in sorted(group.items())
            if of_paper == paper and (curve := _mean_curve(summary.runs))
        }
        for first in range(0, len(lines), COLORS):
            names = list(lines)[first : first + COLORS]
            splits = " and ".join(dict.fromkeys(lines[name].split for name in names))
            yield Panel(
                f"{paper}, {conditions.dataset}",
                (
                    *textwrap.wrap(conditions.budget, _ROW),
                    f"{splits} accuracy in %, mean over seeds; {conditions.content}",
                ),
                {name: lines[name] for name in names},
            )


def _figure(summary: SeedSummary) -> str:
    """The mean that tables show of the experiment, of its last epoch where it was tested there."""
    means = ((name, getattr(summary, name)) for name in ("last", "selected", "best"))
    figure = next((f"{FIGURE_NAMES[name]} {mean}" for name, mean in means if mean), "")
    return f"{figure} ({len(summary.runs)} seed{'s' if len(summary.runs) > 1 else ''})"


def _mean_curve(runs: Sequence[Record]) -> Curve | None:
    """The mean over seeds at each epoch; None where a run has no curve, or one of another split."""
    curves = [curve for run in runs if (curve := run.curve())]
    if len(curves) < len(runs) or len({curve.split for curve in curves}) > 1:
        return None
    epochs = zip(*(curve.points for curve in curves), strict=False)
    points = ((same[0][0], statistics.fmean(accuracy for _, accuracy in same)) for same in epochs)
    return Curve(curves[0].split, tuple(points))
