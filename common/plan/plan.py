"""The plan as data: every run that the published tables and READMEs ask for, and the choice among them.

A file `experiments/plan/<name>.json` holds runs of one paper:

    paper       whose directory the commands are typed in
    dataset     of its runs, unless a run says another
    flags       script -> flags that each of its commands gets besides (optional)
    networks    patterns of the files that hold trained networks, in a run's directory or (../{name}.pth) beside it
                (optional)
    parameters  flag that names a directory with `params.json`, of which runs get a copy (optional)
    trial_flags  what keeps the trials of a search from seeing the test split (default: cut a tenth off for validation)
    reads       part of a command -> keys of its `params.json` that are read then, for docs/cells.md (optional)
    configuration  flag that names a YAML file below the paper's directory, likewise (optional)
    link_paths  experiment -> where commands that need it look for it, a path in the workspace or several (optional)
    released    experiment -> file with a published network that takes its place, on the published data, where the
                paper's directory or the repository has it (optional)
    runs        experiment, command, and where there are any depends_on, flags, dataset, readme (its name there);
                "trains": false for a command that leaves no `run.json` of its own, such as an evaluation; "workspace"
                for one that would write to another's files; "copy_files": place -> file of the repository it changes;
                "cleanup": patterns of large files that nobody reads after the end
    cells       table -> row -> experiments, one a column
    controls    table -> rows without a published figure (optional)
    notes       table -> what a reader must know (optional)

A paper may have several files: its own, which has its name, and those of people who add to it; these need not repeat
dataset, flags, networks, parameters and trial_flags.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from common.command_line import REPOSITORY
from common.errors import UserError
from common.results.reported import EXPERIMENTS, Table, plan_files
from common.safe_json import of_its_shape, read_json_file

INHERITED = ("dataset", "flags", "networks", "parameters", "trial_flags")
HEAD_KEYS = {
    *INHERITED,
    *("paper", "reads", "configuration", "link_paths", "released", "runs", "cells", "controls", "notes"),
}
VAL_FRACTION = "0.1"
TRIAL_FLAGS = ("--val-fraction", VAL_FRACTION, "--no-test")
RUN_KEYS = {
    *("experiment", "command", "depends_on", "flags", "dataset", "readme", "trains", "workspace", "copy_files"),
    "cleanup",
}


@dataclasses.dataclass(frozen=True)
class PlannedRun:
    """One command of a paper.

    Attributes:
        paper: whose it is.
        experiment: what `run.json` and the tables call it.
        command: as typed in the paper's directory; its first word is the script.
        dataset: name of the dataset.
        flags: what is added to the command: for every one of its script, then its own.
        depends_on: experiments whose trained networks it starts from or is taught by.
        readme: what a README calls it, where it is one of a README's commands.
        trains: False where it leaves no `run.json` of its own, as an evaluation does.
        parameters: directory with its `params.json`, relative to the workspace; None where its script reads none.
        variant: names its own workspace, where the files of another run would be written to in the common one.
        trial_flags: what keeps it, as a trial of a search, from seeing the test split.
        published_needs: experiments of `depends_on` whose place published networks have taken.
        copy_files: place in the workspace -> file of the repository copied there, because the command changes it.
        link_paths: where commands that need it look for its directory, or (*.pth) for the file of the directory's name
            beside it, relative to the workspace; none where they find it by themselves.
        needed: whether another run needs its networks.
        released: file with a published network that takes the run's place where it exists; None where none is known.
        networks: patterns of the files in its directory, or beside it, that hold them.
        cleanup: patterns of those that are of no use after the end, whoever needs the run.
    """

    paper: str
    experiment: str
    command: tuple[str, ...]
    dataset: str
    flags: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    readme: str | None = None
    trains: bool = True
    parameters: str | None = None
    variant: str = ""
    link_paths: tuple[str, ...] = ()
    needed: bool = False
    released: Path | None = None
    networks: tuple[str, ...] = ()
    cleanup: tuple[str, ...] = ()
    copy_files: tuple[tuple[str, str], ...] = ()
    trial_flags: tuple[str, ...] = TRIAL_FLAGS
    published_needs: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        return self.paper, self.experiment

    @property
    def script(self) -> Path:
        return REPOSITORY / self.paper / self.command[0]

    @property
    def name(self) -> str:
        """What patterns of budgets are compared with: `edkd tools/train.py cifar100/kd/res56_res20`."""
        return f"{self.paper} {self.command[0]} {self.experiment}"


def load_plan(experiments: Path = EXPERIMENTS) -> list[PlannedRun]:
    """The runs of all papers, each after those that it needs.

    Raises:
        UserError: a plan that cannot be read, has unknown keys, names a run twice, or needs one that it does not
            have before.
    """
    contents = [(file, read_json_file(file)) for file in plan_files(experiments).values()]
    if not contents:
        raise UserError(f"no plans in {experiments / 'plan'}: --experiments is a directory like {EXPERIMENTS}")
    papers: dict[Path, str] = {}
    for file, content in contents:
        with of_its_shape(file, "plan"):
            papers[file] = content["paper"]
    contents.sort(key=lambda pair: pair[0].stem != papers[pair[0]])  # a paper's own file comes first
    runs: dict[tuple[str, str], PlannedRun] = {}
    heads: dict[str, dict[str, Any]] = {}
    for file, content in contents:
        with of_its_shape(file, "plan"):
            head = heads.setdefault(content["paper"], content)
            _add_runs(runs, file, content, head)
    needed = {(run.paper, need) for run in runs.values() for need in run.depends_on}
    return [dataclasses.replace(run, needed=run.key in needed) for run in runs.values()]


def _add_runs(
    runs: dict[tuple[str, str], PlannedRun], file: Path, content: dict[str, Any], head: dict[str, Any]
) -> None:
    """The runs of one file; `head` is the paper's own, whose keys others inherit."""
    _refuse_unknown_keys(content, HEAD_KEYS, file)
    for entry in content["runs"]:
        _refuse_unknown_keys(entry, RUN_KEYS, file)
        run = _planned_run(entry, {**{key: head[key] for key in INHERITED if key in head}, **content}, file)
        if run.key in runs:
            raise UserError(f"{file} has the experiment '{run.experiment}', which is planned already")
        for need in run.depends_on:
            if (run.paper, need) not in runs:
                raise UserError(f"{file}: '{run.experiment}' needs '{need}', which must come before it")
        runs[run.key] = run


