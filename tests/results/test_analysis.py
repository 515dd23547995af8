"""Metrics beyond accuracy: columns of the tables, and the page's small table with its reliability diagram."""

import base64
import json
import re
import sys

import pytest

from common.errors import UserError
from common.results import __main__ as script
from common.results.analysis import (
    METRICS,
    MOST_PICTURE_BYTES,
    PICTURES,
    parse_metrics,
    reliability_diagram,
    summarize,
)
from common.results.page import render_page
from common.results.records import read_runs
from common.results.report import make_report
from common.results.reported import EXPERIMENTS, load_tables
from common.results.tables import render
from tests.results.records import BASELINE, SMOOTHED, analysis, write_run


@pytest.fixture
def runs(tmp_path):
    for seed, agreement in ((0, 80.0), (1, 82.0)):
        write_run(tmp_path / f"a{seed}", BASELINE, 76.0, 75.9, seed)
        add(tmp_path / f"a{seed}", analysis(agreement, 4.0))
    write_run(tmp_path / "b", SMOOTHED, 77.0, 76.9)  # from before there was an analysis
    return tmp_path


def add(directory, content) -> None:
    record = json.loads((directory / "run.json").read_text())
    (directory / "run.json").write_text(json.dumps({**record, "analysis": content}))


def test_columns(runs):
    report = make_report(load_tables(EXPERIMENTS), *read_runs([runs]))
    lines = [" ".join(line.split()) for line in render(report, metrics=("agreement", "ece")).splitlines()]
    head = next(line for line in lines if "agreement, %" in line)
    assert head.index("agreement, %") < head.index("ECE, %")
    assert any("81.00 ± 1.41 | 4.00 ± 0.00 |" in line for line in lines)
    assert "agreement" not in render(report)
    others = [line for line in lines if "76.90" in line]
    assert all(line.endswith("| – | – |") or "– | –" in line for line in others), "no analysis, no figure"


def test_the_command(runs, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["results", str(runs), "--metrics", "kl,train_accuracy"])
    script.main()
    output = capsys.readouterr().out
    assert METRICS["kl"].title in output
    assert "99.00 ± 0.00" in output


@pytest.mark.parametrize(("text", "words"), [("agremeent", "did you mean 'agreement'"), (",", "give names")])
def test_bad_names(text, words):
    with pytest.raises(UserError, match=words):
        parse_metrics(text)


def test_several_teachers_show_their_mean(tmp_path):
    write_run(tmp_path / "a", BASELINE, 76.0, 75.9)
    add(tmp_path / "a", analysis(70.0, 4.0, ("one", "two", "mean")))
    (run,), _ = read_runs([tmp_path])
    assert ("agreement, %", "72.00", "72.00") in summarize([run]).rows


def test_the_page_has_a_table_and_a_diagram(runs):
    page = render_page(make_report(load_tables(EXPERIMENTS), *read_runs([runs])), runs)
    pictures = page.count('class="chart reliability"')
    assert pictures == page.count(">seed 1</b>"), "one for each row that has an analysis, none for the other"
    assert "<td>agreement, %</td>" in page
    assert "81.00 ± 1.41" in page
    (label,) = set(re.findall(r'aria-label="(Accuracy by confidence[^"]*)"', page))
    assert "confidence 90.0, accuracy 80.0, 80 images" in label, "over both seeds"
    assert page.count("<rect") == 2 * pictures


@pytest.mark.parametrize(("name", "words"), PICTURES.items())
def test_the_page_has_the_pictures_of_a_paper(runs, name, words):
    """The first seed's in the page itself, and links to all."""
    content = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    for seed in (0, 1):
        (runs / f"a{seed}" / name).write_text(content.replace("1)", f"{seed})"))
    (run, *_), _ = read_runs([runs / "a0", runs / "a1"])
    shown = summarize([run]).pictures[0]
    assert base64.b64decode(shown.source.partition("base64,")[2]).decode() == content.replace("1)", "0)")
    page = render_page(make_report(load_tables(EXPERIMENTS), *read_runs([runs])), runs)
    assert f'<img src="{shown.source}" alt="{words}">' in page
    assert f'<a href="a0/{name}">seed 0</a>' in page
    assert f'<a href="a1/{name}">seed 1</a>' in page
    assert "alert" not in page


@pytest.mark.parametrize("content", [b"no picture", b"<svg " + b" " * MOST_PICTURE_BYTES])
def test_other_files_are_not_embedded(runs, content):
    (runs / "a0" / "exits.svg").write_bytes(content)
    (run,), _ = read_runs([runs / "a0"])
    assert summarize([run]).pictures[0].source is None
    assert "<img" not in render_page(make_report(load_tables(EXPERIMENTS), [run]), runs)


def test_the_diagram_lies_in_its_frame(runs):
    records = [run for run in read_runs([runs])[0] if run.analysis]
    diagram = reliability_diagram(records)
    for x, y, width, height, _ in diagram.bars:
        assert diagram.left <= x < x + width <= diagram.left + diagram.side + 0.1
        assert diagram.top <= y < y + height <= diagram.top + diagram.side + 0.1
    assert diagram.bars[0][3] == pytest.approx(0.8 * diagram.side, abs=0.1)


@pytest.mark.parametrize(
    "content",
    [{}, {"test": None}, {"test": {"last": []}}, {"test": {"last": {"fidelity": {"a": 3}, "bins": [3], "ece": "x"}}}],
)
def test_odd_analyses_are_none(tmp_path, content):
    write_run(tmp_path / "a", BASELINE, 76.0, 75.9)
    add(tmp_path / "a", content)
    (run,), _ = read_runs([tmp_path])
    assert summarize([run]) is None
    render_page(make_report(load_tables(EXPERIMENTS), [run]), tmp_path)


def test_runs_blind_to_the_test_split_are_counted(tmp_path):
    write_run(tmp_path / "a", BASELINE, 76.0, 75.9)
    add(tmp_path / "a", None)
    record = json.loads((tmp_path / "a/run.json").read_text())
    record |= {"accuracy": None, "validation": {"last": 50.0, "best": 51.0, "best_epoch": 3}}
    (tmp_path / "a/run.json").write_text(json.dumps(record))
    assert read_runs([tmp_path]) == ([], ["Left out: runs that never looked at the test split (1)."])
