"""Learning curves of many runs as one picture: the right lines in the right panels, named, and all within it."""

import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from common.errors import UserError
from common.results.__main__ import main
from common.results.pictures import draw_runs
from common.results.records import read_runs
from tests.results.records import BASELINE, SMOOTHED, write_curve, write_run


def write(directory: Path, experiment: str, accuracies: list[float], seed: int = 0, **changes: object) -> None:
    write_run(directory, experiment, max(accuracies), accuracies[-1], seed, epochs=len(accuracies), **changes)
    write_curve(directory, accuracies)


def panels(directory: Path) -> dict[str, dict[str, list[list[float]]]]:
    """What stands over each panel -> what each of its lines is called -> its points."""
    picture = ElementTree.fromstring(draw_runs(read_runs([directory])[0]))
    groups = picture.findall("{*}g")
    assert all(float(text.get("y", 0)) < float(picture.get("height")) for text in picture.findall(".//{*}text"))
    return {" / ".join(text.text for text in group.findall("{*}text")): _lines(group) for group in groups}


def _lines(group: ElementTree.Element) -> dict[str, list[list[float]]]:
    points = {
        line.get("class"): [[float(number) for number in pair.split(",")] for pair in polyline.get("points").split()]
        for line in group.findall(".//{*}g")
        if (polyline := line.find("{*}polyline")) is not None
    }
    names = [group for group in group.findall("{*}g") if group.find("{*}rect") is not None]
    return {" ".join(text.text for text in name.findall("{*}text")): points[name.get("class")] for name in names}


def test_a_line_is_the_mean_over_seeds_and_its_name_says_the_tables_figure(tmp_path):
    write(tmp_path / "a0", BASELINE, [10.0, 20.0, 30.0])
    write(tmp_path / "a1", BASELINE, [20.0, 30.0, 32.0], 1)
    write(tmp_path / "b", SMOOTHED, [10.0, 20.0, 31.0])
    (panel,) = panels(tmp_path).items()
    assert panel[0].startswith("tfkd, cifar100 / 3 of 200 epochs / test accuracy in %, mean over seeds; published")
    means, alone = panel[1].values()
    assert list(panel[1]) == [
        f"{BASELINE} – last 31.00 ± 1.41 (2 seeds)",
        f"{SMOOTHED} – last 31.00 (1 seed)",
    ]
    assert means[-1] == alone[-1], "both end at 31"
    assert means[0][1] == pytest.approx((alone[0][1] + alone[1][1]) / 2, abs=0.1), "15 lies between 10 and 20"


def test_each_paper_and_budget_has_a_panel_and_no_panel_more_lines_than_colors(tmp_path):
    for number in range(8):
        write(tmp_path / f"a{number}", f"experiment_{number}", [10.0, 20.0 + number])
    write(tmp_path / "longer", BASELINE, [10.0, 20.0, 30.0])
    write(tmp_path / "other", "resnet8 AVER", [10.0, 20.0], paper="mtkd_rl")
    picture = ElementTree.fromstring(draw_runs(read_runs([tmp_path])[0]))
    lines = [
        len([g for g in group.findall(".//{*}g") if g.find("{*}polyline") is not None])
        for group in picture.findall("{*}g")
    ]
    assert sorted(lines) == [1, 1, 2, 6]


def test_a_long_name_takes_several_lines(tmp_path):
    name = "cifar100/dkd/res56_res20 " + " ".join(f"SOME.LONG_KEY_{i} {i}" for i in range(8))
    write(tmp_path / "a", name, [10.0, 20.0])
    write(tmp_path / "b", "z", [10.0, 20.0])
    (lines,) = panels(tmp_path).values()
    assert list(lines) == [f"{name} – last 20.00 (1 seed)", "z – last 20.00 (1 seed)"]
    text = draw_runs(read_runs([tmp_path])[0])
    assert max(map(len, re.findall(r"<text x=\"14\"[^>]*>([^<]*)<", text))) <= 76


def test_where_a_seed_has_no_curve_there_is_no_mean(tmp_path):
    write(tmp_path / "a0", BASELINE, [10.0, 20.0])
    write(tmp_path / "a1", BASELINE, [20.0, 30.0], 1)
    write(tmp_path / "b", SMOOTHED, [10.0, 20.0])
    (tmp_path / "a1" / "metrics.jsonl").unlink()
    assert [list(lines) for lines in panels(tmp_path).values()] == [[f"{SMOOTHED} – last 20.00 (1 seed)"]]
    (tmp_path / "b" / "metrics.jsonl").write_text("{")
    with pytest.raises(UserError, match=r"no curves to draw: no finished run has a complete metrics\.jsonl"):
        draw_runs(read_runs([tmp_path])[0])


def called(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["python -m common.results", *map(str, arguments)])
    try:
        main()
    except SystemExit as ended:
        return ended.code
    return 0


def test_the_command_writes_it_or_says_why_not(tmp_path, monkeypatch, capsys):
    write(tmp_path / "runs/a", BASELINE, [10.0, 20.0])
    file = tmp_path / "curves.svg"
    for flags, error in ((["--all"], "--all"), (["--svg", file], "--svg"), (["--metrics", "ece"], "--metrics")):
        assert called(monkeypatch, tmp_path, "--compare", "a", "b", *flags) == 2
        assert f"error: {error} belongs to the tables, which --compare A B does not print" in capsys.readouterr().err
    assert not file.exists()
    assert called(monkeypatch, tmp_path, "--svg", file) == 0
    assert ElementTree.fromstring(file.read_text()).tag.endswith("svg")
    assert f"| {BASELINE}" in capsys.readouterr().out, "the tables, too"
    before = file.read_bytes()
    (tmp_path / "empty").mkdir()
    assert called(monkeypatch, tmp_path / "empty", "--svg", file) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: there are no curves to draw")
    assert (printed.out, file.read_bytes()) == ("", before)