def _refuse_unknown_keys(given: dict[str, Any], known: set[str], file: Path) -> None:
    if unknown := given.keys() - known:
        raise UserError(
            f"{file} has the unknown key {min(unknown)!r}; those that there are: {', '.join(sorted(known))}"
        )


def _planned_run(entry: dict[str, Any], plan: dict[str, Any], file: Path) -> PlannedRun:
    try:
        command, parameters, variant = shlex.split(entry["command"]), None, entry.get("workspace", "")
        if (flag := plan.get("parameters")) in command:
            position = command.index(flag)
            parameters = command[position + 1].rstrip("/")
            if Path(parameters).is_absolute() or ".." in Path(parameters).parts:
                raise UserError(f"{file}: '{entry['experiment']}' has parameters outside the repository: {parameters}")
            if entry.get("trains", True):
                variant = "_".join(word.lstrip("-") for word in command[1:position] + command[position + 2 :])
        link_paths = plan.get("link_paths", {}).get(entry["experiment"], ())
        run = PlannedRun(
            paper=plan["paper"],
            experiment=entry["experiment"],
            command=tuple(command),
            dataset=entry.get("dataset", plan["dataset"]),
            flags=(*plan.get("flags", {}).get(command[0], ()), *entry.get("flags", ())),
            depends_on=tuple(entry.get("depends_on", ())),
            readme=entry.get("readme"),
            trains=entry.get("trains", True),
            parameters=parameters,
            variant=variant,
            link_paths=(link_paths,) if isinstance(link_paths, str) else tuple(link_paths),
            released=_released(plan, entry["experiment"]),
            networks=tuple(plan.get("networks", ())),
            trial_flags=tuple(plan.get("trial_flags", TRIAL_FLAGS)),
            cleanup=tuple(entry.get("cleanup", ())),
            copy_files=tuple(entry.get("copy_files", {}).items()),
        )
    except KeyError as error:
        raise UserError(f"{file} lacks the key {error}; CONTRIBUTING.md says what a plan holds") from error
    if not run.script.is_file():
        raise UserError(f"{file}: '{run.experiment}' runs {run.command[0]}, which is not in {run.paper}/")
    return run


