"""Learning curves: points where they belong, axes with round numbers."""

import pytest

from common.results.curves import _epoch_ticks, chart, sparkline, ticks
from common.results.records import Curve


def curve(*accuracies: float) -> Curve:
    return Curve("test", tuple(enumerate(accuracies, 1)))


def texts(ticks) -> list[str]:
    return [text for _, text in ticks]


def test_lines_run_in_the_frame_of_the_axes():
    plot = chart({"seed 0": curve(0.0, 50.0, 100.0), "seed 1": curve(100.0, 100.0, 0.0)})
    first, second = plot.lines
    (left, bottom), (middle, half), (right, top) = first.points
    assert (left, right, top) == (38.0, 420.0, 10.0)
    assert middle == pytest.approx((left + right) / 2)
    assert half == pytest.approx((top + bottom) / 2)
    assert second.points == ((left, top), (middle, top), (right, bottom))
    assert (texts(plot.y_ticks), texts(plot.x_ticks)) == (["0", "50", "100"], ["1", "2", "3"])
    assert [(line.name, line.color) for line in plot.lines] == [("seed 0", 0), ("seed 1", 1)]
    assert first.path.startswith("38.0,168.0 229.0,89.0")


def test_the_published_figure_is_in_the_frame():
    plot = chart({"seed 0": curve(10.0, 20.0)}, published=75.87)
    height, text = plot.published
    assert text == "75.87"
    assert 10 <= height <= min(y for _, y in plot.lines[0].points)
    assert chart({"seed 0": curve(10.0, 20.0)}).published is None


def test_a_single_epoch_and_a_flat_line():
    for plot in (chart({"a": curve(5.0)}), chart({"a": curve(5.0, 5.0)}), sparkline({"a": curve(5.0)})):
        assert all(0 <= value <= 440 for line in plot.lines for point in line.points for value in point)
    assert texts(chart({"a": curve(5.0)}).x_ticks) == ["1"]


def test_long_curves_are_thinned_out_and_keep_their_ends():
    values = [i / 10 for i in range(1000)]
    (line,) = chart({"a": curve(*values)}).lines
    assert len(line.points) < 250
    assert line.points[0] == chart({"a": curve(*values[::999])}).lines[0].points[0]
    assert line.points[-1][0] == 420.0


def test_round_numbers():
    assert ticks(0.0, 100.0) == [0, 50, 100]
    assert ticks(66.2, 75.9) == [65, 70, 75, 80]
    assert ticks(11.82, 11.9) == [11.8, 11.85, 11.9]
    assert _epoch_ticks(1, 240) == [1, 100, 200, 240]
    assert _epoch_ticks(1, 3) == [1, 2, 3]
    assert _epoch_ticks(0.5, 1.5) == [1]
