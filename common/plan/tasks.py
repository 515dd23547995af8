"""A planned run with a seed under a budget: its workspace, its command, and how far it is.

Each budget and seed has a workspace `results/<budget>/seed_<s>/<paper>/`, in which the README's own commands are
executed. Their scripts look for paths in the working directory first, so that nothing is written elsewhere. A run is
recognized by its `run.json`, wherever in the workspace its script writes it, as long as that says the run's paper and
experiment. What a command prints goes to `logs/`.

Scripts that read a `params.json` find a copy with the budget's changes in the workspace. Where two commands would write
to the same files, one has a workspace of its own in it (`with_pt_teacher/`).
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from glob import escape as literal
from pathlib import Path
from typing import IO, Any

from common.atomic_write import copy_atomically, write_text_atomically
from common.command_line import MOST_NAME_BYTES, REPOSITORY, shortened
from common.errors import UserError
from common.locks import LOCK, is_locked, take_lock
from common.own_code import has_changed
from common.plan.budgets import Budget
from common.plan.datasets import data_directory
from common.plan.plan import PlannedRun
from common.run_record import NAME, RunRecord, read_record, record_directories
from common.safe_json import read_json_file

# scripts that draw nothing at random have no --seed
SEEDLESS = ("evaluate.py", "tools/eval.py")


class State(enum.Enum):
    """How far a task is."""

    TO_DO = "to do"
    BROKEN = "to resume"
    DONE = "done"
    STALE = "done with other flags, parameters or code of your own"
    BARE = "done, to be done again for its networks, which were deleted"


@dataclasses.dataclass(frozen=True)
class Found:
    """A run's directory and what its `run.json` says."""

    directory: Path
    record: RunRecord


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One command to execute.

    Attributes:
        run, seed, budget: what it is.
        depends_on: tasks whose networks it needs.
        home: workspace of the paper.
        data_dir: where its data lie.
        params: content of its `params.json`; None where its script reads none.
        until: epochs after which it stops, and counts as done; None trains to the end.
    """

    run: PlannedRun
    seed: int
    budget: Budget
    depends_on: tuple[Task, ...]
    home: Path
    data_dir: Path
    params: dict[str, Any] | None
    until: int | None = None

    @property
    def name(self) -> str:
        return f"{self.run.paper} {self.run.experiment} (seed {self.seed})"

    @property
    def teachers(self) -> frozenset[tuple[str, str, int | None]]:
        """Paper, experiment and, unless they are published, seed of the trained networks that it needs."""
        trained = {(need.run.paper, need.run.experiment, need.seed) for need in self.depends_on}
        return frozenset(trained | {(self.run.paper, need, None) for need in self.run.published_needs})

    @property
    def workspace(self) -> Path:
        """Its working directory."""
        return self.home / f"with_{self.run.variant}" if self.run.variant else self.home

    @property
    def log(self) -> Path:
        """What the command printed."""
        name = re.sub(r"[^\w.=-]+", "_", self.run.experiment)
        return self.home / "logs" / f"{shortened(name, MOST_NAME_BYTES - 8)}.log"

    @property
    def arguments(self) -> list[str]:
        """Of the script: the README's, the plan's, the budget's."""
        return [
            *self.run.command[1:],
            *self.run.flags,
            *self.budget.flags_of(self.run.name),
            *([] if self.run.command[0] in SEEDLESS else ["--seed", str(self.seed)]),
        ]

    @property
    def command(self) -> list[str]:
        """To be executed in the workspace."""
        place = ["--data-dir", str(self.data_dir)]
        # a finished run whose networks are deleted has nothing to resume from
        again = ["--resume"] if self.budget.keep_networks else ["--resume", "--overwrite"]
        until = ["--stop-after", str(self.until)] if self.until else []
        more = [*place, *(again if self.run.trains else []), *until]
        return [sys.executable, str(self.run.script), *self.arguments, *more]

    @property
    def shell_command(self) -> str:
        """The same for people."""
        return f"cd {shlex.quote(str(self.workspace))} && {shlex.join(['python', *self.command[1:]])}"

    def state(self, records: dict[str, Found] | None = None) -> State:
        """How far it is, by the `records` of its home; they are read where they are not given."""
        if not self.run.trains:
            return self._state_of_evaluation()
        found = self.found(records)
        if found is None:
            return State.TO_DO
        if not found.record.done and not (self.until and found.record.epochs_done >= self.until):
            return State.BROKEN
        return State.DONE if self._is_same(found) else State.STALE

    def _is_same(self, found: Found) -> bool:
        """Whether a run was made with this task's flags and parameters."""
        same = found.record.command[1 : len(self.arguments) + 1] == self.arguments
        same = same and not has_changed(found.record.details)
        return same and (self.params is None or _content(self._params_file) == self.params)

    def found(self, records: dict[str, Found] | None = None) -> Found | None:
        """The run's directory and record, where it has one."""
        return (read_records(self.home) if records is None else records).get(self.run.experiment)

    def lock(self) -> IO[str]:
        """Keep other plans from this task until what is returned is closed.

        Raises:
            BlockingIOError: another plan, or somebody by hand, is at it.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        lock = take_lock(self.log.with_suffix(LOCK))
        if self.is_in_use():
            lock.close()
            raise BlockingIOError
        return lock

    def is_in_use(self) -> bool:
        """Whether a process is writing to the run's directory."""
        return bool(found := self.found()) and is_locked(found.directory / LOCK)

    def prepare(self) -> None:
        """Write the parameters, and link the runs that the command looks for at other places."""
        for directory in (self.log.parent, self.workspace):
            directory.mkdir(parents=True, exist_ok=True)
        if self.params is not None:
            self._params_file.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self._params_file, json.dumps(self.params, indent=2) + "\n")
        for place, file in self.run.copy_files:
            if not (copy := self.workspace / place).exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy_atomically(REPOSITORY / file, copy)
        records = read_records(self.home)
        for need in self.depends_on:
            for link in (self.workspace / place for place in need.run.link_paths):
                if not link.exists():
                    directory = records[need.run.experiment].directory
                    target = directory.with_name(f"{directory.name}.pth") if link.suffix == ".pth" else directory
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.unlink(missing_ok=True)
                    link.symlink_to(os.path.relpath(target, link.parent))

    def finish(self) -> None:
        """After the command has ended well: remember it, and delete the large files that nobody has a use for."""
        if not self.run.trains:
            write_text_atomically(self._marker, json.dumps(self.arguments) + "\n")
        elif not self.budget.keep_networks:
            for file in self._files(self.run.cleanup):
                file.unlink()

    def delete_networks(self) -> None:
        """Delete what no task needs any more, under a budget that does not keep networks."""
        if self.run.trains and not self.budget.keep_networks:
            for file in self._files(self.run.networks):
                file.unlink()

    @property
    def is_bare(self) -> bool:
        """Whether the networks of the finished run are deleted."""
        return bool(self.run.networks) and not self.budget.keep_networks and not self._files(self.run.networks)

    def _files(self, patterns: Sequence[str]) -> set[Path]:
        """What answers to `patterns` in the run's directory, or (`../{name}.pth`, by the directory) beside it."""
        if (found := self.found()) is None:
            return set()
        files: set[Path] = set()
        for pattern in patterns:
            place = found.directory.parent if pattern.startswith("../") else found.directory
            files.update(place.glob(pattern.removeprefix("../").replace("{name}", literal(found.directory.name))))
        return files

    @property
    def _params_file(self) -> Path:
        return self.workspace / str(self.run.parameters) / "params.json"

    @property
    def _marker(self) -> Path:
        """Of a command that leaves no record."""
        return self.log.with_suffix(".done")

    def _state_of_evaluation(self) -> State:
        return State.DONE if _content(self._marker) == self.arguments else State.TO_DO


