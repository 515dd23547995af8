"""How much time is left, in words."""

import pytest

from common.training.progress import TimeLeft, duration


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
