"""Whether two sets of runs differ: t-tests and effect size, for the best epoch and the last."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from common.results.records import Record, SeedSummary, measure, read_runs
from common.results.report import FIGURE_NAMES, NONE
from common.results.t_tests import TTest, hedges_g, paired, welch
from common.results.tables import markdown

LEVEL = 0.05
EXPLANATION = """\
Interval: 95 % for B − A. Welch: takes all runs as independent. Paired by seed: tests the differences of runs with the
same seed, which is sharper where a seed moves both sides alike. p: how often chance alone gives such a difference.
g: Hedges' g, the difference in pooled standard deviations, without the bias of few runs."""


@dataclasses.dataclass(frozen=True)
class RunGroup:
    """One of the two sets: runs of one experiment, one a seed, all with the same settings."""

    name: str
    measured: SeedSummary

    @property
    def runs(self) -> tuple[Record, ...]:
        return self.measured.runs

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


def find_side(name: str, directories: Sequence[Path]) -> RunGroup:
    """The runs in the directory or file `name`, or else of the experiment `name` below `directories`.

    Raises:
        UserError: no runs, runs of several experiments or under several conditions, or fewer than two seeds.
    """
    if Path(name).exists():
        records, _ = read_runs([Path(name)])
    elif directories:
        records = [record for record in read_runs(directories)[0] if record.experiment == name]
    else:
        raise UserError(
            f"no directory {name} (to compare experiments by name, say where their runs are: DIR --compare)"
        )
    if not records:
        raise UserError(f"no finished runs of {name}")
    experiments = sorted({f"{record.paper} {record.experiment}" for record in records})
    if len(experiments) > 1:
        raise UserError(
            f"{name} holds runs of {len(experiments)} experiments ({', '.join(experiments[:3])} ...): give a directory "
            "with one, or their names: python -m common.results DIR --compare EXPERIMENT EXPERIMENT"
        )
    budgets = sorted({_budget(record) for record in records})
    if len(budgets) > 1:
        raise UserError(f"the runs of {name} differ in data or budget ({' / '.join(budgets)}): give one kind of them")
    side = RunGroup(name, measure(records))
    if len(side.runs) < 2:
        raise UserError(f"{name} has runs of {len(side.runs)} seed: a comparison needs two or more a side")
    return side


def compare(a: RunGroup, b: RunGroup, *, across_budgets: bool = False) -> str:
    """The comparison, as text.

    Raises:
        UserError: data or budgets differ, unless `across_budgets`.
    """
    budgets = [_budget(side.runs[0]) for side in (a, b)]
    if budgets[0] != budgets[1] and not across_budgets:
        raise UserError(
            f"the two sides differ in data or budget ({' / '.join(budgets)}): --across-budgets compares all the same"
        )
    shown = [budgets[0]] if budgets[0] == budgets[1] else [f"A: {budgets[0]}", f"B: {budgets[1]}"]
    lines = [*(_describe(letter, side) for letter, side in (("A", a), ("B", b))), *shown, ""]
    rows, verdicts = [], []
    for figure, name in FIGURE_NAMES.items():
        values = [[getattr(run, figure) for run in side.runs] for side in (a, b)]
        if None in (*values[0], *values[1]):
            continue
        independent = welch(*values)
        rows.append([name, "Welch", *_means(a, b, figure), *_numbers(independent), f"{hedges_g(*values):+.2f}"])
        verdicts.append(f"{name.capitalize()}: {_verdict(independent)} (Welch).")
        if a.seeds == b.seeds:
            matched = paired(*values)
            rows.append([name, "paired by seed", *_means(a, b, figure), *_numbers(matched), NONE])
            verdicts.append(f"{name.capitalize()}: {_verdict(matched)} (paired by seed).")
    header = ["figure", "test", "A", "B", "B − A", "interval", "t", "df", "p", "g"]
    return "\n".join([*lines, markdown(header, rows, left=2), "", *verdicts, "", EXPLANATION]) + "\n"


def _budget(record: Record) -> str:
    """Data and budget in words; two runs compare only where these are the same."""
    conditions = record.conditions
    size = f", batch size {record.batch_size}" if conditions.batches is not None else ""
    return f"{conditions.content} {conditions.fingerprint[:12]}, {conditions.training}{size}"


def _describe(letter: str, side: RunGroup) -> str:
    run = side.runs[0]
    seeds = ", ".join(map(str, side.seeds))
    left_out = f"; older runs left out: {side.measured.superseded}" if side.measured.superseded else ""
    return f"{letter}: {run.paper} {run.experiment}, n = {len(side.runs)} (seeds {seeds}{left_out})"


def _means(a: RunGroup, b: RunGroup, figure: str) -> list[str]:
    return [str(getattr(side.measured, figure)) for side in (a, b)]


def _numbers(test: TTest) -> list[str]:
    interval = f"{test.low:+.2f} to {test.high:+.2f}"
    return [f"{test.difference:+.2f}", interval, f"{test.t:.2f}", f"{test.df:.1f}", f"{test.p:.2g}"]


def _verdict(test: TTest) -> str:
    """Whether they differ, in words."""
    if test.p < LEVEL:
        direction = "higher" if test.difference > 0 else "lower"
        return f"they differ, B is {abs(test.difference):.2f} {direction}, p = {test.p:.2g}"
    return f"no difference shown, p = {test.p:.2g}; it may lie anywhere from {test.low:+.2f} to {test.high:+.2f}"
