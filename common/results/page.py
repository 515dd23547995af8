"""HTML: the report as one page that needs nothing beside it."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from common.results.markup import Html, tag
from common.results.page_summary import summary
from common.results.page_tables import Tables
from common.results.report import Report

STYLE = Path(__file__).with_name("page.css")


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
    tables = Tables(directory.resolve())
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),
        tag("title", "Published and measured figures"),
        tag("style", Html(STYLE.read_text(encoding="utf-8"))),
    )
    main = tag(
        "main",
        summary(report),
        *(tables.section(section) for section in report.sections),
        tables.others(report.others) if report.others else None,
        tag("footer", *(tag("p", remark) for remark in report.remarks)) if report.remarks else None,
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', main), lang='en')}\n"
