"""The page: the figures of the tables, well-formed, self-contained, with links that lead somewhere."""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from common.command_line import REPOSITORY
from common.errors import UserError
from common.results.curves import COLORS
from common.results.page import STYLE, render_page, write_page
from common.results.records import read_runs, unfinished_runs
from common.results.report import Report, make_report
from common.results.reported import EXPERIMENTS, load_tables
from common.results.tables import render, render_runs
from tests.results.records import BASELINE, GENERATED, SMOOTHED, analysis, write_curve, write_run, write_tables


class Page(HTMLParser):
    """A page taken apart. It is an error when a tag is closed that is not open, or stays open.

    Attributes:
        rows: texts of the cells of each table row, but those that hold details.
        details: text of the rows that a click unfolds.
        targets, ids: of links and of elements.
        tags: how often each occurs.
        attributes: all, as (name, value).
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.details: list[str] = []
        self.targets: list[str] = []
        self.ids: list[str] = []
        self.tags: dict[str, int] = {}
        self.attributes: list[tuple[str, str | None]] = []
        self._open: list[str] = []
        self._in_details = False
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list) -> None:
        values = dict(attributes)
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.attributes += attributes
        if tag not in ("meta", "link", "img"):
            self._open.append(tag)
        if tag == "a":
            self.targets.append(values["href"])
        if "id" in values:
            self.ids.append(values["id"])
        if tag == "tr":
            self._in_details = values.get("class") == "panel"
            if self._in_details:
                self.details.append("")
            else:
                self.rows.append([])
        elif tag in ("td", "th") and not self._in_details:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag
        if tag == "tr":
            self._in_details = False

    def handle_data(self, text: str) -> None:
        if "svg" in self._open or "tr" not in self._open:
            return
        if self._in_details:
            self.details[-1] += f"{text} "
        elif "td" in self._open or "th" in self._open:
            self.rows[-1][-1] += text


def report(*directories: Path, experiments: Path = EXPERIMENTS) -> Report:
    return make_report(load_tables(experiments), *read_runs(directories), unfinished=unfinished_runs(directories))


@pytest.fixture
def runs(tmp_path) -> Path:
    """Three seeds as published, one of them with another method; one run of a small budget, one on synthetic data."""
    root = tmp_path / "results"
    for seed, (best, last) in enumerate([(75.0, 74.5), (76.0, 75.0), (77.5, 76.5)]):
        write_run(root / "paper" / f"seed_{seed}", BASELINE, best, last, seed)
        write_curve(root / "paper" / f"seed_{seed}", [10.0, 50.0 + seed, last])
    write_run(root / "paper" / "smooth", SMOOTHED, 77.0, 76.0)
    write_run(root / "small", BASELINE, 30.0, 29.0, epochs=5)
    write_run(root / "quick", SMOOTHED, 2.0, 1.0, epochs=2, content=GENERATED, fingerprint="b" * 32)
    return root


def test_self_contained_and_well_formed(runs):
    text = render_page(report(runs), runs)
    page = Page(text)
    assert not {"script", "img", "iframe", "object", "embed", "form"} & page.tags.keys()
    assert not re.search(r"https?:|//|url\(|@import|javascript:", text.partition("<body>")[2])
    assert not re.search(r"https?:|url\(|@import", text.partition("<body>")[0])
    assert [value for name, value in page.attributes if name in ("src", "href") and ":" in value] == ["data:,"]
    assert len(set(page.ids)) == len(page.ids)
    assert {f"#{table.id}" for table in load_tables()} <= set(page.targets)
    assert "prefers-color-scheme: dark" in text
    assert "Published and measured" in text


def test_page_and_style_speak_of_the_same_classes_and_colors(runs, tmp_path):
    write_curve(tmp_path / "results" / "small", [1.0])
    write_run(runs / "mine", "mine", 50.0, 49.0, analysis=analysis(80.0, 4.0))
    (runs / "broken").mkdir()
    (runs / "broken" / "run.json").write_text("")
    write_run(runs / "failed", "base_experiments/base_resnet50", 1.0, 1.0, status="failed")
    used = {
        name
        for key, value in Page(render_page(report(runs), runs)).attributes
        if key == "class"
        for name in value.split()
    }
    style = STYLE.read_text()
    assert style.count("{") == style.count("}")
    rules = re.sub(r"/\*.*?\*/|\{[^{}]*\}", " ", style, flags=re.DOTALL)
    known = set(re.findall(r"\.([a-z][\w-]*)", rules))
    assert used <= known
    assert known - used <= {f"seed-{i}" for i in range(COLORS)}
    light, _, dark = style.partition("prefers-color-scheme: dark")
    light, dark = (set(re.findall(r"(--[\w-]+): #", part)) for part in (light, dark))
    assert light == dark
    assert set(re.findall(r"var\((--[\w-]+)\)", style)) == light | {"--color"}


def test_every_table_becomes_cards_in_narrow_windows(runs):
    """Whose figures carry their columns' names; but for what a click unfolds."""
    text = render_page(report(runs), runs)
    assert "<h2>Budgets</h2>" in text
    assert set(re.findall(r"<table[^>]*>", text)) == {'<table class="cells">'}
    unlabeled = set(re.findall(r"<td(?![^>]*data-label)[^>]*>", text))
    assert all(re.search(r'class="more"|colspan', tag) for tag in unlabeled)


