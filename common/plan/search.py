"""Tuning that is fair: trials that never see the test split, a choice by validation, and a test of what was chosen.

Every trial is a run of the plan with other values, `--val-fraction 0.1` (MLKD: its own validation split) and
`--no-test`. A method's choice is the trial with the highest accuracy on the validation split after the last epoch. The
chosen values and the published ones are then trained on the whole training split with the same seeds, and compared by
the test accuracy of the last epoch, which nothing has chosen. Trials lie in `results/<budget>/sweeps/` and are kept for
the next search.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.atomic_write import copy_atomically
from common.command_line import LARGEST_COUNT
from common.locks import LOCK
from common.plan.budgets import Budget
from common.plan.datasets import data_directory
from common.plan.estimate import total_epochs
from common.plan.plan import PlannedRun
from common.plan.runner import RunSummary
from common.plan.sweep import Combination, Grid, rungs
from common.plan.tasks import Found, State, Task, read_records
from common.run_record import NAME, SWEEPS, read_metrics
from common.safe_json import read_json_file


@dataclasses.dataclass(frozen=True, eq=False)
class SearchTask(Task):
    """A run of a search, in a workspace of its own, which gets copies of the networks that it needs.

    Attributes:
        label: what it is, for people.
    """

    label: str = ""

    @property
    def name(self) -> str:
        return f"{self.run.paper} {self.run.experiment}: {self.label} (seed {self.seed})"

    def found(self, records: dict[str, Found] | None = None) -> Found | None:
        """The run in the workspace that is none of those that it needs: overrides may have changed its name."""
        records = read_records(self.home) if records is None else records
        needed = {need.run.experiment for need in self.depends_on}
        own = [found for experiment, found in records.items() if experiment not in needed]
        return max(own, key=lambda found: (found.record.done, found.record.started), default=None)

    def prepare(self) -> None:
        for need in self.depends_on:
            if found := need.found():
                _lend(found.directory, self.workspace / found.directory.relative_to(need.workspace))
        super().prepare()

    def finish(self) -> None:
        """As of other tasks; a trial that has only stopped goes on, perhaps, from its files."""
        if self.until is None:
            super().finish()

    def delete_networks(self) -> None:
        """Likewise."""
        if self.until is None:
            super().delete_networks()


def _lend(directory: Path, place: Path) -> None:
    """Put a run's files at another place, without using room where the file system can."""
    place.mkdir(parents=True, exist_ok=True)
    files = [(file, place / file.name) for file in directory.iterdir() if file.is_file() and file.name != LOCK]
    files.append((directory.with_name(f"{directory.name}.pth"), place.with_name(f"{place.name}.pth")))
    # the record comes last: a run without it is not taken for a teacher
    for file, copy in sorted(files, key=lambda pair: pair[0].name == NAME):
        if file.is_file() and not copy.exists():
            try:
                os.link(file, copy)
            except OSError:
                copy_atomically(file, copy)


@dataclasses.dataclass
class Candidate:
    """A method's search.

    Attributes:
        grid: what is tried.
        trials: combination -> its task at the last rung that it has come to.
        accuracies: combination -> validation accuracy in percent there; None of a trial that failed.
        epochs: combination -> epochs after which that is.
        chosen: the best combination; None before the choice.
        published, tuned: the runs that are tested.
    """

    grid: Grid
    trials: dict[Combination, SearchTask] = dataclasses.field(default_factory=dict)
    accuracies: dict[Combination, float | None] = dataclasses.field(default_factory=dict)
    epochs: dict[Combination, int] = dataclasses.field(default_factory=dict)
    chosen: Combination | None = None
    published: list[SearchTask] = dataclasses.field(default_factory=list)
    tuned: list[SearchTask] = dataclasses.field(default_factory=list)

    def take_in(self, tasks: Mapping[Combination, SearchTask]) -> None:
        """Read the validation accuracies of a rung's trials."""
        for combination, task in tasks.items():
            found = task.found()
            self.epochs[combination] = min(found.record.epochs_done, task.until or LARGEST_COUNT) if found else 0
            self.accuracies[combination] = None
            if found is not None and task.state() is State.DONE:
                self.accuracies[combination] = _accuracy_after(found, self.epochs[combination])

    def ranked(self, among: Sequence[Combination]) -> list[Combination]:
        """Those that did not fail, the best first, of equals the first tried."""
        known = {c: accuracy for c in among if (accuracy := self.accuracies.get(c)) is not None}
        return sorted(known, key=lambda c: -known[c])


