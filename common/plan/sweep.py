"""Searches over hyperparameters: which values, for which runs, in which combinations."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.command_line import nearest
from common.errors import UserError
from common.plan.budgets import Budget
from common.plan.cells import Settings
from common.plan.plan import PlannedRun

if TYPE_CHECKING:
    import numpy as np

BETWEEN_VALUES = r",(?![^\[(]*[\])])"  # commas, but not those of a list
MOST_TRIALS = 10_000  # of a run
PERMUTED = 1 << 20  # combinations: of more, each is drawn by itself
EPOCHS = ("epochs", "num_epochs", "SOLVER.EPOCHS")  # what a run's length is called
OF_THE_PLAN = ("--seed", "--data-dir", "--val-fraction", "--stop-after")  # flags that it gives to trials
MISSES = 10_000  # draws in a row that give nothing new, after which there is nothing

Combination = tuple[tuple[str, str], ...]
"""(key, value) pairs, in the order of the command line."""


@dataclasses.dataclass(frozen=True)
class Axis:
    """What is tried of one key: some values, or an interval to draw from.

    Attributes:
        key: of a YAML configuration (KD.TEMPERATURE), of `params.json` (alpha), or a flag (--kd-T).
        values: as they were written; empty for an interval.
        low, high: of an interval.
        is_logarithmic: whether the interval is drawn from by its logarithm.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float = math.nan
    high: float = math.nan
    is_logarithmic: bool = False

    def draw(self, random: np.random.Generator) -> str:
        """One value."""
        if self.values:
            return self.values[random.integers(len(self.values))]
        if self.is_logarithmic:
            return f"{math.exp(random.uniform(math.log(self.low), math.log(self.high))):.4g}"
        return f"{random.uniform(self.low, self.high):.4g}"


def parse_axis(text: str) -> Axis:
    """`KEY=V1,V2,...`, or for random search `KEY=LOW:HIGH` and `KEY=LOW:HIGH:log`.

    Raises:
        UserError: no key, no values, a value twice, an interval that is none.
    """
    key, separator, rest = text.partition("=")
    if not separator or not key.strip() or key != key.strip():
        raise UserError(f"--sweep '{text}': give KEY=VALUE,VALUE, such as 'KD.TEMPERATURE=2,4,8'")
    if interval := re.fullmatch(r"([^:,]+):([^:,]+)(:log)?", rest):
        try:
            low, high = float(interval[1]), float(interval[2])
        except ValueError:
            low = high = math.nan
        logarithmic = interval[3] is not None
        if not -math.inf < low < high < math.inf or high - low == math.inf or (logarithmic and low <= 0):
            raise UserError(f"--sweep '{text}': an interval is LOW:HIGH of two numbers (both above 0 for :log)")
        return Axis(key, low=low, high=high, is_logarithmic=logarithmic)
    values = [value.strip() for value in re.split(BETWEEN_VALUES, rest)]
    if not any(values):
        raise UserError(f"--sweep '{text}': the grid is empty; give values, such as 'KD.TEMPERATURE=2,4,8'")
    if not all(values) or len({_number_or_text(value) for value in values}) < len(values):
        raise UserError(f"--sweep '{text}': a value is empty or stands twice")
    return Axis(key, tuple(values))


def parse_axes(texts: Sequence[str]) -> list[Axis]:
    """Raises:
    UserError: as `parse_axis`, or a key that is given twice.
    """
    axes = [parse_axis(text) for text in texts]
    keys = [_spelled(axis.key) for axis in axes]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UserError(f"--sweep: the key {twice} is given twice; put all its values into one")
    return axes


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is tried of one run.

    Attributes:
        run: as published.
        axes: those whose keys it has.
        published: its own value of each key.
    """

    run: PlannedRun
    axes: tuple[Axis, ...]
    published: Mapping[str, Any]

    @property
    def size(self) -> float:
        """How many combinations there are."""
        return math.prod(len(axis.values) if axis.values else math.inf for axis in self.axes)

    def combinations(self) -> list[Combination]:
        """All of them, the last key's values fastest."""
        return [
            tuple(zip((axis.key for axis in self.axes), values, strict=True))
            for values in itertools.product(*(axis.values for axis in self.axes))
        ]

    def some(self, count: int, seed: int) -> list[Combination]:
        """`count` different combinations, drawn at random; in the order of the grid where it has an end."""
        import numpy as np  # the plan can be read without it

        random = np.random.default_rng([seed, *self.run.experiment.encode()])
        if self.size <= PERMUTED:
            chosen = random.permutation(int(self.size))[:count]
            everything = self.combinations()
            return [everything[i] for i in sorted(chosen.tolist())]
        drawn: dict[Combination, None] = {}
        misses = 0
        while len(drawn) < count and misses < MISSES:
            before = len(drawn)
            drawn[tuple((axis.key, axis.draw(random)) for axis in self.axes)] = None
            misses = 0 if len(drawn) > before else misses + 1
        return list(drawn) if self.size == math.inf else sorted(drawn, key=self._place)

    def _place(self, combination: Combination) -> list[int]:
        """By which `combinations` are in their order."""
        return [axis.values.index(value) for axis, (_, value) in zip(self.axes, combination, strict=True)]

    def is_published(self, combination: Combination) -> bool:
        """Whether a combination is what the run does anyway."""
        return all(_same(value, self.published.get(key)) for key, value in combination)