def _content(file: Path) -> Any:
    """The value of a JSON file that a plan has written; None where there is none that can be read."""
    try:
        return read_json_file(file)
    except UserError:
        return None


def read_records(home: Path) -> dict[str, Found]:
    """Experiment -> its record below `home`: a finished one before others, the newest before older ones."""
    records: dict[str, Found] = {}
    for directory in record_directories(home):
        try:
            record = _read_record(directory, (directory / NAME).stat().st_mtime_ns)
        except OSError:  # a link to nowhere, or a run that is being set aside
            continue
        if record is None:
            continue
        old = records.get(record.experiment)
        if old is None or _rank(record) > _rank(old.record):
            records[record.experiment] = Found(directory, record)
    return records


def _rank(record: RunRecord) -> tuple[bool, str]:
    return record.done, record.started


@functools.cache
def _read_record(directory: Path, changed: int) -> RunRecord | None:
    """The record that was written at the time `changed`; None where it is damaged."""
    return read_record(directory)


def states(tasks: Iterable[Task]) -> dict[Task, State]:
    """How far all tasks are; each workspace is read once."""
    records: dict[Path, dict[str, Found]] = {}
    result = {}
    for task in tasks:
        if task.home not in records:
            records[task.home] = read_records(task.home)
        result[task] = task.state(records[task.home])
    for task in reversed(result):
        if result[task] is not State.DONE:
            for need in task.depends_on:
                if result.get(need) is State.DONE and need.is_bare:
                    result[need] = State.BARE
    return result


def make_tasks(
    runs: Sequence[PlannedRun],
    seeds: Mapping[tuple[str, str], Sequence[int]],
    budget: Budget,
    *,
    output: Path,
    data: Path,
    experiments: Path,
) -> list[Task]:
    """All runs with the first seed, then with the next, each task after those that it needs.

    Those that share their teachers follow one another: what these compute, they share (`common.teacher_cache`).

    Args:
        runs: with all that they need, in the plan's order.
        seeds: run -> its seeds; a run has all those of the runs that need it.
        budget: to run them with.
        output: directory of results.
        data: directory of datasets.
        experiments: with the published `params.json` files.

    Raises:
        UserError: parameters that cannot be read.
    """
    tasks: list[Task] = []
    for seed in dict.fromkeys(seed for run in runs for seed in seeds[run.key]):
        made: dict[tuple[str, str], Task] = {}
        for run in (run for run in runs if seed in seeds[run.key]):
            params = None
            if run.parameters is not None:
                published = read_json_file(experiments.parent / run.parameters / "params.json")
                params = {**published, **budget.overrides(run.name)}
            made[run.key] = Task(
                run,
                seed,
                budget,
                tuple(made[run.paper, need] for need in run.depends_on),
                output.absolute() / budget.name / f"seed_{seed}" / run.paper,
                data_directory(data.absolute(), budget),
                params,
            )
        tasks += made.values()
    return teachers_together(tasks)


def teachers_together(tasks: Iterable[Task]) -> list[Task]:
    """The same tasks, all that have the same teachers where the first of them was."""
    groups: dict[Any, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.teachers or task, []).append(task)
    return [task for group in groups.values() for task in group]
