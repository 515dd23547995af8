"""The demonstration's table, page and picture, from made-up runs; and its own plan, held against its tables."""

import json
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from common.plan.budgets import load_budget
from common.plan.plan import load_plan
from common.results.demonstration import NAME, PLAN, TABLES, read_demonstration, render_html, render_svg, render_text
from tests.plan.names import name_of
from tests.results.records import GENERATED, write_curve, write_run

TEACHER, ALONE, KD = "teacher", "alone", "kd"


@pytest.fixture
def plan(tmp_path) -> Path:
    rows = [["teacher: big", TEACHER], ["student alone: small", ALONE], ["KD & more", KD], ["EDKD", "edkd"]]
    table = {"paper": "tfkd", "title": "A title", "compares": "small taught by big", "rows": rows}
    directory = tmp_path / "plan"
    directory.mkdir()
    (directory / TABLES).write_text(json.dumps([table]))
    return directory


@pytest.fixture
def runs(tmp_path) -> Path:
    root = tmp_path / "runs"
    data = {"name": "cifar100", "content": GENERATED, "fingerprint": "a" * 32, "classes": 20, "train_images": 4000}
    for seed in (0, 1):
        for experiment, last in ((TEACHER, 60.0), (ALONE, 40.0), (KD, 44.0 + 2 * seed)):
            directory = root / f"{experiment}_{seed}"
            write_run(directory, experiment, 70.0, last, seed, data=data, epochs=5)
            write_curve(directory, [last / 2, last])
    return root


