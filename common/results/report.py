"""What a report shows: every cell of every table under every budget, as text. Markdown and HTML only lay it out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from common.results.records import Conditions, Mean, Measured, Record, measure_all
from common.results.reported import Cell, Table

MARK = "†"  # data or budget are not the paper's
DOUBT = "‡"  # the published figure is very likely a misprint
NONE = "–"
LARGEST = 5  # differences in the summary

# Which measured figure answers a published one of that protocol; what is not known is taken for the best epoch
_FIGURES = {"best": "best", "last": "last", "best of validation": "selected", "unknown": "best"}
FIGURE_NAMES = {"best": "best", "last": "last", "selected": "by validation"}

Group = dict[tuple[str, str], Measured]  # (paper, experiment) -> figures, all under the same conditions


@dataclasses.dataclass(frozen=True)
class Line:
    """A cell of a table, a control or a user's own experiment, with what was measured of it under one budget.

    Attributes:
        figure: the measured figure that is held against the published one: "best", "last" or "selected".
        measured, conditions: None where nothing was.
    """

    paper: str
    cell: Cell
    figure: str = "best"
    measured: Measured | None = None
    conditions: Conditions | None = None

    @property
    def published(self) -> str:
        if self.cell.published is None:
            return NONE
        return _show(Mean(self.cell.published, self.cell.std)) + (f" {DOUBT}" if self.cell.misprint else "")

    def show(self, figure: str) -> str:
        """A measured figure, marked where data or budget are not the paper's."""
        mean = getattr(self.measured, figure, None)
        if mean is None or self.conditions is None:
            return NONE
        return _show(mean) + ("" if self.conditions.as_published else f" {MARK}")

    @property
    def gap(self) -> float | None:
        """Measured minus published; None on other data, where it would mean nothing."""
        mean = getattr(self.measured, self.figure, None)
        if mean is None or self.cell.published is None or not self.conditions.published_data:
            return None
        return mean.value - self.cell.published

    @property
    def difference(self) -> str:
        return NONE if self.gap is None else f"{self.gap:+.2f}"

    @property
    def seeds(self) -> str:
        return NONE if self.measured is None else str(len(self.measured.runs))

    @property
    def budget(self) -> str:
        return NONE if self.measured is None else self.conditions.budget + _batch_sizes(self.measured.runs)


@dataclasses.dataclass(frozen=True)
class Part:
    """A table under one budget.

    Attributes:
        conditions: one for each data set; none where nothing was measured.
        lines: one for each cell of the table.
    """

    conditions: tuple[Conditions, ...]
    lines: tuple[Line, ...]

    @property
    def measured(self) -> list[Measured]:
        return [line.measured for line in self.lines if line.measured is not None]

    @property
    def runs(self) -> list[Record]:
        return [run for measured in self.measured for run in measured.runs]

    @property
    def as_published(self) -> bool:
        return bool(self.conditions) and all(conditions.as_published for conditions in self.conditions)

    @property
    def figures(self) -> list[str]:
        """The measured figures that there are columns for: those that a run has, and the one to be compared."""
        wanted = {self.lines[0].figure, *(() if self.measured else ("last",))}
        return [f for f in FIGURE_NAMES if f in wanted or any(getattr(m, f) is not None for m in self.measured)]

    @property
    def budget(self) -> str:
        return self.conditions[0].budget + _batch_sizes(self.runs)

    @property
    def provenance(self) -> dict[str, str]:
        """Where the measured columns come from."""
        several = len(self.conditions) > 1
        data = "; ".join(
            f"{c.dataset + ': ' if several else ''}{c.content}, fingerprint {c.fingerprint[:12]}"
            for c in self.conditions
        )
        superseded = sum(measured.superseded for measured in self.measured)
        left_out = "older runs left out, because newer ones have other settings or the same seed"
        return {
            "data": data,
            "budget": self.budget,
            "commit": ", ".join(sorted({run.commit for run in self.runs})),
            "hardware": ", ".join(sorted({run.hardware for run in self.runs})),
            **({left_out: str(superseded)} if superseded else {}),
        }


