"""A planned run with a seed under a budget: its workspace, its command, and how far it is.

Each budget and seed has a workspace `results/<budget>/seed_<s>/<paper>/`, in which the README's own commands are
executed. Their scripts look for paths in the working directory first, so that nothing is written elsewhere. A run is
recognised by its `run.json`, wherever in the workspace its script writes it, as long as that says the run's paper and
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
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.command_line import REPOSITORY
from common.plan.budgets import Budget
from common.plan.datasets import data_directory
from common.plan.plan import PlannedRun
from common.results.reported import read_data

# scripts that draw nothing at random have no --seed
SEEDLESS = ("evaluate.py", "tools/eval.py")


class State(enum.Enum):
    """How far a task is."""

    TO_DO = "to do"
    BROKEN = "to resume"
    DONE = "done"
    STALE = "done with other flags or parameters"


@dataclasses.dataclass(frozen=True)
class Record:
    """What `run.json` says in `directory`."""

    directory: Path
    content: dict[str, Any]

    @property
    def done(self) -> bool:
        return self.content.get("status") == "done"


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One command to execute.

    Attributes:
        run, seed, budget: what it is.
        needs: tasks whose networks it needs.
        home: workspace of the paper.
        data_dir: where its data lie.
        params: content of its `params.json`; None where its script reads none.
    """

    run: PlannedRun
    seed: int
    budget: Budget
    needs: tuple[Task, ...]
    home: Path
    data_dir: Path
    params: dict[str, Any] | None

    @property
    def name(self) -> str:
        return f"{self.run.paper} {self.run.experiment} (seed {self.seed})"

    @property
    def workspace(self) -> Path:
        """Its working directory."""
        return self.home / f"with_{self.run.variant}" if self.run.variant else self.home

    @property
    def log(self) -> Path:
        """What the command printed."""
        return self.home / "logs" / (re.sub(r"[^\w.=-]+", "_", self.run.experiment) + ".log")

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
        where = ["--data-dir", str(self.data_dir), *(["--resume"] if self.run.trains else [])]
        return [sys.executable, str(self.run.script), *self.arguments, *where]

    @property
    def shell_command(self) -> str:
        """The same for people."""
        return f"cd {shlex.quote(str(self.workspace))} && {shlex.join(['python', *self.command[1:]])}"

    def state(self, records: dict[str, Record] | None = None) -> State:
        """How far it is, by the `records` of its home; they are read where they are not given."""
        if not self.run.trains:
            return self._state_of_evaluation()
        record = self.record(records)
        if record is None:
            return State.TO_DO
        if not record.done:
            return State.BROKEN
        same = record.content.get("command", [])[1 : len(self.arguments) + 1] == self.arguments
        same = same and (self.params is None or read_data(self._params_file) == self.params)
        return State.DONE if same else State.STALE

    def record(self, records: dict[str, Record] | None = None) -> Record | None:
        """The run's record, where it has one."""
        return (read_records(self.home) if records is None else records).get(self.run.experiment)

    def prepare(self) -> None:
        """Write the parameters, and link the runs that the command looks for at other places."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.workspace.mkdir(parents=True, exist_ok=True)
        if self.params is not None:
            self._params_file.parent.mkdir(parents=True, exist_ok=True)
            self._params_file.write_text(json.dumps(self.params, indent=2) + "\n")
        for place, file in self.run.copies:
            if not (copy := self.workspace / place).exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(REPOSITORY / file, copy)
        records = read_records(self.home)
        for need in self.needs:
            for link in (self.workspace / place for place in need.run.places):
                if not link.exists():
                    directory = records[need.run.experiment].directory
                    target = directory.with_name(f"{directory.name}.pth") if link.suffix == ".pth" else directory
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.unlink(missing_ok=True)
                    link.symlink_to(os.path.relpath(target, link.parent))

    def finish(self) -> None:
        """After the command has ended well: remember it, and delete the networks that nobody has a use for."""
        if not self.run.trains:
            self._marker.write_text(json.dumps(self.arguments) + "\n")
        elif not self.budget.keep_networks and (record := self.record()):
            patterns = self.run.leftovers if self.run.needed else self.run.networks
            for file in {file for pattern in patterns for file in record.directory.glob(pattern)}:
                file.unlink()

    @property
    def _params_file(self) -> Path:
        return self.workspace / str(self.run.parameters) / "params.json"

    @property
    def _marker(self) -> Path:
        """Of a command that leaves no record."""
        return self.log.with_suffix(".done")

    def _state_of_evaluation(self) -> State:
        if not self._marker.is_file():
            return State.TO_DO
        return State.DONE if read_data(self._marker) == self.arguments else State.TO_DO


def read_records(home: Path) -> dict[str, Record]:
    """Experiment -> its record below `home`: a finished one before others, the newest before older ones."""
    records: dict[str, Record] = {}
    for folder, _, names in os.walk(home):  # does not follow links, so that no run is met twice
        if "run.json" in names and (content := _read_record(file := Path(folder, "run.json"), file.stat().st_mtime_ns)):
            new, old = Record(Path(folder), content), records.get(content["experiment"])
            if old is None or _rank(new) > _rank(old):
                records[content["experiment"]] = new
    return records


def _rank(record: Record) -> tuple[bool, str]:
    return record.done, record.content.get("started", "")


@functools.cache
def _read_record(file: Path, changed: int) -> dict[str, Any] | None:
    """The content of a `run.json` that was written at the time `changed`; None where it is damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return content if "experiment" in content else None
    except (OSError, ValueError, TypeError):
        return None


def states(tasks: Iterable[Task]) -> dict[Task, State]:
    """How far all tasks are; each workspace is read once."""
    records: dict[Path, dict[str, Record]] = {}
    result = {}
    for task in tasks:
        if task.home not in records:
            records[task.home] = read_records(task.home)
        result[task] = task.state(records[task.home])
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

    Args:
        runs: with all that they need, in the plan's order.
        seeds: run -> its seeds; a run has all those of the runs that need it.
        budget: to run them with.
        output: directory of results.
        data: directory of data sets.
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
                published = read_data(experiments.parent / run.parameters / "params.json")
                params = {**published, **budget.overrides(run.name)}
            made[run.key] = Task(
                run,
                seed,
                budget,
                tuple(made[run.paper, need] for need in run.needs),
                output.absolute() / budget.name / f"seed_{seed}" / run.paper,
                data_directory(data.absolute(), budget.generated),
                params,
            )
        tasks += made.values()
    return tasks