def test_links_lead_to_the_runs(runs, tmp_path):
    for directory in (runs, tmp_path / "elsewhere" / "deep"):
        page = Page(render_page(report(runs), directory))
        anchors = [target[1:] for target in page.targets if target.startswith("#")]
        assert set(anchors) <= set(page.ids)
        links = [target for target in page.targets if not target.startswith("#")]
        found = {(directory / unquote(link)).resolve() for link in links}
        assert found == {file.parent.resolve() for file in runs.rglob("run.json")}


def test_the_same_figures_as_in_the_markdown(runs):
    whole = report(runs)
    page = Page(render_page(whole, runs))
    shown = {tuple(row[1:-2]) for row in page.rows}
    tables = 0
    for line in render(whole).splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if not line.startswith("| ") or line.startswith(("| row", "| ---")):
            continue
        figures = cells[-6:]
        tables += 1
        assert tuple(figures) in shown, line
    assert tables > 50
    values = next(row[1:] for row in page.rows if row[:2] == ["resnet18", "75.87"])
    assert values[:6] == ["75.87", "76.17 ± 1.26", "75.33 ± 1.04", "+0.30 ≈", "-0.54 ≈", "3"]


def test_marks_of_other_budgets_and_data(runs):
    rows = [row for row in Page(render_page(report(runs), runs)).rows if row[0] == "resnet18" and "75.87" in row]
    assert [row[2] for row in rows] == ["76.17 ± 1.26", "30.00 †"], "the paper's budget comes first"
    rows = [row for row in Page(render_page(report(runs), runs)).rows if row[0] == "resnet18label smoothing"]
    assert [row[2:5] for row in rows] == [
        ["77.00", "76.00", "-0.26"],
        ["–", "–", "–"],
        ["2.00 †", "1.00 †", "–"],
    ]


def test_the_summary_counts_cells_and_finds_the_largest_differences(runs):
    text = render_page(report(runs), runs)
    whole = report(runs)
    # resnet18's baseline is in three tables, label smoothing in one
    assert (whole.cells, whole.covered(), whole.covered(as_published=True)) == (113, 4, 4)
    assert "4 of 113" in text
    assert "<b>6</b>" in text, "finished runs"
    assert [(table.id, line.difference(line.nearest)) for table, line in whole.largest] == [
        *[(f"tfkd/{table}", "+0.30 ≈") for table in ("baseline", "self", "reg")],
        ("tfkd/reg", "-0.26"),
    ]
    small = [part for part in whole.budgets if not part.as_published]
    assert [(part.conditions[0].epochs, len(part.lines)) for part in small] == [(5, 3), (2, 1)]


def test_without_runs_as_published_no_difference_is_called_large(tmp_path):
    write_run(tmp_path / "a", BASELINE, 30.0, 29.0, epochs=5)
    text = render_page(report(tmp_path), tmp_path)
    assert "Largest differences" not in text
    assert "Nothing was measured with the paper’s data and budget yet" in text
    assert "0 of 113" in text


