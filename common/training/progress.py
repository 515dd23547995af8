"""What a person sees while something takes long: a bar, or lines in a file; and how much time is left."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from tqdm import tqdm

T = TypeVar("T")

LINE_EVERY = 30.0  # seconds, where no terminal shows a bar


def progress(batches: Iterable[T], total: int | None, title: str, *, show: bool, delay: float = 0) -> Iterable[T]:
    """`batches`, with a bar in a terminal, and elsewhere a line of stderr every `LINE_EVERY` seconds.

    Args:
        batches: to go through.
        total: how many they are; None where that is not known.
        title: in front of the bar, or of the line.
        show: False for a rank that does not speak.
        delay: seconds before the bar comes.
    """
    if show and not (sys.stderr and sys.stderr.isatty()):
        return _with_lines(batches, total, title)
    return tqdm(batches, total=total, desc=title, unit="batch", leave=False, disable=not show, delay=delay)


def _with_lines(batches: Iterable[T], total: int | None, title: str) -> Iterator[T]:
    started = said = time.monotonic()
    for done, batch in enumerate(batches):
        now = time.monotonic()
        if now - said >= LINE_EVERY:
            count = f"{done} batches" if total is None else f"{done} of {total} batches"
            print(f"{title}: {count} after {duration(now - started)}", file=sys.stderr, flush=True)
            said = now
        yield batch


def count_of(batches: Any) -> int | None:
    """Batches per epoch; None where it is not known: people's own batches need not have a length."""
    return len(batches) if hasattr(batches, "__len__") else None


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

    @property
    def epoch(self) -> float | None:
        """Seconds of an epoch; None as long as nothing is known."""
        measured = self._seconds[1:] or self._seconds
        return statistics.fmean(measured) if measured else None

    def after(self, finished: int) -> str:
        """What ends a line when so many epochs are finished: nothing as long as nothing is known, or is left."""
        if (epoch := self.epoch) is None or finished >= self.epochs:
            return ""
        return f", {duration((self.epochs - finished) * epoch)} left"


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
