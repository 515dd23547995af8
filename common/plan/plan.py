"""The plan as data: every run that the published tables and READMEs ask for, and the choice among them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from common.command_line import REPOSITORY
from common.errors import UserError
from common.results.reported import EXPERIMENTS, Table, plan_files, read_data


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One command of a paper.

    Attributes:
        paper: whose it is.
        experiment: what `run.json` and the tables call it: a directory below `experiments/`, then the method's flags.
        script: of the paper, absolute.
        arguments: of the script, as in the paper's README.
        dataset: name of the data set.
        needs: experiments whose trained networks it starts from or is taught by.
        place: below `experiments/`, where commands that need this run look for its networks.
        readme: what the paper's README calls it, where it is one of the README's commands.
    """

    paper: str
    experiment: str
    script: Path
    arguments: tuple[str, ...]
    dataset: str
    needs: tuple[str, ...] = ()
    place: str | None = None
    readme: str | None = None

    @property
    def directory(self) -> str:
        """Where its parameters lie, below `experiments/`."""
        return self.experiment.split()[0]

    @property
    def flags(self) -> list[str]:
        """What tells it from other runs of the same directory."""
        return self.experiment.split()[1:]


def load_plan(experiments: Path = EXPERIMENTS) -> list[PlannedRun]:
    """The runs of all papers, each after those that it needs.

    Raises:
        UserError: a plan that cannot be read, names a run twice, or needs one that it does not have before.
    """
    return [run for file in plan_files(experiments).values() for run in _paper_runs(file)]


def _paper_runs(file: Path) -> list[PlannedRun]:
    content = read_data(file)
    runs: dict[str, PlannedRun] = {}
    for entry in content["runs"]:
        run = _planned_run(entry, content)
        if run.experiment in runs:
            raise UserError(f"{file} has the experiment '{run.experiment}' twice")
        for need in run.needs:
            if need not in runs or runs[need].place is None:
                raise UserError(f"{file}: '{run.experiment}' needs '{need}', which must come before and have a place")
        runs[run.experiment] = run
    return list(runs.values())


def _planned_run(entry: dict[str, Any], plan: dict[str, Any]) -> PlannedRun:
    script = REPOSITORY / plan["script"]
    name, *arguments = entry["command"].split()
    if name != script.name:
        raise UserError(f"the plan of {plan['paper']} runs {script.name}, but has the command '{entry['command']}'")
    return PlannedRun(
        plan["paper"],
        entry["experiment"],
        script,
        tuple(arguments),
        plan["dataset"],
        tuple(entry.get("needs", ())),
        plan["places"].get(entry["experiment"]),
        entry.get("readme"),
    )


def select(
    runs: Sequence[PlannedRun],
    tables: Iterable[Table],
    *,
    papers: Sequence[str] = (),
    table_patterns: Sequence[str] = (),
    cell_patterns: Sequence[str] = (),
) -> list[PlannedRun]:
    """The chosen runs and all that they need, in the plan's order. What is not given chooses everything.

    Args:
        runs: the whole plan.
        tables: the published tables.
        papers: names of papers.
        table_patterns: shell patterns of table names.
        cell_patterns: shell patterns of an experiment, or of a cell: "<table> <row> <column>".

    Raises:
        UserError: a paper or a pattern that nothing answers to.
    """
    cells = [(table, cell) for table in tables for cell in table.cells]
    known_papers = sorted({run.paper for run in runs})
    known_tables = sorted({table.id for table, cell in cells if cell.experiment})
    for paper in papers:
        if paper not in known_papers:
            raise UserError(f"no paper '{paper}' in the plan: give one of {', '.join(known_papers)}")
    for pattern in table_patterns:
        if not any(fnmatchcase(name, pattern) for name in known_tables):
            raise UserError(f"no table '{pattern}' in the plan: give one of {', '.join(known_tables)}")

    names: dict[tuple[str, str], list[str]] = {(run.paper, run.experiment): [run.experiment] for run in runs}
    in_tables: set[tuple[str, str]] = set()
    for table, cell in cells:
        key = (table.paper, cell.experiment)
        if key in names:
            names[key].append(f"{table.id} {cell.row} {cell.column}")
            if any(fnmatchcase(table.id, pattern) for pattern in table_patterns):
                in_tables.add(key)
    for pattern in cell_patterns:
        if not any(fnmatchcase(name, pattern) for of_run in names.values() for name in of_run):
            raise UserError(f"no experiment or cell answers to '{pattern}': --dry-run lists the experiments")

    def chosen(run: PlannedRun) -> bool:
        key = (run.paper, run.experiment)
        return (
            (not papers or run.paper in papers)
            and (not table_patterns or key in in_tables)
            and (not cell_patterns or any(fnmatchcase(name, p) for name in names[key] for p in cell_patterns))
        )

    wanted = {(run.paper, run.experiment) for run in runs if chosen(run)}
    for run in reversed(runs):  # a run's needs come before it
        if (run.paper, run.experiment) in wanted:
            wanted |= {(run.paper, need) for need in run.needs}
    if not wanted:
        raise UserError("nothing in the plan answers to all of --papers, --tables and --cells together")
    return [run for run in runs if (run.paper, run.experiment) in wanted]
