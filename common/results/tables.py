"""Markdown: each published table with the measured figures beside it."""

from __future__ import annotations

from collections.abc import Iterable

from common.results.records import Conditions, Mean, Measured, Record, measure_all
from common.results.reported import Cell, Table

MARK = "†"  # data or budget are not the paper's
NONE = "–"
HEAD = f"""# Published and measured figures

Best and last are test accuracies at the best epoch (chosen on the test set itself, as these papers do) and at the last,
mean ± standard deviation over seeds. {MARK} marks figures that were measured on other data or with another budget than
the paper's: they prove that everything runs or which way it goes, and do not reproduce the published figure."""

Group = dict[tuple[str, str], Measured]  # (paper, experiment) -> figures, all under the same conditions


def render(
    tables: Iterable[Table], records: Iterable[Record], remarks: Iterable[str] = (), *, unmeasured: bool = False
) -> str:
    """All tables for which there are runs, a sub-table for each data and budget, and the runs of no table.

    Args:
        tables, records: published figures and finished runs.
        remarks: added at the end.
        unmeasured: also the tables for which there are no runs.
    """
    tables, groups = list(tables), measure_all(records)
    sections = [HEAD]
    for table in tables:
        wanted = {(table.paper, cell.experiment) for cell in table.cells if cell.experiment}
        found = {conditions: group for conditions, group in groups.items() if wanted & group.keys()}
        if found:
            sections.append(_head(table))
            sections += [_sub_table(table, conditions, group) for conditions, group in found.items()]
        elif unmeasured:
            sections += [_head(table), _compact(table)]
        if found or unmeasured:
            sections += [f"Note: {note}" for note in table.notes]
    known = {(table.paper, cell.experiment) for table in tables for cell in table.cells}
    sections += _others(groups, known)
    if not groups:
        sections.append("There are no finished runs.")
    return "\n\n".join([*sections, *remarks]) + "\n"


def _head(table: Table) -> str:
    return f"## {table.title} (`{table.id}`)\n\n{table.dataset}, {table.metric}. Published figures: {table.source}."


def _compact(table: Table) -> str:
    """Rows and columns as published, each cell "published / measured", of which nothing is."""
    rows: dict[str, dict[str, str]] = {}
    for cell in table.cells:
        column, bracket, teacher = cell.column.partition(
            " ["
        )  # where the teacher differs by row, it goes into the cell
        rows.setdefault(cell.row, {})[column] = f"{_published(cell)}{bracket}{teacher} / {NONE}"
    columns = list(next(iter(rows.values())))
    lines = [[row, *(cells[column] for column in columns)] for row, cells in rows.items()]
    return _markdown(["published / measured", *columns], lines, left=1)


def _sub_table(table: Table, conditions: Conditions, group: Group) -> str:
    columns = ["row", *([] if table.single_column else ["column"])]
    header = [*columns, "published", "best", "last", "best − published", "seeds"]
    rows, used = [], []
    for cell in table.cells:
        names = [cell.row] if table.single_column else [cell.row, cell.column]
        measured = group.get((table.paper, cell.experiment)) if cell.experiment else None
        rows.append([*names, _published(cell), *_measured_columns(cell, measured, conditions)])
        if measured is not None:
            used.append(measured)
    return f"{_markdown(header, rows, left=len(columns))}\n\n{_footer(conditions, used)}"


def _published(cell: Cell) -> str:
    return f"{cell.published:.2f}" + ("" if cell.std is None else f" ± {cell.std:.2f}")


def _measured_columns(cell: Cell, measured: Measured | None, conditions: Conditions) -> list[str]:
    if measured is None:
        return [cell.missing or NONE, NONE, NONE, NONE]
    # a difference between accuracies on different data means nothing
    difference = f"{measured.best.value - cell.published:+.2f}" if conditions.published_data else NONE
    return [*_figures(measured, conditions), difference, str(len(measured.runs))]


def _figures(measured: Measured, conditions: Conditions) -> list[str]:
    def show(mean: Mean) -> str:
        deviation = "" if mean.std is None else f" ± {mean.std:.2f}"
        return f"{mean.value:.2f}{deviation}" + ("" if conditions.as_published else f" {MARK}")

    return [show(measured.best), show(measured.last)]


def _footer(conditions: Conditions, used: list[Measured]) -> str:
    """Where the measured columns come from."""
    runs = [run for measured in used for run in measured.runs]
    parts = [
        f"data: {conditions.content}, fingerprint {conditions.fingerprint[:12]}",
        f"budget: {conditions.budget}{_batch_sizes(runs)}",
        f"commit: {', '.join(sorted({run.commit for run in runs}))}",
        f"hardware: {', '.join(sorted({run.hardware for run in runs}))}",
    ]
    if superseded := sum(measured.superseded for measured in used):
        parts.append(f"older runs left out, because newer ones have other settings or the same seed: {superseded}")
    return f"Measured{'' if conditions.as_published else f' {MARK}'}: " + "; ".join(parts) + "."


def _batch_sizes(runs: list[Record]) -> str:
    sizes = sorted({run.settings["batch_size"] for run in runs if "batch_size" in run.settings})
    if not sizes:
        return ""
    return f", batch size {sizes[0]}" + (f" to {sizes[-1]}" if len(sizes) > 1 else "")


def _others(groups: dict[Conditions, Group], known: set[tuple[str, str | None]]) -> list[str]:
    """The runs that belong to no published table: a user's own experiments."""
    rows = []
    for conditions, group in groups.items():
        for (paper, experiment), measured in sorted(group.items()):
            if (paper, experiment) not in known:
                method = str(measured.runs[0].settings.get("method", NONE))
                figures = _figures(measured, conditions)
                budget = conditions.budget + _batch_sizes(list(measured.runs))
                commits = ", ".join(sorted({run.commit for run in measured.runs}))
                end = [str(len(measured.runs)), budget, conditions.content, commits]
                rows.append([paper, experiment, method, *figures, *end])
    if not rows:
        return []
    header = ["paper", "experiment", "method", "best", "last", "seeds", "budget", "data", "commit"]
    return ["## Other runs", _markdown(header, rows, left=3)]


def _markdown(header: list[str], rows: list[list[str]], left: int) -> str:
    """A Markdown table, padded so that it reads well in a terminal too; `left` columns are aligned left."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def join(line: list[str]) -> str:
        cells = [cell.ljust(widths[i]) if i < left else cell.rjust(widths[i]) for i, cell in enumerate(line)]
        return f"| {' | '.join(cells)} |"

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([join(header), join(rule), *map(join, rows)])
