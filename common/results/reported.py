"""The published tables (`experiments/reported.json`), and which experiment gives which cell (`experiments/plan/`)."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from common.command_line import REPOSITORY
from common.errors import UserError
from common.safe_json import of_its_shape, read_json_file

EXPERIMENTS = REPOSITORY / "experiments"

# Which epoch of a run a published figure is of, in words; None where nothing published says so
PROTOCOLS = {
    "best": "the best epoch, chosen on the test set",
    "last": "the last epoch",
    "best of validation": "the epoch that a validation split chose",
    "unknown": None,
}

COMPARISONS = ("rows", "columns", "other tables", "nothing")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One figure of a table: a published one, or a control of ours beside them.

    Attributes:
        row, column: where it stands in its table.
        published: its value, in the table's metric; None for a control.
        std: the published deviation over runs, where there is one.
        protocol: which epoch it is of, a key of `PROTOCOLS`; `protocol_source`: how that is known.
        misprint: why the published value is doubtful, where it is.
        experiment: what `run.json` calls the runs that regenerate it; None where the plan has none.
        missing: why there is none, where the plan says so.
        note: what a reader must know about this cell alone, such as that its parameters are inferred.
        command: what a person would type for such a run, where the plan says so.
        why: what a control is good for; None for a published figure.
    """

    row: str
    column: str
    published: float | None
    std: float | None = None
    protocol: str = "unknown"
    protocol_source: str = ""
    misprint: str | None = None
    experiment: str | None = None
    missing: str | None = None
    note: str | None = None
    command: str | None = None
    why: str | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """One published table.

    Attributes:
        runs: how many runs a figure is the mean of, where that is known; else 1.
        compares: where the methods stand that it holds against each other: a value of `COMPARISONS`.
        cells: the published ones, then the controls.
    """

    id: str
    paper: str
    title: str
    dataset: str
    metric: str
    source: str
    runs: int
    compares: str
    notes: tuple[str, ...]
    cells: tuple[Cell, ...]

    def key_of(self, cell: Cell) -> tuple[str, str]:
        """Paper and experiment of a cell, as runs have them; no run's where the cell has no experiment."""
        return self.paper, cell.experiment or ""

    @property
    def single_column(self) -> bool:
        """Whether naming the column would add nothing."""
        return len({cell.column for cell in self.cells}) == 1

    def is_of(self, dataset: str) -> bool:
        """Whether a dataset (`cifar100`, `oxford-iiit`) is one of the table's ("CIFAR-100", "Oxford-IIIT Pet")."""
        ours = [re.sub(r"\W", "", name).lower() for name in self.dataset.split(",")]
        return any(re.match(rf"{re.sub(r'[^a-z0-9]', '', dataset.lower())}(?!\d)", name) for name in ours)

    @property
    def published_cells(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.published is not None)


def plan_files(experiments: Path = EXPERIMENTS) -> dict[str, Path]:
    """The plan of each paper: paper -> file."""
    return {file.stem: file for file in sorted((experiments / "plan").glob("*.json"))}


@dataclasses.dataclass
class _Plan:
    """What the plans of all papers say about the tables."""

    cells: dict[str, dict[str, list]] = dataclasses.field(default_factory=dict)
    controls: dict[str, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    notes: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    commands: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    @classmethod
    def read(cls, experiments: Path) -> _Plan:
        """All files; a paper may have several."""
        plan = cls()
        for file in plan_files(experiments).values():
            content = read_json_file(file)
            with of_its_shape(file, "plan"):
                paper = content["paper"]
                plan.cells |= content.get("cells", {})
                for table, controls in content.get("controls", {}).items():
                    plan.controls.setdefault(table, []).extend(controls)
                for table, note in content.get("notes", {}).items():
                    plan.notes.setdefault(table, []).append(note)
                for run in content["runs"]:
                    plan.commands[paper, run["experiment"]] = f"cd {paper} && python {run['command']}"
        return plan


def load_tables(experiments: Path = EXPERIMENTS) -> list[Table]:
    """All published tables, each cell with the experiment that the plan gives it, and the plan's controls after them.

    Raises:
        UserError: a file that cannot be read, or a plan whose cells are not those of the table.
    """
    plan = _Plan.read(experiments)
    content, planned = read_json_file(file := experiments / "reported.json"), {*plan.cells, *plan.controls, *plan.notes}
    with of_its_shape(file, "list of published tables"):
        reported = content["tables"]
        if surplus := planned - {table["id"] for table in reported}:
            raise UserError(f"{experiments / 'plan'}: no published table '{min(surplus)}' in reported.json")
        return [_table(content, plan) for content in reported]


def _table(content: dict[str, Any], plan: _Plan) -> Table:
    if (compares := content.get("compares", "nothing")) not in COMPARISONS:
        raise UserError(f"reported.json: {content['id']} compares '{compares}', not one of {[*COMPARISONS]}")
    cells = _cells(content, plan.cells.get(content["id"]))
    try:
        cells += [Cell(published=None, **control) for control in plan.controls.get(content["id"], [])]
    except TypeError as error:
        raise UserError(f"a control of {content['id']} is not {{row, column, experiment, why}}: {error}") from error
    paper = content["paper"]
    return Table(
        **{key: content[key] for key in ("id", "paper", "title", "dataset", "metric", "source")},
        runs=content.get("runs", 1),
        compares=compares,
        notes=tuple(note for note in (content.get("note"), *plan.notes.get(content["id"], [])) if note),
        cells=tuple(
            dataclasses.replace(cell, command=plan.commands.get((paper, cell.experiment or ""))) for cell in cells
        ),
    )


def _cells(table: dict[str, Any], planned: dict[str, list] | None) -> list[Cell]:
    shape = {name: len(figures) for name, *figures in table["rows"]}
    if planned is not None and shape != {name: len(entries) for name, entries in planned.items()}:
        raise UserError(f"the plan of table {table['id']} does not have the rows and columns that were published")
    cells = []
    for name, *figures in table["rows"]:
        entries = planned[name] if planned is not None else [None] * len(figures)
        for column, figure, entry in zip(table["columns"], figures, entries, strict=True):
            column = column.replace("[teacher]", f"[{figure.get('teacher')}]")
            known = entry if isinstance(entry, dict) else {"experiment": entry}
            if surplus := known.keys() - {"experiment", "missing", "note"}:
                raise UserError(f"the plan of table {table['id']} has an unknown key '{min(surplus)}' in row {name}")
            cells.append(
                Cell(
                    name,
                    column,
                    figure["value"],
                    figure.get("std"),
                    *_protocol(table, name, figure),
                    misprint=figure.get("misprint"),
                    **known,
                )
            )
    return cells


def _protocol(table: dict[str, Any], row: str, figure: dict[str, Any]) -> tuple[str, str]:
    """Protocol of a figure and how it is known: its own, else its row's, else its table's."""
    own = next(
        (place for place in (figure, table.get("row_protocols", {}).get(row, {}), table) if "protocol" in place), {}
    )
    protocol = own.get("protocol", "unknown")
    if protocol not in PROTOCOLS:
        raise UserError(
            f"reported.json: the protocol of {table['id']}, {row}, is '{protocol}', not one of {[*PROTOCOLS]}"
        )
    return protocol, own.get("protocol_source", "")
