"""The published tables (`experiments/reported.json`), and which experiment gives which cell (`experiments/plan/`)."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from common.command_line import REPOSITORY
from common.errors import UserError

EXPERIMENTS = REPOSITORY / "experiments"


@dataclasses.dataclass(frozen=True)
class Cell:
    """One published figure.

    Attributes:
        row, column: where it stands in its table.
        published: its value, in the table's metric.
        std: the published deviation over runs, where there is one.
        experiment: what `run.json` calls the runs that regenerate it; None where the plan has none.
        missing: why there is none, where the plan says so.
    """

    row: str
    column: str
    published: float
    std: float | None = None
    experiment: str | None = None
    missing: str | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """One published table. `single_column` says that naming the column would add nothing."""

    id: str
    paper: str
    title: str
    dataset: str
    metric: str
    source: str
    single_column: bool
    notes: tuple[str, ...]
    cells: tuple[Cell, ...]


def read_data(file: Path) -> Any:
    """The content of one of the repository's own JSON files.

    Raises:
        UserError: absent or not JSON.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror})") from error
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON: {error}") from error


def plan_files(experiments: Path = EXPERIMENTS) -> dict[str, Path]:
    """The plan of each paper: paper -> file."""
    return {file.stem: file for file in sorted((experiments / "plan").glob("*.json"))}


def load_tables(experiments: Path = EXPERIMENTS) -> list[Table]:
    """All published tables, each cell with the experiment that the plan gives it.

    Raises:
        UserError: a file that cannot be read, or a plan whose cells are not those of the table.
    """
    planned: dict[str, dict[str, list]] = {}
    notes: dict[str, str] = {}
    for file in plan_files(experiments).values():
        content = read_data(file)
        planned.update(content["cells"])
        notes.update(content.get("notes", {}))
    reported = read_data(experiments / "reported.json")["tables"]
    if surplus := (planned.keys() | notes.keys()) - {table["id"] for table in reported}:
        raise UserError(f"{experiments / 'plan'}: no published table '{min(surplus)}' in reported.json")
    return [
        Table(
            **{key: table[key] for key in ("id", "paper", "title", "dataset", "metric", "source")},
            single_column=len(table["columns"]) == 1,
            notes=tuple(note for note in (table.get("note"), notes.get(table["id"])) if note),
            cells=tuple(_cells(table, planned.get(table["id"]))),
        )
        for table in reported
    ]


def _cells(table: dict[str, Any], planned: dict[str, list] | None) -> list[Cell]:
    shape = {name: len(figures) for name, *figures in table["rows"]}
    if planned is not None and shape != {name: len(entries) for name, entries in planned.items()}:
        raise UserError(f"the plan of table {table['id']} does not have the rows and columns that were published")
    cells = []
    for name, *figures in table["rows"]:
        entries = planned[name] if planned is not None else [None] * len(figures)
        for column, figure, entry in zip(table["columns"], figures, entries, strict=True):
            column = column.replace("[teacher]", f"[{figure.get('teacher')}]")
            known = {"missing": entry["missing"]} if isinstance(entry, dict) else {"experiment": entry}
            cells.append(Cell(name, column, figure["value"], figure.get("std"), **known))
    return cells
