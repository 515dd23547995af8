"""How much time is left, in words; and what a log says of batches where no terminal shows a bar."""

import io

import pytest

from common.training import progress as module
from common.training.progress import TimeLeft, duration, progress


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (12.4, "12 s"),
        (59.9, "60 s"),
        (61, "1 min"),
        (3599, "1 h 00 min"),
        (3 * 3600 + 300, "3 h 05 min"),
        (50 * 3600, "2 d 2 h"),
        (26.6 * 3600, "1 d 3 h"),
    ],
)
def test_a_duration_has_two_units(seconds, words):
    assert duration(seconds) == words


def test_the_first_epoch_counts_only_where_it_is_alone():
    left = TimeLeft(4)
    assert left.after(0) == "", "nothing is known"
    left.update(100)
    assert left.after(1) == ", 5 min left"
    left.update(10)
    assert left.after(2) == ", 20 s left"
    left.update(20)
    assert left.after(3) == ", 15 s left"
    assert left.after(4) == "", "nothing is left"


class Clock:
    """Each look at it is so many seconds later than the last one."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def monotonic(self) -> float:
        self.now += self.step
        return self.now


@pytest.mark.parametrize(
    ("step", "total", "show", "lines"),
    [
        (10, 9, True, ["title: 2 of 9 batches after 30 s", "title: 5 of 9 batches after 1 min"]),
        (20, None, True, [f"title: {done} batches after {time}" for done, time in ((1, "40 s"), (3, "1 min"))]),
        (3, 9, True, []),
        (60, 9, False, []),
    ],
    ids=["every third", "of unknown number", "soon over", "another rank"],
)
def test_where_no_terminal_is_a_line_comes_every_thirty_seconds(monkeypatch, capsys, step, total, show, lines):
    monkeypatch.setattr(module, "time", Clock(step))
    items = range(total or 4)
    assert list(progress(items, total, "title", show=show)) == list(items)
    assert capsys.readouterr().err.splitlines()[:2] == lines


@pytest.mark.parametrize("show", [True, False])
def test_in_a_terminal_a_bar_is_drawn(monkeypatch, show):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    assert list(progress(range(3), 3, "title", show=show)) == [0, 1, 2]
    assert ("title" in terminal.getvalue()) == show