def _released(plan: dict[str, Any], experiment: str) -> Path | None:
    file = plan.get("released", {}).get(experiment)
    if file is None:
        return None
    places = [REPOSITORY / plan["paper"] / file, REPOSITORY / file]
    return next((place for place in places if place.is_file()), places[0])


def with_released(runs: Sequence[PlannedRun]) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """The plan where published networks that are there take the place of runs.

    Returns:
        All runs, needing those no more; and the runs whose place is taken.
    """
    replaced = [run for run in runs if run.released and run.released.is_file()]
    gone = {run.key for run in replaced}
    remaining = []
    for run in runs:
        published = tuple(need for need in run.depends_on if (run.paper, need) in gone)
        others = tuple(need for need in run.depends_on if need not in published)
        remaining.append(dataclasses.replace(run, depends_on=others, published_needs=published))
    return remaining, replaced


def select(
    runs: Sequence[PlannedRun],
    tables: Iterable[Table],
    *,
    papers: Sequence[str] = (),
    table_patterns: Sequence[str] = (),
    cell_patterns: Sequence[str] = (),
    left_out: Sequence[str] = (),
) -> list[PlannedRun]:
    """The chosen runs and all that they need, in the plan's order. What is not given chooses everything.

    Args:
        runs: the whole plan.
        tables: the published tables.
        papers: names of papers.
        table_patterns: shell patterns of table names.
        cell_patterns: shell patterns of an experiment, or of a cell: "<table> <row> <column>", or with " | " between
            them as the dry run prints it. A name taken literally will do too, whatever brackets are in it.
        left_out: shell patterns of `PlannedRun.name`: runs that must be chosen by a table's or a cell's pattern.

    Raises:
        UserError: a paper or a pattern that nothing answers to.
    """
    of_tables: dict[tuple[str, str], set[str]] = {run.key: set() for run in runs}
    of_cells: dict[tuple[str, str], set[str]] = {run.key: {run.experiment} for run in runs}
    for table in tables:
        for cell in table.cells:
            key = table.key_of(cell)
            if key in of_tables:
                of_tables[key].add(table.id)
                of_cells[key] |= {separator.join((table.id, cell.row, cell.column)) for separator in (" ", " | ")}
    known_papers = sorted({run.paper for run in runs})
    known_tables = sorted(set().union(*of_tables.values()))
    for paper in papers:
        if paper not in known_papers:
            raise UserError(f"no paper '{paper}' in the plan: give one of {', '.join(known_papers)}")
    for pattern in table_patterns:
        if not _any_match(known_tables, [pattern]):
            raise UserError(f"no table '{pattern}' in the plan: give one of {', '.join(known_tables)}")
    for pattern in cell_patterns:
        if not _any_match(set().union(*of_cells.values()), [pattern]):
            raise UserError(f"no experiment or cell answers to '{pattern}': --dry-run lists the experiments")

    def chosen(run: PlannedRun) -> bool:
        if not (table_patterns or cell_patterns) and _any_match([run.name], left_out):
            return False
        return (
            (not papers or run.paper in papers)
            and (not table_patterns or _any_match(of_tables[run.key], table_patterns))
            and (not cell_patterns or _any_match(of_cells[run.key], cell_patterns))
        )

    wanted = {run.key for run in runs if chosen(run)}
    for run in reversed(runs):  # a run's needs come before it
        if run.key in wanted:
            wanted |= {(run.paper, need) for need in run.depends_on}
    if not wanted:
        raise UserError("nothing in the plan answers to all of --papers, --tables and --cells together")
    return [run for run in runs if run.key in wanted]


def _any_match(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(name == pattern or fnmatchcase(name, pattern) for name in names for pattern in patterns)
