"""What a report shows: every cell of every table under every budget, as text. Markdown and HTML only lay it out."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from common.results.records import Conditions, Mean, Record, SeedSummary, Unfinished, measure_all
from common.results.reported import PROTOCOLS, Cell, Table

MARK = "†"  # data or budget are not the paper's
DOUBT = "‡"  # the published figure is very likely a misprint
NOTE = "§"  # the cell has a note of its own
WITHIN = "≈"  # a difference no larger than the spread over seeds
NONE = "–"
LARGEST = 5  # differences in the summary

# Which measured figures answer a published one of that protocol; where that is not known, two may
_FIGURES = {"best": ("best",), "last": ("last",), "best of validation": ("selected",), "unknown": ("best", "last")}
FIGURE_NAMES = {"best": "best", "last": "last", "selected": "by validation"}

Broken = dict[tuple[str, str], Unfinished]  # (paper, experiment) -> the newest run that did not come to its end
Group = dict[tuple[str, str], SeedSummary]  # (paper, experiment) -> figures, all under the same conditions


@dataclasses.dataclass(frozen=True)
class CellResult:
    """A cell of a table, a control or a user's own experiment, with what was measured of it under one budget.

    Attributes:
        measured: None where nothing was.
        unfinished: a run of it that did not come to its end, where nothing was measured.
    """

    paper: str
    cell: Cell
    measured: SeedSummary | None = None
    unfinished: Unfinished | None = None

    @property
    def conditions(self) -> Conditions | None:
        return None if self.measured is None else self.measured.conditions

    @property
    def published(self) -> str:
        if self.cell.published is None:
            return NONE
        marks = [mark for mark, text in ((DOUBT, self.cell.misprint), (NOTE, self.cell.note)) if text]
        return " ".join([str(Mean(self.cell.published, self.cell.std)), *marks])

    @property
    def figures(self) -> tuple[str, ...]:
        """The measured figures that the published one may be held against: "best", "last", "selected"."""
        return () if self.cell.published is None else _FIGURES[self.cell.protocol]

    def mean(self, figure: str) -> Mean | None:
        return getattr(self.measured, figure, None)

    def show(self, figure: str) -> str:
        """A measured figure, marked where data or budget are not the paper's."""
        mean = self.mean(figure)
        if mean is None or self.measured is None:
            return NONE
        return str(mean) + ("" if self.measured.conditions.as_published else f" {MARK}")

    def gap(self, figure: str) -> float | None:
        """Measured minus published; None for a figure of another protocol, or on other data, where it means nothing."""
        mean, published = self.mean(figure), self.cell.published
        if mean is None or self.measured is None or published is None or figure not in self.figures:
            return None
        return mean.value - published if self.measured.conditions.published_data else None

    def difference(self, figure: str) -> str:
        """The same as text, marked where it is no larger than the spread over seeds, here or as published."""
        gap, mean = self.gap(figure), self.mean(figure)
        if gap is None or mean is None:
            return NONE
        return f"{gap:+.2f}" + (f" {WITHIN}" if _is_within(gap, mean.std, self.cell.std) else "")

    @property
    def nearest(self) -> str | None:
        """The figure that comes nearest to the published one, of those that may be held against it."""
        gaps = {figure: abs(gap) for figure in self.figures if (gap := self.gap(figure)) is not None}
        return min(gaps, key=gaps.__getitem__) if gaps else None

    @property
    def smallest_gap(self) -> float | None:
        """The difference of that figure."""
        return None if self.nearest is None else self.gap(self.nearest)

    @property
    def seeds(self) -> str:
        """How many, and how many of their runs were computed by starts that differ."""
        if self.measured is None:
            return NONE
        mixed = sum(bool(run.mixed) for run in self.measured.runs)
        return str(len(self.measured.runs)) + (f" ({mixed} mixed)" if mixed else "")

    @property
    def budget(self) -> str:
        return NONE if self.measured is None else self.measured.conditions.budget + _batch_sizes(self.measured.runs)