def _same(text: str, value: Any) -> bool:
    return _number_or_text(text) == _number_or_text(str(value))


def _number_or_text(text: str) -> float | str:
    """What tells values apart: 4 and 4.0 are one."""
    try:
        return float(text)
    except ValueError:
        return text


def make_grids(
    axes: Sequence[Axis],
    runs: Sequence[PlannedRun],
    needed: set[tuple[str, str]],
    experiments: Path,
    budget: Budget,
    *,
    all_of_them: bool,
) -> list[Grid]:
    """A grid for each run that has one of the keys.

    Args:
        axes: of the command line.
        runs: those that the command line chooses, with what they need.
        needed: keys of runs that others here need: without a swept key of their own they are taken as they are.
        experiments: directory of plan and parameters.
        budget: whose flags come after those of the runs.
        all_of_them: whether somebody named the runs, so that one without a key is a mistake.

    Raises:
        UserError: a key that no run has, or that is not free to choose; a chosen run without a key.
    """
    settings = Settings(experiments)
    has = {run.key: _settings_of(run, settings) for run in runs if run.trains}
    for axis in axes:
        if not any(_spelled(axis.key) in keys for keys in has.values()):
            names = sorted({name for keys in has.values() for name in keys})
            hint = nearest(axis.key, names, "python -m common.plan.cells")
            raise UserError(f"--sweep: none of the chosen runs has the key {axis.key}: {hint}")
    grids = []
    for run in runs:
        own = tuple(axis for axis in axes if _spelled(axis.key) in has.get(run.key, {}))
        if own and run.key not in needed:
            published = {axis.key: has[run.key][_spelled(axis.key)] for axis in own}
            for axis in own:
                _require_free(axis.key, run, budget)
            grids.append(Grid(run, own, published))
        elif all_of_them and run.trains and run.key not in needed:
            keys = ", ".join(axis.key for axis in axes)
            raise UserError(
                f"--sweep: {run.experiment} has none of the keys {keys}: give one of its own, or fewer --cells"
            )
    return grids


def _require_free(key: str, run: PlannedRun, budget: Budget) -> None:
    """Raises:
    UserError: a key that the budget sets, or the plan for every run: trials would all be the same.
    """
    given = {_spelled(word) for word in budget.flags_of(run.name)}
    of_the_plan = _spelled(key) in map(_spelled, OF_THE_PLAN)
    if of_the_plan or _spelled(key) in given or (_plain(key) in EPOCHS and "--epochs" in given):
        whose = "the plan" if of_the_plan else f"the budget {budget.name}"
        raise UserError(f"--sweep: {key} is what {whose} sets itself, for {run.experiment} too")


def _settings_of(run: PlannedRun, settings: Settings) -> dict[str, Any]:
    """What a run is trained by: keys of its file, and flags."""
    pairs = zip(run.command, run.command[1:], strict=False)
    flags = {key: value for key, value in pairs if key.startswith("--")}
    has_file = run.parameters is not None or settings.plans[run.paper].get("configuration") in run.command
    named = {key if has_file else f"--{key}": value for key, value in settings.of(run).items()}
    return {_spelled(key): value for key, value in {**named, **flags}.items()}


def _spelled(key: str) -> str:
    """A key as it is compared: in flags, - and _ are one."""
    return f"--{_plain(key)}" if key.startswith("-") else key


def _plain(key: str) -> str:
    """A flag's name as its script's settings have it."""
    return key.lstrip("-").replace("-", "_") if key.startswith("-") else key


def equal_trials(grids: Sequence[Grid], count: int | None, seed: int) -> dict[tuple[str, str], list[Combination]]:
    """Each run's trials, as many for each.

    Args:
        grids: of the runs.
        count: how many to draw; None tries all of the smallest grid, and of larger ones as many, drawn at random.
        seed: of what is drawn.

    Raises:
        UserError: an interval without a count, or a count above what there is, or more than is ever tried.
    """
    smallest = min(grid.size for grid in grids)
    if count is None and any(grid.size == math.inf for grid in grids):
        raise UserError("--sweep: an interval is drawn from: say how often, --trials N")
    if count is not None and count > MOST_TRIALS:
        raise UserError(f"--trials {count}: {MOST_TRIALS} at most")
    if count is None and smallest > MOST_TRIALS:
        raise UserError(
            f"--sweep: the smallest grid has {smallest} combinations: say how many to draw, --trials N "
            f"(at most {MOST_TRIALS})"
        )
    if count is not None and count > smallest:
        raise UserError(f"--trials {count}: the smallest grid has {smallest:.0f} combinations")
    wanted = int(smallest) if count is None else count
    trials = {grid.run.key: grid.combinations() if grid.size == wanted else grid.some(wanted, seed) for grid in grids}
    if short := next((key for key, found in trials.items() if len(found) < wanted), None):
        raise UserError(f"--trials {wanted}: so many different combinations of {short[1]} cannot be drawn")
    return trials


def rungs(epochs: int, factor: int | None) -> list[int]:
    """Epochs after which successive halving compares (Jamieson and Talwalkar, 2016); `epochs` alone without a factor.

    Raises:
        UserError: too few epochs to compare before the end.
    """
    if factor is None:
        return [epochs]
    if epochs < factor:
        raise UserError(f"--halving {factor}: runs of {epochs} epochs have no earlier epoch to be compared after")
    levels = [epochs]
    while levels[0] >= factor:
        levels.insert(0, levels[0] // factor)
    return levels
