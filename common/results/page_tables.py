"""The tables of the page: a row for each cell, which unfolds to its curve, runs and commands."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from glob import escape as literal
from pathlib import Path
from urllib.parse import quote

from common.results.curves import COLORS, chart, sparkline
from common.results.markup import Html, join, table_header, tag
from common.results.records import Curve, Record
from common.results.report import DOUBT, FIGURE_NAMES, MARK, NONE, REMARK, WITHIN, Line, Part, Section
from common.results.reported import Cell


class Tables:
    """Makes the tables of a page.

    Args:
        directory: where the page lies, absolute; links to runs are relative to it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def section(self, section: Section) -> Html:
        """A published table under every budget that there are runs of."""
        table = section.table
        published = f"Published figures: {table.source}; {section.protocol}."
        missing = len(table.published_cells) - section.covered()
        controls = ((f"Control {'; '.join(names)}", f": {why}.") for why, names in section.controls.items())
        return tag(
            "section",
            tag("h2", table.title, " ", tag("code", table.id)),
            tag("p", f"{table.dataset}, {table.metric}. {published}", class_="source"),
            *(tag("p", tag("b", DOUBT), f" {misprint}", class_="note doubt") for misprint in section.misprints),
            *(self.part(section, part) for part in section.parts),
            *(tag("p", tag("b", f"{REMARK} {'; '.join(cells)}"), f": {note}.", class_="remark")
              for note, cells in section.cell_notes.items()),
            *(tag("p", tag("b", names), why, class_="remark") for names, why in controls),
            *(tag("p", tag("b", "Note"), f": {note}", class_="remark") for note in table.notes),
            tag("p", tag("b", "Missing"), f": {missing} of {len(table.published_cells)} cells; all of them by ",
                tag("code", f"./run_all.sh --tables {table.id}"), class_="remark") if missing else None,
            id=table.id,
        )  # fmt: skip

    def part(self, section: Section, part: Part) -> Html:
        """A table under one budget; those further from the paper's are folded away."""
        columns = list(section.values(part, part.lines[0]))
        rows = [row for line in part.lines for row in self.rows(line, section.values(part, line), _name(section, line))]
        table = tag("table", table_header(["cell"], [*columns, "curve", ""]), tag("tbody", *rows), class_="cells")
        if not part.conditions:
            return table
        measured = sum(line.measured is not None and line.cell.published is not None for line in part.lines)
        summary = tag(
            "summary",
            tag("b", "as published", class_="good") if part.as_published else tag("b", MARK, class_="warn"),
            f" {part.budget}",
            tag("span", f"{measured} of {len(section.table.published_cells)} cells", class_="count"),
        )
        origins = part.provenance
        if alike := section.not_told_apart(part):
            origins[f"{WITHIN} not told apart"] = ". ".join(alike)
        provenance = [tag("div", tag("dt", name), tag("dd", value)) for name, value in origins.items()]
        first = part is section.parts[0]
        return tag("details", summary, table, tag("dl", *provenance, class_="provenance"), class_="part", open=first)

    def others(self, lines: Sequence[Line]) -> Html:
        """The runs that belong to no published table."""
        rows = []
        for line in lines:
            where = tag("span", f"{line.paper}, {line.budget}, {line.conditions.content}")
            values = {"best": line.show("best"), "last": line.show("last"), "seeds": line.seeds}
            rows += self.rows(line, values, tag("th", line.cell.row, where, scope="row"))
        return tag(
            "section",
            tag("h2", "Other runs"),
            tag("p", "Runs that no published table asks for, such as your own experiments.", class_="source"),
            tag("table", table_header(["experiment"], [*values, "curve", ""]), tag("tbody", *rows), class_="cells"),
            id="others",
        )

    def rows(self, line: Line, values: Mapping[str, str], name: Html) -> list[Html]:
        """The row of a cell, and the one that its last column unfolds: runs, or how to get them."""
        curves = _curves(line.measured.runs if line.measured else ())
        cells = [
            tag("td", text, class_=_kind(line, column, text), data_label=column) for column, text in values.items()
        ]
        cells.append(tag("td", sparkline(curves) if curves else NONE, class_="number", data_label="curve"))
        if line.measured:
            words, details = "runs", self.evidence(line, curves)
        elif line.cell.experiment:
            words, details = "get it", _how(line.cell)
        else:
            return [tag("tr", name, *cells, tag("td", class_="more"), class_="empty")]
        # the style unfolds the next row, no script
        toggle = tag("td", tag("details", tag("summary", words)), class_="more")
        row = tag("tr", name, *cells, toggle, class_=None if line.measured else "empty")
        return [row, tag("tr", tag("td", details, colspan=str(len(cells) + 2)), class_="panel")]

    def evidence(self, line: Line, curves: Mapping[str, Curve]) -> Html:
        """Curves, and each run with its directory and command."""
        published = line.cell.published if line.conditions.as_published else None
        figure = tag("figure", chart(curves, published), _caption(curves)) if curves else None
        return tag("div", figure, tag("div", *map(self.run, line.measured.runs), class_="runs"), class_="evidence")

    def run(self, run: Record) -> Html:
        link = quote(os.path.relpath(run.directory.resolve(), self.directory)) + "/"
        place = f"cd {shlex.quote(run.called_in)} && " if run.called_in else ""
        figures = {name: getattr(run, figure) for figure, name in FIGURE_NAMES.items()}
        known = ", ".join(f"{name} {value:.2f}" for name, value in figures.items() if value is not None)
        return tag(
            "div",
            tag("p", tag("b", f"seed {run.seed}"), f": {known}; ",
                tag("a", "run directory", href=link), f"; commit {run.commit}; {run.hardware}"),
            tag("pre", f"{place}python {shlex.join(run.command)}"),
        )  # fmt: skip


def _name(section: Section, line: Line) -> Html:
    column = None if section.table.single_column else tag("span", line.cell.column)
    return tag("th", line.cell.row, tag("em", "control") if line.cell.why is not None else None, column, scope="row")


def _kind(line: Line, column: str, text: str) -> str:
    """Class of a value."""
    if text == line.cell.missing:
        return "number wrap"
    for figure, name in FIGURE_NAMES.items():
        gap = line.gap(figure) if column == f"{name} − published" else None
        if gap and line.conditions.as_published and WITHIN not in text:
            return "number up" if gap > 0 else "number down"
    return "number"


def _curves(runs: Sequence[Record]) -> dict[str, Curve]:
    return {f"seed {run.seed}": curve for run in runs if (curve := run.curve())}


def _caption(curves: Mapping[str, Curve]) -> Html:
    names = [tag("span", tag("i", class_=f"seed-{i % COLORS}"), name) for i, name in enumerate(curves)]
    parts = sorted({curve.part for curve in curves.values()})
    return tag("figcaption", f"{' and '.join(parts)} accuracy by epoch", *names)


def _how(cell: Cell) -> Html:
    """The commands that would give a figure."""
    plan = f"./run_all.sh --cells {shlex.quote(literal(cell.experiment))}"
    by_hand = [tag("p", "By hand:"), tag("pre", cell.command)] if cell.command else []
    return join(tag("p", "No finished run. With all that it needs:"), tag("pre", plan), *by_hand)