@dataclasses.dataclass(frozen=True)
class BudgetTable:
    """A table under one budget.

    Attributes:
        conditions: one for each dataset; none where nothing was measured.
        lines: one for each cell of the table.
    """

    conditions: tuple[Conditions, ...]
    lines: tuple[CellResult, ...]

    @property
    def measured(self) -> list[SeedSummary]:
        return [line.measured for line in self.lines if line.measured is not None]

    @property
    def runs(self) -> list[Record]:
        return [run for measured in self.measured for run in measured.runs]

    @property
    def as_published(self) -> bool:
        return bool(self.conditions) and all(conditions.as_published for conditions in self.conditions)

    @property
    def figures(self) -> list[str]:
        """The measured figures that there are columns for: those that a run has, and those to be compared."""
        wanted = {*self.compared, *(() if self.measured else ("last",))}
        return [f for f in FIGURE_NAMES if f in wanted or any(getattr(m, f) is not None for m in self.measured)]

    @property
    def compared(self) -> list[str]:
        """The measured figures that some published one may be held against."""
        return [f for f in FIGURE_NAMES if any(f in line.figures for line in self.lines)]

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
        teachers = sorted({run.teacher for run in self.runs if run.teacher})
        mixed = dict.fromkeys(name for run in self.runs for name in run.mixed)
        left_out = "older runs left out, because newer ones have other settings or the same seed"
        return {
            "data": data,
            "budget": self.budget,
            "commit": ", ".join(sorted({run.commit for run in self.runs})),
            "hardware": ", ".join(sorted({run.hardware for run in self.runs})),
            **({"mixed runs were resumed with another": ", ".join(mixed)} if mixed else {}),
            **({"teachers": "; ".join(teachers)} if teachers else {}),
            **({left_out: str(superseded)} if superseded else {}),
        }


@dataclasses.dataclass(frozen=True)
class Section:
    """A table with all that was measured of it; the budget nearest to the paper's comes first."""

    table: Table
    parts: tuple[BudgetTable, ...]

    @property
    def is_measured(self) -> bool:
        return bool(self.parts[0].conditions)

    def values(self, part: BudgetTable, line: CellResult) -> dict[str, str]:
        """The columns of a line and what it shows in them."""
        measured = {FIGURE_NAMES[figure]: line.show(figure) for figure in part.figures}
        if line.measured is None and (words := line.cell.missing or (line.unfinished and line.unfinished.status)):
            measured[next(iter(measured))] = words
        differences = {f"{FIGURE_NAMES[figure]} − published": line.difference(figure) for figure in part.compared}
        return {"published": line.published, **measured, **differences, "seeds": line.seeds}

    @property
    def protocol(self) -> str:
        """Which epoch the published figures are of, and how that is known; row by row where rows differ."""
        rows: dict[tuple[str, str], list[str]] = defaultdict(list)
        for cell in self.table.published_cells:
            names = rows[cell.protocol, cell.protocol_source]
            names += [cell.row] if cell.row not in names else []
        parts = []
        for (protocol, source), names in rows.items():
            words = PROTOCOLS[protocol]
            words = f"of {words}" if words else "whether of the best or of the last epoch is not known: both are shown"
            whose = f"{', '.join(names)}: " if len(rows) > 1 else ""
            parts.append(whose + words + (f" ({source})" if source else ""))
        return "; ".join(parts)

    @property
    def cell_notes(self) -> dict[str, list[str]]:
        """Notes of single cells -> the cells."""
        notes: dict[str, list[str]] = defaultdict(list)
        for cell in self.table.cells:
            if cell.note:
                notes[cell.note].append(cell.row if self.table.single_column else f"{cell.row}, {cell.column}")
        return dict(notes)

    def not_told_apart(self, part: BudgetTable) -> list[str]:
        """What the table compares and seeds do not separate: a line for each figure and group of methods."""
        if self.table.compares not in ("rows", "columns"):
            return []
        method, setting = ("row", "column") if self.table.compares == "rows" else ("column", "row")
        groups: dict[str, list[CellResult]] = defaultdict(list)
        for line in part.lines:
            if line.measured:
                groups[getattr(line.cell, setting)].append(line)
        texts = []
        for figure, (group, lines) in itertools.product(part.figures, groups.items()):
            pairs = [
                f"{getattr(a.cell, method)} and {getattr(b.cell, method)}"
                for a, b in itertools.combinations(lines, 2)
                if (x := a.mean(figure)) and (y := b.mean(figure)) and x.std is not None and y.std is not None
                if _is_within(x.value - y.value, x.std, y.std)
            ]
            if pairs:
                texts.append(f"{group}, {FIGURE_NAMES[figure]}: {'; '.join(pairs)}")
        return texts

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
            if line.measured.conditions.as_published or not as_published
        }
        return len(found)


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything that is shown.

    Attributes:
        sections: one for each published table.
        others: the runs of no table, such as a user's own experiments.
        messages: about files that were left out.
    """

    sections: tuple[Section, ...]
    others: tuple[CellResult, ...]
    messages: tuple[str, ...]

    @property
    def cells(self) -> int:
        """How many figures are published."""
        return sum(len(section.table.published_cells) for section in self.sections)

    def covered(self, *, as_published: bool = False) -> int:
        """How many of them were measured, under any budget or under the paper's."""
        return sum(section.covered(as_published=as_published) for section in self.sections)

    @property
    def budgets(self) -> list[BudgetTable]:
        """The data and budgets of all tables together, the nearest to the paper's first."""
        together: dict[tuple[str, str], BudgetTable] = {}
        for part in (part for section in self.sections for part in section.parts):
            for conditions in part.conditions:
                lines = tuple(line for line in part.lines if line.conditions == conditions)
                key = conditions.content, conditions.budget
                before = together.get(key, BudgetTable((), ()))
                together[key] = BudgetTable((*dict.fromkeys((*before.conditions, conditions)),), before.lines + lines)
        return sorted(together.values(), key=lambda part: part.conditions[0].distance)

    @property
    def largest(self) -> list[tuple[Table, CellResult]]:
        """The largest differences among what was measured with the paper's data and budget."""
        lines = [
            (abs(gap), section.table, line)
            for section in self.sections
            for part in section.parts
            for line in part.lines
            if (gap := line.smallest_gap) is not None and line.measured and line.measured.conditions.as_published
        ]
        lines.sort(key=lambda found: -found[0])
        return [(table, line) for _, table, line in lines[:LARGEST]]