def test_a_cell_whose_run_failed_looks_so_and_says_why(runs):
    reason = "the test loss is not finite"
    write_run(runs / "failed", "base_experiments/base_resnet50", 1.0, 1.0, status="failed", error=reason)
    made = report(runs)
    text = render_page(made, runs)
    assert text.count('class="unfinished"') == text.count('class="number broken"') >= 1
    assert f"failed: {reason}; 0 of 200 epochs are finished" in text
    assert "| tfkd  | base_experiments/base_resnet50" in render_runs(made)
    assert "failed" in next(line for line in render(made).splitlines() if line.startswith("| resnet50 "))


def test_no_runs_at_all(tmp_path):
    page = Page(render_page(report(tmp_path), tmp_path))
    assert len(page.rows) > 113
    assert "./run_all.sh --budget smoke" in render_page(report(tmp_path), tmp_path)


def test_what_is_missing_and_how_to_get_it(tmp_path):
    command = "main.py --model_dir experiments/mine [1]/"
    experiments = write_tables(
        tmp_path / "e",
        [["a", {"value": 1.0}], ["b", {"value": 2.0}]],
        cells={"p/t": {"a": ["mine [1]"], "b": [{"missing": "nobody knows how"}]}},
        runs=[{"experiment": "mine [1]", "command": command}],
    )
    text = render_page(report(tmp_path, experiments=experiments), tmp_path)
    page = Page(text)
    assert [row[:3] for row in page.rows[1:]] == [["a", "1.00", "–"], ["b", "2.00", "nobody knows how"]]
    (details,) = page.details
    assert "./run_all.sh --cells 'mine [[]1]'" in details, "the brackets are no pattern"
    assert f"cd p && python {command}" in details
    assert "./run_all.sh --tables p/t" in text


def test_commands_curves_and_provenance_of_runs(runs):
    text = render_page(report(runs), runs)
    details = next(text for text in Page(text).details if "seed 2" in text)
    assert "cd /some/where && python main.py --seed 2" in details
    assert "best 77.50, last 76.50" in details
    assert "commit c0ffee; AMD EPYC (CPU)" in details
    assert "test accuracy by epoch" in details
    chart = re.search(r'<svg[^>]*class="chart".*?</svg>', text)[0]
    assert len(re.findall("<polyline", chart)) == 3
    assert "seed 0 74.50, seed 1 75.00, seed 2 76.50" in chart
    assert "published 75.87" in chart
    assert "aaaaaaaaaaaa" in text
    assert "bbbbbbbbbbbb" in text


def test_a_reduced_budget_has_no_published_line(tmp_path):
    write_run(tmp_path / "a", BASELINE, 30.0, 29.0, epochs=5)
    write_curve(tmp_path / "a", [10.0, 20.0, 29.0])
    text = render_page(report(tmp_path), tmp_path)
    assert 'class="chart"' in text
    assert 'class="published"' not in text


@pytest.mark.parametrize("content", [None, "", "not json\n", '{"epoch": 0}\n', '{"epoch": 0, "test/accuracy": NaN}\n'])
def test_a_run_without_a_curve_is_shown_without_one(tmp_path, content):
    write_run(tmp_path / "a", BASELINE, 30.0, 29.0)
    if content is not None:
        (tmp_path / "a" / "metrics.jsonl").write_text(content)
    text = render_page(report(tmp_path), tmp_path)
    Page(text)
    assert "<svg" not in text
    assert "30.00" in text


def test_a_curve_of_the_validation_part(tmp_path):
    write_run(tmp_path / "a", BASELINE, 30.0, 29.0)
    write_curve(tmp_path / "a", [12.0], part="validation")  # and a single epoch
    text = render_page(report(tmp_path), tmp_path)
    assert "validation accuracy by epoch" in text
    charts = re.findall(r'<svg[^>]*class="chart".*?</svg>', text)
    assert len(charts) == 3, "the baseline is in three tables"
    assert not [chart for chart in charts if "nan" in chart]


def test_controls_and_misprints(tmp_path):
    experiments = write_tables(
        tmp_path / "e",
        [["old", {"value": 70.0, "misprint": "it cannot be right"}]],
        cells={"p/t": {"old": ["e1"]}},
        controls={"p/t": [{"row": "new", "column": "accuracy", "experiment": "e2", "why": "it settles a dispute"}]},
        notes={"p/t": "mind this"},
        protocol="best",
        protocol_source="they say so",
    )
    write_run(tmp_path / "runs" / "a", "e2", 71.0, 70.5, paper="p")
    text = render_page(report(tmp_path / "runs", experiments=experiments), tmp_path)
    rows = [row[:6] for row in Page(text).rows if row[0].startswith(("old", "new"))]
    assert rows == [["old", "70.00 ‡", "–", "–", "–", "–"], ["newcontrol", "–", "71.00", "70.50", "–", "1"]]
    for words in ("it cannot be right", "it settles a dispute", "mind this", "they say so", "the best epoch"):
        assert words in text


