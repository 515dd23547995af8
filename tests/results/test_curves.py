"""Learning curves: points where they belong, axes with round numbers."""

import re

import pytest

from common.results.curves import _epoch_ticks, chart, sparkline, ticks
from common.results.records import Curve


def curve(*accuracies: float) -> Curve:
    return Curve("test", tuple(enumerate(accuracies, 1)))


def points(svg: str) -> list[list[tuple[float, float]]]:
    """Those of each line."""
    lines = re.findall(r'<polyline points="([^"]*)"', svg)
    return [[tuple(float(n) for n in pair.split(",")) for pair in line.split()] for line in lines]


def labels(svg: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def test_lines_run_in_the_frame_of_the_axes():
    svg = chart({"seed 0": curve(0.0, 50.0, 100.0), "seed 1": curve(100.0, 100.0, 0.0)})
    (left, bottom), (middle, half), (right, top) = points(svg)[0]
    assert (left, right, top) == (38.0, 420.0, 10.0)
    assert middle == pytest.approx((left + right) / 2)
    assert half == pytest.approx((top + bottom) / 2)
    assert points(svg)[1] == [(left, top), (middle, top), (right, bottom)]
    assert labels(svg) == ["0", "50", "100", "1", "2", "3", "epoch"]
    assert re.findall(r'class="(seed-\d)"', svg) == ["seed-0", "seed-1"]


def test_the_published_figure_is_in_the_frame():
    svg = chart({"seed 0": curve(10.0, 20.0)}, published=75.87)
    assert "published 75.87" in labels(svg)
    height = float(re.search(r'y1="([\d.]+)"[^>]*class="published"', svg)[1])
    assert 10 <= height <= min(y for _, y in points(svg)[0])


def test_a_single_epoch_and_a_flat_line():
    for svg in (chart({"a": curve(5.0)}), chart({"a": curve(5.0, 5.0)}), sparkline({"a": curve(5.0)})):
        assert all(0 <= value <= 440 for line in points(svg) for point in line for value in point)
    assert [label for label in labels(chart({"a": curve(5.0)})) if label == "1"] == ["1"]


def test_long_curves_are_thinned_out_and_keep_their_ends():
    values = [i / 10 for i in range(1000)]
    (line,) = points(chart({"a": curve(*values)}))
    assert len(line) < 250
    assert line[0] == points(chart({"a": curve(*values[::999])}))[0][0]
    assert line[-1][0] == 420.0


def test_round_numbers():
    assert ticks(0.0, 100.0) == [0, 50, 100]
    assert ticks(66.2, 75.9) == [65, 70, 75, 80]
    assert ticks(11.82, 11.9) == [11.8, 11.85, 11.9]
    assert _epoch_ticks(1, 240) == [1, 100, 200, 240]
    assert _epoch_ticks(1, 3) == [1, 2, 3]
    assert _epoch_ticks(0.5, 1.5) == [1]
