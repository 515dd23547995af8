"""HTML: the report as one page that needs nothing beside it. What it looks like is in page.html and page.css."""

from __future__ import annotations

import os
import shlex
from glob import escape as literal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

from common.atomic_write import write_text_atomically
from common.results.analysis import summarize
from common.results.curves import COLORS, chart, sparkline
from common.results.records import Curve, Record
from common.results.report import DOUBT, FIGURE_NAMES, MARK, NONE, NOTE, WITHIN, CellResult, Report
from common.results.reported import Cell

DIRECTORY = Path(__file__).parent
STYLE = DIRECTORY / "page.css"
MARKS = SimpleNamespace(MARK=MARK, DOUBT=DOUBT, NOTE=NOTE, WITHIN=WITHIN, NONE=NONE)


def write_page(report: Report, file: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        UserError: the file cannot be written.
        TrainingError: there is no room for it.
    """
    write_text_atomically(file, render_page(report, file.parent))


def render_page(report: Report, directory: Path) -> str:
    """The page.

    Args:
        report: what to show.
        directory: where the page will lie; links to runs are relative to it.
    """
    return render_template(
        "page.html",
        report=report,
        runs=_runs(report),
        marks=MARKS,
        curves_of=_curves,
        analysis_of=lambda line: summarize(line.measured.runs),
        link_to_file=lambda file: _link(file, directory),
        chart_of=chart,
        sparkline_of=sparkline,
        figures_of=_figures,
        command_of=_command,
        plan_command=_plan_command,
        kind_of=_kind,
        link_to=lambda run: _link(run.directory, directory) + "/",
    )


def render_template(template: str, **content: Any) -> str:
    """A template of this directory, with `content`, the common `style` and the number of `colors` of curves."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # the dry run works before it is installed
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(DIRECTORY), autoescape=True, undefined=StrictUndefined)
    # globals, which macros of other templates see as well
    environment.globals |= {**content, "style": Markup(STYLE.read_text(encoding="utf-8")), "colors": COLORS}
    return environment.get_template(template).render()


def _link(path: Path, directory: Path) -> str:
    """To a file, or directory, relative to the page's."""
    return quote(os.fsencode(os.path.relpath(path.resolve(), directory.resolve())))


def _runs(report: Report) -> list[Record]:
    """All finished runs, each once."""
    runs = {run.directory: run for part in report.budgets for run in part.runs}
    runs |= {run.directory: run for line in report.others if line.measured for run in line.measured.runs}
    return list(runs.values())


def _curves(line: CellResult) -> dict[str, Curve]:
    runs = line.measured.runs if line.measured else ()
    return {f"seed {run.seed}": curve for run in runs if (curve := run.curve())}


def _figures(run: Record) -> str:
    figures = {name: getattr(run, figure) for figure, name in FIGURE_NAMES.items()}
    return ", ".join(f"{name} {value:.2f}" for name, value in figures.items() if value is not None)


def _command(run: Record) -> str:
    place = f"cd {shlex.quote(run.called_in)} && " if run.called_in else ""
    return f"{place}python {shlex.join(run.command)}"


def _plan_command(cell: Cell) -> str:
    return f"./run_all.sh --cells {shlex.quote(literal(cell.experiment or ''))}"


def _kind(line: CellResult, column: str, text: str) -> str:
    """Class of a value."""
    if text == line.cell.missing:
        return "number wrap"
    if line.unfinished and text == line.unfinished.status:
        return "number broken"
    for figure, name in FIGURE_NAMES.items():
        gap = line.gap(figure) if column == f"{name} − published" else None
        if gap and line.measured and line.measured.conditions.as_published and WITHIN not in text:
            return "number up" if gap > 0 else "number down"
    return "number"
