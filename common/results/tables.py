"""Markdown: each published table with the measured figures beside it."""

from __future__ import annotations

from collections.abc import Sequence

from common.results.analysis import METRICS, mean_figure
from common.results.report import DOUBT, MARK, NONE, NOTE, WITHIN, BudgetTable, CellResult, Report, Section
from common.results.reported import Table

HEAD = f"""# Published and measured figures

Best and last are test accuracies at the best epoch (chosen on the test set itself) and at the last, mean ± standard
deviation over seeds. {MARK} marks figures that were measured on other data or with another budget than the paper's:
they prove that everything runs or which way it goes, and do not reproduce the published figure. {DOUBT} marks published
figures that are doubtful, very likely misprints, {NOTE} those with a note of their own below the table. A published
figure is held against the measured one of the same protocol, best epoch or last, and against both where its protocol
is not known. {WITHIN} marks differences that are no larger than the spread over seeds; one seed shows no spread, and
no difference of one seed is shown to be real. Rows without a published figure are controls."""


def render(report: Report, *, unmeasured: bool = False, metrics: Sequence[str] = ()) -> str:
    """All tables for which there are runs, a sub-table for each data and budget, and the runs of no table.

    Args:
        report: what to show.
        unmeasured: also the tables for which there are no runs.
        metrics: further columns, names of `common.results.analysis.METRICS`, of the last epoch.
    """
    blocks = [HEAD]
    for section in report.sections:
        if section.is_measured or unmeasured:
            blocks += _section(section, metrics)
    blocks += _others(report.others, metrics)
    if not report.others and not any(section.is_measured for section in report.sections):
        blocks.append("There are no finished runs.")
    return "\n\n".join([*blocks, *report.messages]) + "\n"


def render_runs(report: Report) -> str:
    """What was found, before the tables that it goes into: a line for each experiment, and for each unfinished run."""
    lines = [*(line for s in report.sections for part in s.parts for line in part.lines), *report.others]
    measured = {id(line.measured): (line, line.measured.conditions) for line in lines if line.measured}
    rows = [
        [
            *(line.paper, line.cell.experiment or line.cell.row),
            *(line.show("best"), line.show("last"), line.seeds, line.budget, conditions.content),
        ]
        for line, conditions in measured.values()
    ]
    unfinished = {
        line.unfinished.directory: line.unfinished
        for section in report.sections
        for part in section.parts
        for line in part.lines
        if line.unfinished
    }
    rows += [[run.paper, run.experiment, run.status, NONE, NONE, run.reason, NONE] for run in unfinished.values()]
    header = ["paper", "experiment", "best", "last", "seeds", "budget", "data"]
    return "\n\n".join(["# Runs found", markdown(header, rows, left=2) if rows else "None is finished."]) + "\n"


def _section(section: Section, metrics: Sequence[str]) -> list[str]:
    table = section.table
    source = f"Published figures: {table.source}; {section.protocol}."
    blocks = [f"## {table.title} (`{table.id}`)", f"{table.dataset}, {table.metric}. {source}"]
    if section.is_measured:
        blocks += [_sub_table(section, part, metrics) for part in section.parts]
    else:
        blocks.append(_compact(table))
    blocks += [f"Control, {'; '.join(names)}: {why}." for why, names in section.controls.items()]
    blocks += [f"{DOUBT} {misprint}" for misprint in section.misprints]
    blocks += [f"{NOTE} {'; '.join(cells)}: {note}." for note, cells in section.cell_notes.items()]
    return [*blocks, *(f"Note: {n}" for n in table.notes)]


def _compact(table: Table) -> str:
    """Rows and columns as published, each cell "published / measured", of which nothing is."""
    rows: dict[str, dict[str, str]] = {}
    for cell in table.published_cells:
        # where the teacher differs by row, it goes into the cell
        column, bracket, teacher = cell.column.partition(" [")
        rows.setdefault(cell.row, {})[column] = f"{CellResult(table.paper, cell).published}{bracket}{teacher} / {NONE}"
    columns = list(next(iter(rows.values())))
    lines = [[row, *(cells[column] for column in columns)] for row, cells in rows.items()]
    return markdown(["published / measured", *columns], lines, left=1)


def _metric_columns(line: CellResult, metrics: Sequence[str]) -> dict[str, str]:
    """Metrics beyond accuracy, of the last epoch."""
    runs = line.measured.runs if line.measured else ()
    return {METRICS[name].title: mean_figure(runs, name) or NONE for name in metrics}


def _sub_table(section: Section, part: BudgetTable, metrics: Sequence[str]) -> str:
    names = ["row"] if section.table.single_column else ["row", "column"]
    rows = [
        {
            **dict(zip(names, (line.cell.row, line.cell.column), strict=False)),
            **section.values(part, line),
            **_metric_columns(line, metrics),
        }
        for line in part.lines
    ]
    provenance = "; ".join(f"{name}: {value}" for name, value in part.provenance.items())
    mark = "" if part.as_published else f" {MARK}"
    table = markdown(list(rows[0]), [list(row.values()) for row in rows], left=len(names))
    blocks = [table, f"Measured{mark}: {provenance}."]
    if alike := section.not_told_apart(part):
        blocks.append(f"{WITHIN} Not told apart by these seeds. {'. '.join(alike)}.")
    return "\n\n".join(blocks)


def _others(lines: tuple[CellResult, ...], metrics: Sequence[str]) -> list[str]:
    """The runs that belong to no published table: a user's own experiments."""
    if not lines:
        return []
    rows = [
        [
            *(line.paper, line.cell.row, line.measured.runs[0].method or NONE),
            *(line.show("best"), line.show("last"), *_metric_columns(line, metrics).values(), line.seeds),
            *(line.budget, line.measured.conditions.content),
            ", ".join(sorted({run.commit for run in line.measured.runs})),
        ]
        for line in lines
        if line.measured
    ]
    titles = [METRICS[name].title for name in metrics]
    header = ["paper", "experiment", "method", "best", "last", *titles, "seeds", "budget", "data", "commit"]
    return ["## Other runs", markdown(header, rows, left=3)]


def markdown(header: list[str], rows: list[list[str]], left: int) -> str:
    """A Markdown table, padded so that it reads well in a terminal too; `left` columns are aligned left."""
    lines = [[cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def join(line: list[str]) -> str:
        cells = [cell.ljust(widths[i]) if i < left else cell.rjust(widths[i]) for i, cell in enumerate(line)]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([join(lines[0]), join(rule), *map(join, lines[1:])])
