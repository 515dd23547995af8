"""What a search found: as published beside tuned on validation, and how much of a gap between methods is tuning."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from common.plan.plan import VAL_FRACTION
from common.plan.search import Candidate, Search, in_words
from common.plan.sweep import rungs
from common.plan.tasks import Task
from common.results.analysis import METRICS, mean_figure
from common.results.records import Mean, read_runs
from common.results.report import NONE
from common.results.tables import markdown

EXPLANATION = """\
As published and tuned: test accuracy of the last epoch, which nothing has chosen, mean ± standard deviation over seeds;
both on the whole training split, with the same seeds. Tuned − published: with the 95 % interval of the mean difference,
paired by seed. Trials: combinations that were tried, one run of seed {seed} each, {split};
chosen by the accuracy on that after the last epoch. No trial looked at the test split. Of tuning: the gap when both are
tuned minus the gap as published."""


def render_search(search: Search, metrics: Sequence[str] = ()) -> str:
    """The tables, as Markdown; one more with `metrics` of those that were tested."""
    budget = search.budget
    seeds, count = ", ".join(map(str, search.seeds)), len(search.candidates[0].trials)
    blocks = [
        "# As published and tuned on validation",
        f"Budget {budget.name}: {budget.description}. Trials of each method: {count}. Seeds of those tested: {seeds}.",
        _methods(search),
    ]
    if gaps := _gaps(search.candidates):
        blocks.append(gaps)
    if metrics:
        blocks.append(_metrics(search.candidates, metrics))
    split = f"which leaves {float(VAL_FRACTION):.0%} of the training split for validation"
    blocks += [EXPLANATION.format(seed=search.seeds[0], split=split), "## Trials", *map(_trials, search.candidates)]
    return "\n\n".join(blocks) + "\n"


def describe(search: Search) -> str:
    """Before anything is run: how many trials, and of what."""
    lines = []
    for candidate in search.candidates:
        drawn = "" if candidate.grid.size == len(candidate.trials) else ", drawn at random, as many for each method"
        lines.append(f"search: {candidate.grid.run.experiment}: {_count(candidate, ' trials')}{drawn}")
        if search.halving:
            levels = ", ".join(map(str, rungs(search.epochs_of(candidate), search.halving)))
            lines.append(f"  compared after {levels} epochs; one in {search.halving} goes on, so that it takes less")
    tested = f"tested in the end: as published and tuned, seeds {', '.join(map(str, search.seeds))}"
    return "\n".join([*lines, f"{tested} (the values of the first trial stand for those that will be chosen)"])


def _count(candidate: Candidate, what: str = "") -> str:
    """How many trials, and of how many combinations where these are more and have an end."""
    count, size = len(candidate.trials), candidate.grid.size
    return f"{count}{what}" + ("" if size in (count, math.inf) else f" of {size:.0f}")


def _methods(search: Search) -> str:
    rows = []
    for candidate in search.candidates:
        published, tuned = (accuracies(tasks) for tasks in (candidate.published, candidate.tuned))
        chosen = candidate.chosen
        if chosen is None:
            words = NONE
        else:
            words = in_words(chosen) + (" (as published)" if candidate.grid.is_published(chosen) else "")
        rows.append(
            [
                candidate.grid.run.experiment,
                _count(candidate),
                words,
                NONE if chosen is None else f"{candidate.accuracies[chosen]:.2f}",
                _mean(published),
                _mean(tuned),
                _difference(published, tuned),
            ]
        )
    header = ["run", "trials", "chosen", "its validation accuracy", "as published", "tuned", "tuned − published"]
    return markdown(header, rows, left=3)


def _gaps(candidates: Sequence[Candidate]) -> str:
    rows = []
    for a, b in itertools.combinations(candidates, 2):
        values = [accuracies(tasks) for tasks in (a.published, b.published, a.tuned, b.tuned)]
        if not all(values):
            continue
        means = [Mean.of(each).value for each in values]
        before, after = means[1] - means[0], means[3] - means[2]
        names = f"{b.grid.run.experiment} − {a.grid.run.experiment}"
        rows.append([names, f"{before:+.2f}", f"{after:+.2f}", f"{after - before:+.2f}"])
    return markdown(["gap", "as published", "both tuned", "of tuning"], rows, left=1) if rows else ""


def _metrics(candidates: Sequence[Candidate], metrics: Sequence[str]) -> str:
    rows = []
    for candidate in candidates:
        for words, tasks in (("as published", candidate.published), ("tuned", candidate.tuned)):
            directories = [found.directory for task in tasks if (found := task.found())]
            runs, _ = read_runs(directories)
            values = [mean_figure(runs, name) if len(runs) == len(tasks) > 0 else None for name in metrics]
            rows.append([candidate.grid.run.experiment, words, *(value or NONE for value in values)])
    return markdown(["run", "", *(METRICS[name].title for name in metrics)], rows, left=2)


def _trials(candidate: Candidate) -> str:
    ranked = candidate.ranked(list(candidate.trials))
    rows = [
        [
            in_words(c),
            f"{candidate.accuracies[c]:.2f}",
            str(candidate.epochs[c]),
            "chosen" if c == candidate.chosen else "",
        ]
        for c in sorted(ranked, key=lambda c: -candidate.epochs[c])
    ]
    rows += [[in_words(c), "failed", NONE, ""] for c in candidate.trials if c not in ranked]
    header = ["trial", "validation accuracy", "after epochs", ""]
    return f"{candidate.grid.run.experiment}:\n\n{markdown(header, rows, left=1)}"


def accuracies(tasks: Sequence[Task]) -> list[float]:
    """Test accuracy of the last epoch of each run, in the order of the seeds; none where one is missing."""
    figures = [found.record.accuracy for task in tasks if (found := task.found()) and found.record.done]
    values = [last for each in figures if each and (last := each.get("last")) is not None]
    return values if len(values) == len(tasks) else []


def _mean(values: Sequence[float]) -> str:
    if not values:
        return NONE
    mean = Mean.of(list(values))
    return f"{mean.value:.2f}" + ("" if mean.std is None else f" ± {mean.std:.2f}")


def _difference(a: Sequence[float], b: Sequence[float]) -> str:
    if not a or not b:
        return NONE
    if list(a) == list(b):
        return "0, the same runs"
    from common.results.t_tests import paired  # scipy; the plan can be read without it

    test = paired(a, b)
    return f"{test.difference:+.2f} ({test.low:+.2f} to {test.high:+.2f})"
