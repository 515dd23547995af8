"""What a person sees while something takes long: a bar, and how much time is left."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress(
    items: Iterable[T], total: int | None, title: str, unit: str, *, show: bool, delay: float = 0
) -> Iterable[T]:
    """`items`, with a bar where a person is watching.

    Args:
        items: to go through.
        total: how many they are; None where that is not known.
        title: in front of the bar.
        unit: of `total`.
        show: False for a rank that does not speak.
        delay: seconds before the bar comes.
    """
    disable = None if show else True  # None: only in a terminal
    return tqdm(items, total=total, desc=title, unit=unit, leave=False, disable=disable, delay=delay)


class TimeLeft:
    """How long a run goes on, by the epochs of this start; the first, which warms up, counts only where it is alone.

    Args:
        epochs: of the whole run.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._seconds: list[float] = []

    def update(self, seconds: float) -> None:
        """An epoch, with its evaluation, took so long."""
        self._seconds.append(seconds)

    def after(self, finished: int) -> str:
        """What ends a line when so many epochs are finished: nothing as long as nothing is known, or is left."""
        measured = self._seconds[1:] or self._seconds
        if not measured or finished >= self.epochs:
            return ""
        return f", {duration((self.epochs - finished) * statistics.fmean(measured))} left"


def duration(seconds: float) -> str:
    """For people, in the two largest units."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours = round(minutes / 60)
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{hours // 24} d {hours % 24} h"