def rows_of(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {name: values for name, *values in rows[2:]}


def test_the_table_says_chance_what_is_compared_and_synthetic_at_every_figure(plan, runs):
    text = render_text(read_demonstration(runs, plan))
    assert "## A title: small taught by big" in text
    assert "Synthetic dataset of 20 classes and 4000 training images; chance level 5.00." in text
    assert "nothing" in text.split("##")[0], "its first paragraph says what it does not show"
    rows = rows_of(text)
    assert rows["teacher: big"][:2] == ["60.00 ± 0.00 (synthetic)", "–"]
    assert rows["student alone: small"][:2] == ["40.00 ± 0.00 (synthetic)", "–"]
    assert rows["KD & more"][:2] == ["45.00 ± 1.41 (synthetic)", "+5.00"], (
        "the last epoch, not the best of the test set"
    )
    assert rows["EDKD"] == ["no finished run", "–", "–"]
    assert "published" not in text.replace("any published figure", "")


def test_without_runs_it_says_so(plan, tmp_path):
    text = render_text(read_demonstration(tmp_path / "nothing", plan))
    assert "Nothing was run." in text
    assert set(rows_of(text)) == {"teacher: big", "student alone: small", "KD & more", "EDKD"}


def test_failed_runs_look_failed(plan, runs):
    reason = "the loss is not finite"
    for seed in (0, 1):
        file = runs / f"{KD}_{seed}" / "run.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "status": "failed", "error": reason}))
    sections = read_demonstration(runs, plan)
    text, page = render_text(sections), render_html(sections)
    assert rows_of(text)["KD & more"] == ["failed", "–", "–"]
    assert rows_of(text)["EDKD"][0] == "no finished run"
    for shown in (text, page):
        assert f"failed: {reason}" in shown
        assert str(runs / f"{KD}_1") in shown
    assert '<tr class="unfinished"><th scope="row">KD &amp; more' in page


def test_exits_are_rows_of_their_own(plan, runs):
    file = runs / "kd_0" / "run.json"
    content = json.loads(file.read_text())
    content["exits"] = [{"exit": "exit_1", "last": 31.0, "best": 32.0}, {"exit": "final", "last": 29.0, "best": 30.0}]
    file.write_text(json.dumps(content))
    (runs / "kd_1" / "run.json").unlink()
    rows = rows_of(render_text(read_demonstration(runs, plan)))
    assert rows["KD & more, exit 1"][0] == "31.00 (synthetic)"
    assert rows["KD & more, final"][:2] == ["29.00 (synthetic)", "-11.00"]
    (section,) = read_demonstration(runs, plan)
    assert list(section.curves) == ["student alone: small", "KD & more"], "a network is drawn once, teachers never"


ODD = {
    "exits are a number": ("exits", 3),
    "exits are a text": ("exits", "exit_1"),
    "exits are numbers": ("exits", [1, 2]),
    "an exit without a name": ("exits", [{"last": 31.0}]),
    "an exit without a figure": ("exits", [{"exit": "exit_1"}]),
    "an exit's figure is a text": ("exits", [{"exit": "exit_1", "last": "31"}]),
    "an exit's figure is no percentage": ("exits", [{"exit": "exit_1", "last": 1e300}]),
    "no classes": ("data", {"classes": 0}),
    "fewer classes than none": ("data", {"classes": -3}),
    "fewer images than none": ("data", {"train_images": -3}),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_records_are_left_out_and_named(name, plan, runs):
    key, value = ODD[name]
    for experiment in ("kd_0", "teacher_0"):
        file = runs / experiment / "run.json"
        content = json.loads(file.read_text())
        content[key] = {**content["data"], **value} if key == "data" else value
        file.write_text(json.dumps(content))
    sections = read_demonstration(runs, plan)
    text = render_text(sections)
    assert rows_of(text)["KD & more"][:2] == ["46.00 (synthetic)", "+6.00"]
    for experiment in ("kd_0", "teacher_0"):
        said = f"Left out: {runs / experiment / 'run.json'} is not a complete record of a run."
        assert said in text
        assert said in render_html(sections)


def test_exits_that_differ_between_seeds_are_no_rows(plan, runs):
    for seed, names in enumerate((["exit_1", "final"], ["final"])):
        file = runs / f"kd_{seed}" / "run.json"
        content = json.loads(file.read_text())
        content["exits"] = [{"exit": name, "last": 31.0} for name in names]
        file.write_text(json.dumps(content))
    assert rows_of(render_text(read_demonstration(runs, plan)))["KD & more"][0] == "45.00 ± 1.41 (synthetic)"


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text, self.tags = [], []

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_data(self, data) -> None:
        self.text.append(data)


def test_the_page_has_the_table_the_curves_and_what_to_do_next(plan, runs):
    page = render_html(read_demonstration(runs, plan), [("Then", "./run_all.sh <next>")])
    parser = _Text()
    parser.feed(page)
    text = " ".join(parser.text)
    for words in ("45.00 ± 1.41 (synthetic)", "chance level 5.00", "KD & more", "./run_all.sh <next>", "SYNTHETIC"):
        assert words in text
    assert parser.tags.count("polyline") == 2
    assert 'name="viewport"' in page
    assert "http" not in page.replace("http://www.w3.org", ""), "it needs nothing beside it"


def test_the_picture_is_svg_with_a_line_for_each_student(plan, runs):
    picture = ElementTree.fromstring(render_svg(read_demonstration(runs, plan)))
    lines = [element for element in picture.iter() if element.tag.endswith("polyline")]
    assert len(lines) == 2
    words = " ".join(element.text or "" for element in picture.iter() if element.tag.endswith("text"))
    assert "synthetic dataset, chance 5" in words
    assert "KD & more" in words


def test_each_row_is_a_run_of_its_plan_and_each_run_has_a_row():
    rows = {(table["paper"], row[1]) for table in json.loads((PLAN / TABLES).read_text()) for row in table["rows"]}
    assert rows == {run.key for run in load_plan(PLAN)}
    assert {paper for paper, _ in rows} == {"tfkd", "edkd", "mtkd_rl", "mlkd"}


@pytest.mark.parametrize("run", load_plan(PLAN), ids=lambda run: run.name)
def test_the_scripts_call_the_runs_what_the_plan_does(run, monkeypatch):
    flags = load_budget(NAME, PLAN).flags_of(run.name)
    assert name_of(run, [*run.command[1:], *flags], monkeypatch) == run.experiment


def test_it_deletes_its_networks_and_has_data_of_its_own():
    budget = load_budget(NAME, PLAN)
    assert (budget.generated, budget.keep_networks, budget.folder) == (True, False, "demonstration")