def make_report(
    tables: Iterable[Table],
    records: Iterable[Record],
    messages: Iterable[str] = (),
    unfinished: Iterable[Unfinished] = (),
) -> Report:
    """Sort runs into the published tables."""
    tables, groups = list(tables), measure_all(records)
    broken = {(run.paper, run.experiment): run for run in unfinished}
    others = [
        CellResult(paper, Cell(experiment, "", None, experiment=experiment), measured)
        for conditions, group in groups.items()
        for (paper, experiment), measured in sorted(group.items())
        if not any((paper, experiment) in _wanted(table, conditions) for table in tables)
    ]
    return Report(tuple(_section(table, groups, broken) for table in tables), tuple(others), tuple(messages))


def _section(table: Table, groups: dict[Conditions, Group], broken: Broken) -> Section:
    """One part for each budget; runs on different data share it where the table has several datasets."""
    parts: list[dict[Conditions, Group]] = []
    for conditions, group in groups.items():
        found = {key: group[key] for key in group.keys() & _wanted(table, conditions)}
        if not found:
            continue
        for part in parts:
            if all(conditions.is_comparable(other) and not found.keys() & part[other].keys() for other in part):
                part[conditions] = found
                break
        else:
            parts.append({conditions: found})
    return Section(table, tuple(_part(table, part, broken) for part in parts or [{}]))


def _wanted(table: Table, conditions: Conditions) -> set[tuple[str, str]]:
    """What a table shows of the runs under some conditions: nothing of those on other datasets than its own."""
    if not table.is_of(conditions.dataset):
        return set()
    return {(table.paper, cell.experiment) for cell in table.cells if cell.experiment}


def _part(table: Table, groups: dict[Conditions, Group], broken: Broken) -> BudgetTable:
    where = {key: measured for group in groups.values() for key, measured in group.items()}
    budgets = {(conditions.epochs, conditions.batches) for conditions in groups}
    lines = []
    for cell in table.cells:
        key = table.key_of(cell)
        line = CellResult(table.paper, cell, where.get(key))
        run = broken.get(key)
        if run and line.measured is None and (not budgets or (run.epochs, run.batches) in budgets):
            line = dataclasses.replace(line, unfinished=run)
        lines.append(line)
    return BudgetTable(tuple(groups), tuple(lines))


def _is_within(difference: float, *stds: float | None) -> bool:
    """Whether a difference is no larger than its own deviation from one run to the next; False where none is known."""
    known = [std for std in stds if std is not None]
    return bool(known) and abs(difference) <= math.hypot(*known)


def _batch_sizes(runs: Sequence[Record]) -> str:
    sizes = sorted({run.batch_size for run in runs if run.batch_size is not None})
    if not sizes:
        return ""
    return f", batch size {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else "")
