"""Links between the pages of the repository lead somewhere: files exist, headings too."""

import re
from pathlib import Path

import pytest

from common.command_line import REPOSITORY
from tests.pages import pages

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
ELSEWHERE = ("http://", "https://", "mailto:")


def anchors(text: str) -> set[str]:
    """What GitHub calls a page's headings: lower case, no punctuation, hyphens for spaces, numbers for repetitions."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        names.add(name if name not in found else f"{name}-{found[name]}")
        found[name] = found.get(name, 0) + 1
    return names


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    wrong = []
    for match in LINK.finditer(re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)):
        target = match[1] or match[2]
        if target.startswith(ELSEWHERE):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        is_there = file.exists() and file.is_relative_to(REPOSITORY)
        if not is_there or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            wrong.append(target)
    return wrong


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page):
    assert not broken(page)


def test_all_pages_are_read():
    names = {str(page.relative_to(REPOSITORY)) for page in pages()}
    assert {"README.md", "docs/divergences.md", "docs/methods/README.md", "tfkd/README.md"} <= names


def test_what_leads_nowhere_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.docs.test_links.REPOSITORY", tmp_path)
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A page (`x/`)\n## Part\n## Part\n")
    page.write_text(
        "[a](other.md) [b](other.md#a-page-x) [c](other.md#part-1) [d](https://example.org/none)\n"
        "[e](gone.md) [f](other.md#part-2) [g](#here) ![h](gone.png)\n```\n[i](code.md)\n```\n"
    )
    assert broken(page) == ["gone.md", "other.md#part-2", "#here", "gone.png"]