def _accuracy_after(found: Found, epochs: int) -> float | None:
    """A trial's validation accuracy after its first epochs, however far it has gone on since; None where it is lost."""
    try:
        accuracy = read_metrics(found.directory)[epochs - 1].get("validation/accuracy")
    except (OSError, ValueError, IndexError):
        return None
    return accuracy if isinstance(accuracy, float) else None


class Search:
    """All methods' searches.

    Args:
        grids: of the methods.
        combinations: run -> its trials.
        budget: of all runs.
        seeds: of the runs that are tested; trials have the first.
        needs: (run, seed) -> tasks of what it needs.
        halving: factor of successive halving; None trains every trial to the end.
        where: `output`, `data` and `experiments`, as of `make_tasks`.
    """

    def __init__(
        self,
        grids: Sequence[Grid],
        combinations: Mapping[tuple[str, str], Sequence[Combination]],
        budget: Budget,
        seeds: Sequence[int],
        needs: Callable[[PlannedRun, int], tuple[Task, ...]],
        halving: int | None,
        where: Mapping[str, Path],
    ) -> None:
        self.budget, self.seeds, self.needs, self.halving, self.where = budget, seeds, needs, halving, where
        self.candidates = [self._candidate(grid, combinations[grid.run.key]) for grid in grids]

    def _candidate(self, grid: Grid, combinations: Sequence[Combination]) -> Candidate:
        trials = {combination: self.trial(grid, combination, None) for combination in combinations}
        return Candidate(grid, trials, published=[self.tested(grid, (), seed) for seed in self.seeds])

    def trial(self, grid: Grid, combination: Combination, until: int | None) -> SearchTask:
        """A run that does not see the test split."""
        place, label = ("trial", slug(combination)), f"trial {in_words(combination)}"
        return self._task(grid, combination, self.seeds[0], place, label, grid.run.trial_flags, until)

    def tested(self, grid: Grid, combination: Combination, seed: int) -> SearchTask:
        """A run on the whole training split; without a combination, as published."""
        label = f"tuned {in_words(combination)}" if combination else "as published"
        place = ("tested", slug(combination) or "published", f"seed_{seed}")
        return self._task(grid, combination, seed, place, label, (), None)

    def _task(
        self,
        grid: Grid,
        combination: Combination,
        seed: int,
        place: Sequence[str],
        label: str,
        flags: Sequence[str],
        until: int | None,
    ) -> SearchTask:
        run, params = grid.run, None
        if run.parameters is not None:
            published = read_json_file(self.where["experiments"].parent / run.parameters / "params.json")
            params = {**published, **self.budget.overrides(run.name)}
            params |= {key: _number(value) for key, value in combination if key in published}
        own = [word for key, value in combination if params is None or key not in params for word in (key, value)]
        run = dataclasses.replace(run, flags=(*run.flags, *own, *flags))
        root = self.where["output"].absolute() / self.budget.name / SWEEPS / _plain_name(run.experiment)
        data = data_directory(self.where["data"].absolute(), self.budget)
        home = root.joinpath(*place, run.paper)
        return SearchTask(run, seed, self.budget, self.needs(grid.run, seed), home, data, params, until, label)

    @property
    def trials(self) -> list[SearchTask]:
        """Those of all methods."""
        return [task for candidate in self.candidates for task in candidate.trials.values()]

    @property
    def first_tasks(self) -> list[Task]:
        """What must be there before anything is chosen: the trials with what they need."""
        return with_needs(self.trials)

    @property
    def last_tasks(self) -> list[Task]:
        """What is tested in the end; before the choice, the first trial's values stand for the chosen ones."""
        tasks: list[Task] = []
        for candidate in self.candidates:
            chosen = candidate.chosen or next(iter(candidate.trials))
            tasks += candidate.published
            tasks += candidate.tuned or [self.tested(candidate.grid, chosen, seed) for seed in self.seeds]
        return with_needs(tasks)

    def run(self, execute: Callable[[list[Task], Collection[Task]], RunSummary]) -> RunSummary:
        """Trials, choice, tests; goes on past failures.

        Args:
            execute: runs tasks that are not done; the networks of further ones will be needed later.

        Returns:
            All of it; `stopped` where a signal ended it before its end.
        """
        total = RunSummary()
        alive = {id(candidate): list(candidate.trials) for candidate in self.candidates}
        needed_later = {need for task in self.last_tasks for need in task.depends_on}
        for tasks in self._rungs(alive):
            trials = with_needs([t for group in tasks.values() for t in group.values()])
            if not _add(total, execute(trials, needed_later)):
                return total
            for candidate in self.candidates:
                candidate.take_in(tasks[id(candidate)])
                candidate.trials |= tasks[id(candidate)]
                ranked = candidate.ranked(alive[id(candidate)])
                kept = math.ceil(len(alive[id(candidate)]) / self.halving) if self.halving else len(ranked)
                alive[id(candidate)] = ranked[:kept]
        for candidate in self.candidates:
            if best := alive[id(candidate)][:1]:
                self._choose(candidate, best[0])
        found = [candidate for candidate in self.candidates if candidate.chosen is not None]
        tasks = list(dict.fromkeys(task for c in found for task in (*c.published, *c.tuned)))
        if tasks:
            _add(total, execute(with_needs(tasks), ()))
        return total

    def _choose(self, candidate: Candidate, best: Combination) -> None:
        print(f"chosen by validation: {candidate.grid.run.experiment}: {in_words(best)}")
        candidate.chosen = best
        is_same = candidate.grid.is_published(best)
        tuned = [self.tested(candidate.grid, best, seed) for seed in self.seeds]
        candidate.tuned = candidate.published if is_same else tuned

    def _rungs(self, alive: Mapping[int, Sequence[Combination]]) -> Any:
        """For each rung the tasks of the trials that are still alive, by candidate and combination."""
        if self.halving is None:
            yield {id(c): {each: self.trial(c.grid, each, None) for each in alive[id(c)]} for c in self.candidates}
            return
        levels = {id(c): rungs(self.epochs_of(c), self.halving) for c in self.candidates}
        for number in range(max(map(len, levels.values()))):
            tasks = {}
            for c in self.candidates:
                own = levels[id(c)]
                level = own[min(number, len(own) - 1)]
                until = None if level == own[-1] else level
                tasks[id(c)] = {each: self.trial(c.grid, each, until) for each in alive[id(c)]}
            yield tasks

    def epochs_of(self, candidate: Candidate) -> int:
        """How long a trial is trained."""
        return total_epochs(next(iter(candidate.trials.values())), self.where["experiments"])


def _add(total: RunSummary, part: RunSummary) -> bool:
    """Take in what became of some tasks; False where a signal or a dead cluster ended it."""
    total.done |= part.done
    total.failed |= part.failed
    total.blocked |= part.blocked
    total.stopped, total.broken = part.stopped, part.broken
    return not (part.stopped or part.broken)


def with_needs(tasks: Sequence[Task]) -> list[Task]:
    """Tasks, each once and after those that it needs."""
    ordered: dict[Task, None] = {}

    def add(task: Task) -> None:
        for need in task.depends_on:
            add(need)
        ordered[task] = None

    for task in tasks:
        add(task)
    return list(ordered)


def in_words(combination: Combination) -> str:
    return ", ".join(f"{key} {value}" for key, value in combination)


def slug(combination: Combination) -> str:
    """As a directory's name."""
    return _plain_name(",".join(f"{key}={value}" for key, value in combination))


def _plain_name(text: str) -> str:
    return re.sub(r"[^\w.=,-]+", "_", text)


def _number(text: str) -> Any:
    """A value of `params.json` as its type."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
