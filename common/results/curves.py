"""Learning curves as pictures: accuracy by epoch, one line per run. Here is where things lie; the page draws them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from common.results.records import Curve

Point = tuple[float, float]

COLORS = 6  # classes seed-0 ... of the style
_SPACING = 2.0  # pixels between points; a longer curve is thinned out


@dataclasses.dataclass(frozen=True)
class PlotLine:
    """A run's line.

    Attributes:
        name: what it is called.
        color: number of its class in the style.
        points: (x, y) in pixels.
    """

    name: str
    color: int
    points: tuple[Point, ...]

    @property
    def path(self) -> str:
        return " ".join(f"{x},{y}" for x, y in self.points)


@dataclasses.dataclass(frozen=True)
class Plot:
    """A picture, in pixels.

    Attributes:
        label: what it shows, in words.
        width, height: of the picture; left, right, bottom: of the frame in it.
        lines: one a run.
        x_ticks, y_ticks: (place, text) along the axes.
        published: (y, text) of the published figure; None where it is not drawn.
    """

    label: str
    width: int
    height: int
    left: float
    right: float
    bottom: float
    lines: tuple[PlotLine, ...]
    x_ticks: tuple[tuple[float, str], ...] = ()
    y_ticks: tuple[tuple[float, str], ...] = ()
    published: tuple[float, str] | None = None


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Maps epochs and accuracies into a box of a picture."""

    left: float
    top: float
    right: float
    bottom: float
    epochs: Point
    accuracies: Point

    def x(self, epoch: float) -> float:
        return round(self.left + (self.right - self.left) * _share(epoch, *self.epochs), 1)

    def y(self, accuracy: float) -> float:
        return round(self.bottom - (self.bottom - self.top) * _share(accuracy, *self.accuracies), 1)

    def lines(self, curves: Mapping[str, Curve]) -> tuple[PlotLine, ...]:
        most = int((self.right - self.left) / _SPACING)
        return tuple(
            PlotLine(name, i % COLORS, tuple((self.x(e), self.y(a)) for e, a in _thinned(curve.points, most)))
            for i, (name, curve) in enumerate(curves.items())
        )


def sparkline(curves: Mapping[str, Curve]) -> Plot:
    """Small lines without axes. `curves` maps what a line is called to the line."""
    width, height = 88, 24
    frame = _Frame(2, 3, width - 3, height - 3, *_ranges(curves.values()))
    return Plot(_label(curves), width, height, frame.left, frame.right, frame.bottom, frame.lines(curves))


def chart(curves: Mapping[str, Curve], published: float | None = None) -> Plot:
    """Lines with axes.

    Args:
        curves: what a line is called -> the line.
        published: drawn as a dashed line.
    """
    width, height = 440, 200
    epochs, accuracies = _ranges(curves.values(), *([] if published is None else [published]))
    marks = ticks(*accuracies)
    frame = _Frame(38, 10, width - 20, height - 32, epochs, (marks[0], marks[-1]))
    return Plot(
        _label(curves),
        *(width, height, frame.left, frame.right, frame.bottom, frame.lines(curves)),
        x_ticks=tuple((frame.x(tick), f"{tick:g}") for tick in _epoch_ticks(*epochs)),
        y_ticks=tuple((frame.y(tick), f"{tick:g}") for tick in marks),
        published=None if published is None else (frame.y(published), f"{published:.2f}"),
    )


def _label(curves: Mapping[str, Curve]) -> str:
    ends = ", ".join(f"{name} {curve.points[-1][1]:.2f}" for name, curve in curves.items())
    return f"Accuracy by epoch; at the end: {ends}"


def _share(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low)


def _thinned(points: Sequence[Point], count: int) -> Sequence[Point]:
    """About `count` of the points or fewer, evenly, with the last."""
    step = math.ceil(len(points) / count)
    return points if step == 1 else [*points[:-1:step], points[-1]]


def _ranges(curves: Iterable[Curve], *accuracies: float) -> tuple[Point, Point]:
    """What the axes must hold: (first, last) epoch and (lowest, highest) accuracy, never empty."""
    points = [point for curve in curves for point in curve.points]
    return _interval([epoch for epoch, _ in points]), _interval([*accuracies, *(value for _, value in points)])


def _interval(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`, about five."""
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [round(i * step, 10) for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def _epoch_ticks(first: float, last: float) -> list[float]:
    """Whole epochs: the first and the last, and round ones that do not come too near to these."""
    ends = {math.ceil(first), math.floor(last)}
    between = (tick for tick in ticks(first, last) if 0.1 < _share(tick, first, last) < 0.9 and tick == int(tick))
    return sorted({*ends, *between})
