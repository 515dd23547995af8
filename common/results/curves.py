"""Learning curves as SVG: accuracy by epoch, one line a run. Colours and type come from the page's style."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence

from common.results.markup import Html, tag
from common.results.records import Curve

Point = tuple[float, float]

COLORS = 6  # classes seed-0 ... of the style
_SPACING = 2.0  # pixels between points; a longer curve is thinned out


@dataclasses.dataclass(frozen=True)
class _Frame:
    """Maps epochs and accuracies into a box of an image."""

    left: float
    top: float
    right: float
    bottom: float
    epochs: tuple[float, float]
    accuracies: tuple[float, float]

    def x(self, epoch: float) -> float:
        return self.left + (self.right - self.left) * _share(epoch, *self.epochs)

    def y(self, accuracy: float) -> float:
        return self.bottom - (self.bottom - self.top) * _share(accuracy, *self.accuracies)

    def curve(self, curve: Curve, color: int, title: str) -> Html:
        """The line, and a dot where it ends."""
        points = _thinned(curve.points, int((self.right - self.left) / _SPACING))
        path = " ".join(f"{self.x(epoch):.1f},{self.y(accuracy):.1f}" for epoch, accuracy in points)
        end, last = points[-1]
        return tag(
            "g",
            tag("title", title),
            tag("polyline", points=path),
            tag("circle", cx=f"{self.x(end):.1f}", cy=f"{self.y(last):.1f}", r="2"),
            class_=f"seed-{color % COLORS}",
        )


def sparkline(curves: dict[str, Curve]) -> Html:
    """Small lines without axes. `curves` maps what a line is called to the line."""
    width, height = 88, 24
    frame = _Frame(2, 3, width - 3, height - 3, *_ranges(curves.values()))
    lines = [frame.curve(curve, i, name) for i, (name, curve) in enumerate(curves.items())]
    return _svg("sparkline", width, height, _label(curves), *lines)


def chart(curves: dict[str, Curve], published: float | None = None) -> Html:
    """Lines with axes.

    Args:
        curves: what a line is called -> the line.
        published: drawn as a dashed line.
    """
    width, height = 440, 200
    epochs, accuracies = _ranges(curves.values(), *([] if published is None else [published]))
    marks = ticks(*accuracies)
    frame = _Frame(38, 10, width - 20, height - 32, epochs, (marks[0], marks[-1]))
    parts = []
    for tick in marks:
        y = f"{frame.y(tick):.1f}"
        parts.append(tag("line", x1=str(frame.left), x2=str(frame.right), y1=y, y2=y, class_="grid"))
        parts.append(tag("text", f"{tick:g}", x=str(frame.left - 6), y=y, dy="0.32em", text_anchor="end"))
    for tick in _epoch_ticks(*epochs):
        x = f"{frame.x(tick):.1f}"
        parts.append(tag("text", f"{tick:g}", x=x, y=str(frame.bottom + 15), text_anchor="middle"))
    parts.append(tag("text", "epoch", x=str(frame.right), y=str(height - 3), text_anchor="end"))
    if published is not None:
        y = f"{frame.y(published):.1f}"
        parts.append(tag("line", x1=str(frame.left), x2=str(frame.right), y1=y, y2=y, class_="published"))
        parts.append(tag("text", f"published {published:.2f}", x=str(frame.left + 4), y=y, dy="-0.4em"))
    parts += [frame.curve(curve, i, name) for i, (name, curve) in enumerate(curves.items())]
    return _svg("chart", width, height, _label(curves), *parts)


def _svg(kind: str, width: int, height: int, label: str, *children: Html) -> Html:
    size = {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
    return tag("svg", *children, **size, class_=kind, role="img", aria_label=label)


def _label(curves: dict[str, Curve]) -> str:
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
