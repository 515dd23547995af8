"""HTML: the report as one page that needs nothing beside it. What it looks like is in page.html and page.css."""

from __future__ import annotations

import os
import shlex
from glob import escape as literal
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

from common.errors import UserError
from common.results.curves import COLORS, chart, sparkline
from common.results.records import Curve, Record
from common.results.report import DOUBT, FIGURE_NAMES, MARK, NONE, REMARK, WITHIN, Line, Report
from common.results.reported import Cell

DIRECTORY = Path(__file__).parent
STYLE = DIRECTORY / "page.css"
MARKS = SimpleNamespace(MARK=MARK, DOUBT=DOUBT, REMARK=REMARK, WITHIN=WITHIN, NONE=NONE)


def write_page(report: Report, file: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        UserError: the file cannot be written.
    """
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        temporary.write_text(render_page(report, file.parent), encoding="utf-8")
        temporary.replace(file)
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror})") from error


def render_page(report: Report, directory: Path) -> str:
    """The page.

    Args:
        report: what to show.
        directory: where the page will lie; links to runs are relative to it.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # the dry run works before it is installed
    from markupsafe import Markup

    environment = Environment(loader=FileSystemLoader(DIRECTORY), autoescape=True, undefined=StrictUndefined)
    environment.globals |= {
        "report": report,
        "runs": _runs(report),
        "marks": MARKS,
        "style": Markup(STYLE.read_text(encoding="utf-8")),
        "colors": COLORS,
        "curves_of": _curves,
        "chart_of": chart,
        "sparkline_of": sparkline,
        "figures_of": _figures,
        "command_of": _command,
        "plan_command": _plan_command,
        "kind_of": _kind,
        "link_to": lambda run: quote(os.path.relpath(run.directory.resolve(), directory.resolve())) + "/",
    }
    return environment.get_template("page.html").render()


def _runs(report: Report) -> list[Record]:
    """All finished runs, each once."""
    runs = {run.directory: run for part in report.budgets for run in part.runs}
    runs |= {run.directory: run for line in report.others for run in line.measured.runs}
    return list(runs.values())


def _curves(line: Line) -> dict[str, Curve]:
    runs = line.measured.runs if line.measured else ()
    return {f"seed {run.seed}": curve for run in runs if (curve := run.curve())}


def _figures(run: Record) -> str:
    figures = {name: getattr(run, figure) for figure, name in FIGURE_NAMES.items()}
    return ", ".join(f"{name} {value:.2f}" for name, value in figures.items() if value is not None)


def _command(run: Record) -> str:
    place = f"cd {shlex.quote(run.called_in)} && " if run.called_in else ""
    return f"{place}python {shlex.join(run.command)}"


def _plan_command(cell: Cell) -> str:
    return f"./run_all.sh --cells {shlex.quote(literal(cell.experiment))}"


def _kind(line: Line, column: str, text: str) -> str:
    """Class of a value."""
    if text == line.cell.missing:
        return "number wrap"
    for figure, name in FIGURE_NAMES.items():
        gap = line.gap(figure) if column == f"{name} − published" else None
        if gap and line.conditions.as_published and WITHIN not in text:
            return "number up" if gap > 0 else "number down"
    return "number"
