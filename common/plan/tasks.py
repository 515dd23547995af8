"""A planned run with a seed under a budget: its workspace, its command, and how far it is.

Each budget and seed has a workspace `results/<budget>/seed_<s>/<paper>/`, in which commands are the README's own: it
holds `experiments/` with the parameters that the budget overrides. Runs with method flags have a workspace of their own
in it (`with_pt_teacher/`), because the published scripts write to the same directory with and without such flags.
Trained networks of other runs are linked to where the command looks for them.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.plan.budgets import Budget
from common.plan.datasets import data_directory
from common.plan.plan import PlannedRun
from common.results.reported import read_data


class State(enum.Enum):
    """How far a task is."""

    TO_DO = "to do"
    BROKEN = "to resume"
    DONE = "done"
    STALE = "done with other flags or parameters"


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One command to execute.

    Attributes:
        run, seed, budget: what it is.
        needs: tasks whose networks it needs.
        workspace: its working directory.
        data_dir: where its data lie.
        params: content of its `params.json`.
    """

    run: PlannedRun
    seed: int
    budget: Budget
    needs: tuple[Task, ...]
    workspace: Path
    data_dir: Path
    params: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.run.paper} {self.run.experiment} (seed {self.seed})"

    @property
    def directory(self) -> Path:
        """Of the run, with `params.json`."""
        return self.workspace / "experiments" / self.run.directory

    @property
    def log(self) -> Path:
        """What the command printed."""
        return self.directory / "output.log"

    @property
    def arguments(self) -> list[str]:
        """Of the script: the README's, then the budget's."""
        return [*self.run.arguments, *self.budget.flags.get(self.run.paper, []), "--seed", str(self.seed)]

    @property
    def command(self) -> list[str]:
        """To be executed in the workspace."""
        where = ["--data-dir", str(self.data_dir), "--resume"]
        return [sys.executable, str(self.run.script), *self.arguments, *where]

    @property
    def shell_command(self) -> str:
        """The same for people."""
        return f"cd {shlex.quote(str(self.workspace))} && {shlex.join(['python', *self.command[1:]])}"

    def record(self) -> dict[str, Any] | None:
        """The run's `run.json`, wherever below its directory the script writes it."""
        for file in sorted(self.directory.glob("**/run.json")):
            try:
                record = json.loads(file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if (record.get("paper"), record.get("experiment")) == (self.run.paper, self.run.experiment):
                return record
        return None

    def state(self) -> State:
        record = self.record()
        if record is None:
            return State.TO_DO
        if record.get("status") != "done":
            return State.BROKEN
        same = record.get("command", [])[1 : len(self.arguments) + 1] == self.arguments
        return State.DONE if same and read_data(self.directory / "params.json") == self.params else State.STALE

    def prepare(self) -> None:
        """Write the parameters, and link the networks that the command needs."""
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "params.json").write_text(json.dumps(self.params, indent=2) + "\n")
        for need in self.needs:
            link = self.workspace / "experiments" / str(need.run.place)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_dir():
                link.symlink_to(os.path.relpath(need.directory, link.parent), target_is_directory=True)

    def tidy(self) -> None:
        """Delete the networks of the finished run where the budget has no use for them."""
        if not self.budget.keep_networks and self.run.place is None:
            for file in self.directory.glob("**/*.pth.tar"):
                file.unlink()


def make_tasks(
    runs: Sequence[PlannedRun], seeds: Sequence[int], budget: Budget, *, output: Path, data: Path, experiments: Path
) -> list[Task]:
    """All runs with the first seed, then with the next, each task after those that it needs.

    Args:
        runs: with all that they need, in the plan's order.
        seeds, budget: to run them with.
        output: directory of results.
        data: directory of data sets.
        experiments: with the published `params.json` files.

    Raises:
        UserError: parameters that cannot be read.
    """
    tasks: list[Task] = []
    for seed in seeds:
        made: dict[tuple[str, str], Task] = {}
        for run in runs:
            workspace = output.absolute() / budget.name / f"seed_{seed}" / run.paper
            if run.flags:
                workspace /= "with_" + "_".join(flag.lstrip("-") for flag in run.flags)
            made[run.paper, run.experiment] = Task(
                run,
                seed,
                budget,
                tuple(made[run.paper, need] for need in run.needs),
                workspace,
                data_directory(data.absolute(), budget.generated),
                {**read_data(experiments / run.directory / "params.json"), **budget.overrides(run.experiment)},
            )
        tasks += made.values()
    return tasks