def test_notes_of_cells_protocols_and_what_seeds_do_not_tell_apart(tmp_path):
    experiments = write_tables(
        tmp_path / "e",
        [["A", {"value": 70.0}], ["B", {"value": 70.5, "protocol": "last", "protocol_source": "others say so"}]],
        cells={"p/t": {"A": [{"experiment": "a", "note": "its parameters are inferred"}], "B": ["b"]}},
        compares="rows",
        protocol="best",
    )
    for seed, shift in enumerate((-1.0, 1.0)):
        write_run(tmp_path / "runs" / f"a{seed}", "a", 71.0 + shift, 70.0, seed, paper="p")
        write_run(tmp_path / "runs" / f"b{seed}", "b", 71.2 + shift, 75.0, seed, paper="p")
    text = render_page(report(tmp_path / "runs", experiments=experiments), tmp_path)
    rows = [row[:7] for row in Page(text).rows if row[0] in ("A", "B")]
    assert rows == [
        ["A", "70.00 §", "71.00 ± 1.41", "70.00 ± 0.00", "+1.00 ≈", "–", "2"],
        ["B", "70.50", "71.20 ± 1.41", "75.00 ± 0.00", "–", "+4.50", "2"],
    ]
    assert '<td class="number" data-label="best − published">+1.00 ≈' in text, "no color for what may be chance"
    assert '<td class="number up" data-label="last − published">+4.50' in text
    for words in ("§ A</b>: its parameters are inferred.", "B: of the last epoch (others say so)"):
        assert words in text
    assert "<dt>≈ not told apart</dt><dd>accuracy, best: A and B</dd>" in text


def test_hostile_names_are_text(tmp_path):
    hostile = "<script>alert(1)</script>\"'&amp; javascript:x"
    experiments = write_tables(
        tmp_path / "e",
        [[hostile, {"value": 1.0, "misprint": hostile}]],
        cells={"p/t": {hostile: [hostile]}},
        title=hostile,
        source=hostile,
        notes={"p/t": hostile},
        runs=[{"experiment": hostile, "command": hostile}],
    )
    directory = tmp_path / "runs" / 'a"><b>#?%20 javascript:y'
    strange = {"commit": hostile, "command": ["main.py", hostile], "directory": hostile, "content": hostile}
    write_run(directory, hostile, 1.0, 1.0, paper="p", **strange)
    write_run(tmp_path / "runs" / "b", f"{hostile} other", 1.0, 1.0, **strange)
    (tmp_path / "runs" / hostile.replace("/", "_")).mkdir()
    (tmp_path / "runs" / hostile.replace("/", "_") / "run.json").write_text("{}")
    text = render_page(report(tmp_path / "runs", experiments=experiments), tmp_path)
    page = Page(text)
    assert not {"script", "b>"} & page.tags.keys()
    assert next(row[0] for row in page.rows if "alert" in row[0]).startswith(hostile)
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    links = [target for target in page.targets if not target.startswith("#")]
    assert (tmp_path / unquote(links[0])).resolve() == directory.resolve()
    assert not [target for target in links if ":" in target]


def test_written_whole_or_not_at_all(runs, tmp_path):
    write_page(report(runs), runs / "index.html")
    assert (runs / "index.html").read_text() == render_page(report(runs), runs)
    assert [file.name for file in runs.iterdir() if file.is_file()] == ["index.html"]
    with pytest.raises(UserError, match="cannot write"):
        write_page(report(runs), tmp_path / "absent" / "index.html")


def test_the_measured_runs_of_the_repository():
    directory = EXPERIMENTS / "measured"
    page = Page(render_page(report(directory), REPOSITORY))
    links = [target for target in page.targets if not target.startswith("#")]
    assert links
    pictures = [link for link in links if link.endswith(".svg")]
    assert all((REPOSITORY / unquote(link)).is_file() for link in pictures)
    assert all((REPOSITORY / unquote(link) / "run.json").is_file() for link in links if link not in pictures)