@dataclasses.dataclass(frozen=True)
class Section:
    """A table with all that was measured of it; the budget nearest to the paper's comes first."""

    table: Table
    parts: tuple[Part, ...]

    @property
    def is_measured(self) -> bool:
        return bool(self.parts[0].conditions)

    def values(self, part: Part, line: Line) -> dict[str, str]:
        """The columns of a line and what it shows in them."""
        measured = {FIGURE_NAMES[figure]: line.show(figure) for figure in part.figures}
        if line.measured is None and line.cell.missing:
            measured[next(iter(measured))] = line.cell.missing
        difference = {f"{FIGURE_NAMES[line.figure]} − published": line.difference}
        return {"published": line.published, **measured, **difference, "seeds": line.seeds}

    @property
    def misprints(self) -> list[str]:
        return list(dict.fromkeys(cell.misprint for cell in self.table.cells if cell.misprint))

    @property
    def controls(self) -> dict[str, list[str]]:
        """What controls are good for -> their names: the row, or in a published row the column."""
        rows = {cell.row for cell in self.table.published_cells}
        reasons: dict[str, list[str]] = {}
        for cell in self.table.cells:
            if cell.why is not None:
                name = cell.column if cell.row in rows else cell.row
                names = reasons.setdefault(cell.why, [])
                names += [name] if name not in names else []
        return reasons

    def covered(self, *, as_published: bool = False) -> int:
        """How many published cells were measured, under any budget or under the paper's."""
        found = {
            (line.cell.row, line.cell.column)
            for part in self.parts
            for line in part.lines
            if line.measured and line.cell.published is not None
            if line.conditions.as_published or not as_published
        }
        return len(found)


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that is shown.

    Attributes:
        sections: one for each published table.
        others: the runs of no table, such as a user's own experiments.
        remarks: about files that were left out.
    """

    sections: tuple[Section, ...]
    others: tuple[Line, ...]
    remarks: tuple[str, ...]

    @property
    def cells(self) -> int:
        """How many figures are published."""
        return sum(len(section.table.published_cells) for section in self.sections)

    def covered(self, *, as_published: bool = False) -> int:
        """How many of them were measured, under any budget or under the paper's."""
        return sum(section.covered(as_published=as_published) for section in self.sections)

    @property
    def budgets(self) -> list[Part]:
        """The data and budgets of all tables together, the nearest to the paper's first."""
        together: dict[tuple[str, str], Part] = {}
        for part in (part for section in self.sections for part in section.parts):
            for conditions in part.conditions:
                lines = tuple(line for line in part.lines if line.conditions == conditions)
                key = conditions.content, conditions.budget
                before = together.get(key, Part((), ()))
                together[key] = Part((*dict.fromkeys((*before.conditions, conditions)),), before.lines + lines)
        return sorted(together.values(), key=lambda part: part.conditions[0].distance)

    @property
    def largest(self) -> list[tuple[Table, Line]]:
        """The largest differences among what was measured with the paper's data and budget."""
        lines = [
            (section.table, line)
            for section in self.sections
            for part in section.parts
            for line in part.lines
            if line.gap is not None and line.conditions.as_published
        ]
        return sorted(lines, key=lambda pair: -abs(pair[1].gap))[:LARGEST]


def make_report(tables: Iterable[Table], records: Iterable[Record], remarks: Iterable[str] = ()) -> Report:
    """Sort finished runs into the published tables."""
    tables, groups = list(tables), measure_all(records)
    others = [
        Line(paper, Cell(experiment, "", None, experiment=experiment), measured=measured, conditions=conditions)
        for conditions, group in groups.items()
        for (paper, experiment), measured in sorted(group.items())
        if not any((paper, experiment) in _wanted(table, conditions) for table in tables)
    ]
    return Report(tuple(_section(table, groups) for table in tables), tuple(others), tuple(remarks))


def _section(table: Table, groups: dict[Conditions, Group]) -> Section:
    """One part for each budget; runs on different data share it where the table has several data sets."""
    parts: list[dict[Conditions, Group]] = []
    for conditions, group in groups.items():
        found = {key: group[key] for key in group.keys() & _wanted(table, conditions)}
        if not found:
            continue
        for part in parts:
            if all(conditions.beside(other) and not found.keys() & part[other].keys() for other in part):
                part[conditions] = found
                break
        else:
            parts.append({conditions: found})
    return Section(table, tuple(_part(table, part) for part in parts or [{}]))


def _wanted(table: Table, conditions: Conditions) -> set[tuple[str, str]]:
    """What a table shows of the runs under some conditions: nothing of those on other data sets than its own."""
    if not table.is_of(conditions.dataset):
        return set()
    return {(table.paper, cell.experiment) for cell in table.cells if cell.experiment}


def _part(table: Table, groups: dict[Conditions, Group]) -> Part:
    where = {key: (measured, conditions) for conditions, group in groups.items() for key, measured in group.items()}
    return Part(
        tuple(groups),
        tuple(
            Line(table.paper, cell, _FIGURES[table.protocol], *where.get((table.paper, cell.experiment), ()))
            for cell in table.cells
        ),
    )


def _show(mean: Mean) -> str:
    return f"{mean.value:.2f}" + ("" if mean.std is None else f" ± {mean.std:.2f}")


def _batch_sizes(runs: Sequence[Record]) -> str:
    sizes = sorted({run.batch_size for run in runs if run.batch_size is not None})
    if not sizes:
        return ""
    return f", batch size {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else "")
