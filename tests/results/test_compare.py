"""`--compare`: the right runs on each side, the right figures, and a refusal where a comparison would mean nothing."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.command_line import REPOSITORY
from common.errors import UserError
from common.results.compare import compare, find_side
from tests.results.records import BASELINE, GENERATED, SMOOTHED, write_run

A, B = [(1.0, 2.0), (2.0, 2.0), (3.0, 2.0)], [(2.0, 3.0), (4.0, 3.0), (7.0, 3.0)]


def write_side(directory: Path, figures: list, experiment: str = BASELINE, seeds=range(99), **changes: object) -> Path:
    for seed, (best, last) in zip(seeds, figures, strict=False):
        write_run(directory / f"seed_{seed}", experiment, best, last, seed, **changes)
    return directory


def compared(a: Path, b: Path, **options: bool) -> str:
    return compare(find_side(str(a), []), find_side(str(b), []), **options)


def rows(text: str) -> dict[tuple[str, str], list[str]]:
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {(line[0], line[1]): line[2:] for line in lines[2:]}


def test_both_tests_of_both_figures(tmp_path):
    text = compared(write_side(tmp_path / "a", A), write_side(tmp_path / "b", B, SMOOTHED))
    found = rows(text)
    assert list(found) == [("best", "Welch"), ("best", "paired by seed"), ("last", "Welch"), ("last", "paired by seed")]
    # paired: differences 1, 2, 4 with t = sqrt(7) and p = 1 - sqrt(7) / 3; see test_t_tests.py
    means = ["2.00 ± 1.00", "4.33 ± 2.52", "+2.33"]
    assert found["best", "paired by seed"] == [*means, "-1.46 to +6.13", "2.65", "2.0", "0.12", "–"]
    assert found["best", "Welch"][:3] == means
    assert found["best", "Welch"][4:6] == ["1.49", "2.6"]
    assert found["last", "Welch"][2:] == ["+1.00", "+1.00 to +1.00", "inf", "4.0", "0", "+inf"]
    assert "A: tfkd base_experiments/base_resnet18, n = 3 (seeds 0, 1, 2)" in text
    assert "B: tfkd base_experiments/base_resnet18 --label_smoothing, n = 3" in text
    assert "Best: no difference shown, p = 0.12; it may lie anywhere from -1.46 to +6.13 (paired by seed)." in text
    assert "Last: they differ, B is 1.00 higher, p = 0 (Welch)." in text


def test_other_seeds_are_not_paired(tmp_path):
    text = compared(write_side(tmp_path / "a", A), write_side(tmp_path / "b", B, seeds=(1, 2, 3)))
    assert {test for _, test in rows(text)} == {"Welch"}
    text = compared(tmp_path / "a", write_side(tmp_path / "c", B[:2]))
    assert {test for _, test in rows(text)} == {"Welch"}
    assert "n = 2 (seeds 0, 1)" in text


def test_the_figure_by_validation_where_all_have_it(tmp_path):
    for side, value in (("a", 50.0), ("b", 60.0)):
        for seed in (0, 1):
            write_run(tmp_path / side / str(seed), BASELINE, 1.0, 1.0, seed, selected_by_validation=value + seed)
    found = rows(compared(tmp_path / "a", tmp_path / "b"))
    assert found["by validation", "Welch"][:3] == ["50.50 ± 0.71", "60.50 ± 0.71", "+10.00"]
    write_run(tmp_path / "b" / "2", BASELINE, 1.0, 1.0, 2)
    assert ("by validation", "Welch") not in rows(compared(tmp_path / "a", tmp_path / "b"))


def test_experiments_by_name(tmp_path):
    write_side(tmp_path / "x", A)
    write_side(tmp_path / "x" / "deeper", B, SMOOTHED)
    sides = [find_side(name, [tmp_path]) for name in (BASELINE, SMOOTHED)]
    assert rows(compare(*sides))["best", "Welch"][:3] == ["2.00 ± 1.00", "4.33 ± 2.52", "+2.33"]
    with pytest.raises(UserError, match="holds runs of 2 experiments"):
        find_side(str(tmp_path / "x"), [])
    with pytest.raises(UserError, match="no finished runs of other"):
        find_side("other", [tmp_path])
    with pytest.raises(UserError, match="no directory other"):
        find_side("other", [])


def test_fewer_than_two_seeds(tmp_path):
    write_side(tmp_path / "a", A[:1])
    for name in (tmp_path / "a", tmp_path / "a" / "seed_0" / "run.json"):
        with pytest.raises(UserError, match="runs of 1 seed: a comparison needs two or more a side"):
            find_side(str(name), [])
    write_run(tmp_path / "a" / "again", BASELINE, 5.0, 5.0)  # the same seed counts once
    with pytest.raises(UserError, match="runs of 1 seed"):
        find_side(str(tmp_path / "a"), [])


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 5},
        {"limit_eval_batches": 2},
        {"content": GENERATED, "fingerprint": "b" * 32},
        {"amp": "bf16"},
    ],
)
def test_other_data_or_budget_only_on_demand(tmp_path, change):
    a, b = write_side(tmp_path / "a", A), write_side(tmp_path / "b", B, **change)
    with pytest.raises(UserError, match="differ in data or budget"):
        compared(a, b)
    assert "A: published archive" in compared(a, b, across_budgets=True)
    with pytest.raises(UserError, match="differ in data or budget"):
        find_side(str(tmp_path), [])  # nor within one side


def test_the_batch_size_belongs_to_a_limited_budget(tmp_path):
    a, b = write_side(tmp_path / "a", A), write_side(tmp_path / "b", B, batch_size=64)
    assert compared(a, b), "whole epochs see the same images"
    limited = [write_side(tmp_path / f"{size}", A, batches=10, batch_size=size) for size in (64, 128)]
    with pytest.raises(UserError, match=r"batch size 64 / .*batch size 128"):
        compared(*limited)


def test_papers_of_other_lengths_compare_when_trained_as_long(tmp_path):
    a = write_side(tmp_path / "a", A, epochs=10)
    assert compared(a, write_side(tmp_path / "b", B, epochs=10, published_epochs=240))


@pytest.mark.slow
def test_command_line_in_a_process_without_torch(tmp_path):
    a, b = write_side(tmp_path / "a", A), write_side(tmp_path / "b", B)
    code = (
        "import sys; sys.argv = ['results', *sys.argv[1:]]\n"
        "from common.results.__main__ import main\n"
        "main()\n"
        "assert not {'torch', 'torchvision', 'scipy.stats'} & sys.modules.keys()\n"
    )
    python = [sys.executable, "-c", code]
    options = {"cwd": REPOSITORY, "capture_output": True, "text": True}
    result = subprocess.run([*python, "--compare", a, b], **options)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout == compared(a, b)
    result = subprocess.run([*python, tmp_path, "--html", tmp_path / "index.html"], **options)
    assert (result.returncode, result.stderr) == (0, "")
    assert "<!doctype html>" in (tmp_path / "index.html").read_text()
    result = subprocess.run([*python, "--compare", a, tmp_path / "none"], **options)
    assert result.returncode == 2
    assert result.stderr.startswith(f"error: no directory {tmp_path / 'none'}")
    assert result.stderr.count("\n") == 1
    assert subprocess.run(python, **options).returncode == 2
