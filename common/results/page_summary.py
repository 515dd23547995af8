"""The head of the page: how much is measured, under which budgets, and what stands out."""

from __future__ import annotations

from collections.abc import Sequence

from common.results.markup import Html, join, table_header, tag
from common.results.report import DOUBT, MARK, NONE, REMARK, WITHIN, Part, Report, Section


def summary(report: Report) -> Html:
    """The head of the page."""
    runs = {run.directory: run for part in report.budgets for run in part.runs}
    runs |= {run.directory: run for line in report.others for run in line.measured.runs}
    lead = f"{report.cells} figures of {len(report.sections)} published tables, each beside what was measured here."
    exact, covered = report.covered(as_published=True), report.covered()
    newest = max((run.started[:10] for run in runs.values()), default=NONE)
    return tag(
        "header",
        tag("h1", "Published and measured"),
        tag("p", lead, class_="lead"),
        tag(
            "div",
            _tile(f"{exact} of {report.cells}", "measured with the paper’s data and budget", "good"),
            _tile(f"{covered} of {report.cells}", "measured with any data and budget", "warn"),
            _tile(str(len(runs)), f"finished runs, the newest of {newest}"),
            class_="tiles",
        ),
        _bar(exact, covered, report.cells),
        tag("p", "What is missing: ", tag("code", "./run_all.sh"), " measures it as published, ",
            tag("code", "./run_all.sh --dry-run"), " says what that takes, ",
            tag("code", "./run_all.sh --budget small"), " takes less and proves less."),
        _largest(report),
        _contents(report.sections),
        _budgets(report.budgets),
        _legend(),
    )  # fmt: skip


def _tile(figure: str, words: str, kind: str | None = None) -> Html:
    return tag("p", tag("b", figure, class_=kind), tag("span", words), class_="tile")


def _bar(exact: int, covered: int, cells: int) -> Html:
    """What part of the cells was measured: with the paper's data and budget, and otherwise."""
    parts = [
        tag("i", class_=kind, style=f"width:{100 * count / cells:.2f}%")
        for kind, count in (("good", exact), ("warn", covered - exact))
        if count
    ]
    return tag(
        "div", *parts, class_="bar", role="img", aria_label=f"{covered} of {cells} measured, {exact} as published"
    )


def _legend() -> Html:
    texts = {
        MARK: "measured on other data or with another budget than the paper’s: shows which way it goes, and does not "
        "reproduce the published figure",
        DOUBT: "the published figure is doubtful, very likely a misprint",
        REMARK: "the cell has a note of its own, below its table",
        WITHIN: "the difference is no larger than the spread over seeds",
        "±": "standard deviation over seeds",
        "best, last": "test accuracy in percent at the best epoch, chosen on the test set itself, and at the last",
    }
    entries = (tag("div", tag("dt", mark), tag("dd", text)) for mark, text in texts.items())
    return join(tag("h2", "How to read the tables"), tag("dl", *entries, class_="legend"))


def _contents(sections: Sequence[Section]) -> Html:
    items = []
    for section in sections:
        cells, covered = len(section.table.published_cells), section.covered()
        items.append(
            tag(
                "li",
                tag("a", tag("code", section.table.id), " ", section.table.title, href=f"#{section.table.id}"),
                _bar(section.covered(as_published=True), covered, cells),
                tag("span", f"{covered} / {cells}", class_="count"),
            )
        )
    return join(tag("h2", "Tables"), tag("ul", *items, class_="contents"))


def _budgets(parts: Sequence[Part]) -> Html:
    if not parts:
        command = tag("code", "./run_all.sh --quick")
        return tag("p", "No table has finished runs yet; ", command, " makes the first ones in minutes.", class_="note")
    rows = [
        tag(
            "tr",
            tag("td", part.budget, "" if part.as_published else f" {MARK}"),
            tag("td", part.conditions[0].content),
            tag("td", tag("code", ", ".join(c.fingerprint[:12] for c in part.conditions))),
            tag("td", str(sum(line.cell.published is not None for line in part.lines)), class_="number"),
            tag("td", str(len({run.directory for run in part.runs})), class_="number"),
        )
        for part in parts
    ]
    header = table_header(["budget", "data", "fingerprint"], ["published cells", "runs"])
    return join(tag("h2", "Budgets"), tag("div", tag("table", header, tag("tbody", *rows)), class_="scroll"))


def _largest(report: Report) -> Html | None:
    if not report.covered():
        return None
    if not report.largest:
        return tag("p", "Nothing was measured with the paper’s data and budget yet, so no difference below tells how "
                        "well a published figure is reproduced.", class_="note")  # fmt: skip
    items = [
        tag(
            "li",
            tag("b", line.difference(line.nearest), class_="up" if line.gap(line.nearest) > 0 else "down"),
            f" {line.cell.row}, {line.cell.column} ",
            tag("a", table.id, href=f"#{table.id}"),
            f": {line.show(line.nearest)}, published {line.published}",
        )
        for table, line in report.largest
    ]
    return join(tag("h2", "Largest differences"), tag("ol", *items, class_="largest"))
