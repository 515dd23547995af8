"""How many seeds each run of the plan has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.plan.budgets import Budget
from common.plan.plan import PlannedRun
from common.results.reported import Table


def seeds_of(
    runs: Sequence[PlannedRun], tables: Iterable[Table], budget: Budget
) -> dict[tuple[str, str], tuple[int, ...]]:
    """Run -> its seeds under a budget; a run has all seeds of those that need it.

    Args:
        runs: each after those that it needs.
        tables: the published tables, which say of how many runs their figures are the mean and what they compare.
    """
    counts = {run.key: len(budget.seeds) for run in runs}
    if budget.compared_seeds is not None:
        for table in tables:
            wanted = max(table.runs, budget.compared_seeds if table.compares != "nothing" else 1)
            for cell in table.cells:
                if (key := table.key_of(cell)) in counts:
                    counts[key] = max(counts[key], wanted)
    for run in reversed(runs):
        for need in run.depends_on:
            counts[run.paper, need] = max(counts[run.paper, need], counts[run.key])
    return {key: budget.seeds if count == len(budget.seeds) else tuple(range(count)) for key, count in counts.items()}
