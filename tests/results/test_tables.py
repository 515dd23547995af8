"""Tables from made-up run records: the right figures in the right cells, and never a wrong one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.command_line import REPOSITORY
from common.errors import UserError
from common.results.records import read_runs
from common.results.reported import load_tables
from common.results.tables import render

PUBLISHED = "published archive, checksums verified"
BASELINE, SMOOTHED = "base_experiments/base_resnet18", "base_experiments/base_resnet18 --label_smoothing"


def write_run(directory: Path, experiment: str, best: float, last: float, seed: int = 0, **changes: object) -> None:
    """A record as the training loop writes it; `changes` go to whatever part has such a key."""
    record = {
        "paper": "tfkd",
        "experiment": experiment,
        "settings": {"seed": seed, "batch_size": 128, "method": "Baseline", "limit_eval_batches": None},
        "runtime": {"device": "cpu", "amp": "off"},
        "data": {"content": PUBLISHED, "fingerprint": "a" * 32},
        "budget": {"epochs": 200, "published_epochs": 200, "batches": None},
        "commit": "c0ffee",
        "hardware": {"cpu": "AMD EPYC", "gpu": "H200"},
        "status": "done",
        "started": "2026-01-01T00:00:00+00:00",
        "accuracy": {"best": best, "last": last},
    }
    for key, value in changes.items():
        part = next((p for p in (record, *record.values()) if isinstance(p, dict) and key in p), record)
        part[key] = value
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps(record))


def rendered(*directories: Path) -> str:
    return render(load_tables(), *read_runs(directories))


def row(text: str, *beginning: str) -> list[str]:
    """The cells of the one row that begins so."""
    rows = [[c.strip() for c in line.strip("| ").split("|")] for line in text.splitlines() if line.startswith("|")]
    (found,) = [r for r in rows if tuple(r[: len(beginning)]) == beginning]
    return found


def section(text: str, table: str) -> str:
    return next(part for part in text.split("\n## ") if f"(`{table}`)" in part)


def test_mean_deviation_and_difference_over_seeds(tmp_path):
    for seed, (best, last) in enumerate([(75.0, 74.5), (76.0, 75.0), (77.5, 76.5)]):
        write_run(tmp_path / str(seed), BASELINE, best, last, seed)
    text = rendered(tmp_path)
    baselines = section(text, "tfkd/baseline")
    assert row(baselines, "resnet18") == ["resnet18", "75.87", "76.17 ± 1.26", "75.33 ± 1.04", "+0.30", "3"]
    assert row(baselines, "resnet50") == ["resnet50", "78.16", "–", "–", "–", "–"], "no run, no figure"
    assert "†" not in baselines
    assert "fingerprint aaaaaaaaaaaa; budget: 200 of 200 epochs, batch size 128; commit: c0ffee" in baselines
    assert "hardware: AMD EPYC (CPU)." in baselines
    # the same run serves every table that shows this baseline
    assert row(section(text, "tfkd/self"), "resnet18", "baseline")[2:4] == ["75.87", "76.17 ± 1.26"]
    assert row(section(text, "tfkd/reg"), "resnet18", "label smoothing")[2:] == ["77.26", "–", "–", "–", "–"]
    assert "(`tfkd/de-kd`)" not in text, "tables without runs are left out"
    assert "Other runs" not in text


def test_published_deviation_missing_parameters_and_notes(tmp_path):
    write_run(tmp_path / "a", "kd_experiments/mobilenet_v2_distill/resnet18_teacher", 71.5, 71.25)
    text = rendered(tmp_path)
    re_kd = section(text, "tfkd/re-kd")
    normal = "normal KD: student taught by teacher"
    assert row(re_kd, "resnet18 / mobilenet_v2", normal)[2:] == ["71.05 ± 0.16", "71.50", "71.25", "+0.45", "1"]
    assert row(re_kd, "resnet50 / mobilenet_v2", normal)[3] == "no published parameters"
    reg = section(text, "tfkd/reg")
    assert row(reg, "mobilenet_v2", "normal KD [resnet18]")[2:4] == ["71.05", "71.50"]
    assert "Note: This table gives GoogLeNet's baseline as 78.15" in reg


@pytest.mark.parametrize(
    "change",
    [{"epochs": 5}, {"batches": 2}, {"limit_eval_batches": 2}, {"content": "generated set, not the real data"}],
)
def test_other_data_or_budget_is_marked(tmp_path, change):
    write_run(tmp_path / "a", BASELINE, 12.0, 11.0, **change)
    cells = row(section(rendered(tmp_path), "tfkd/baseline"), "resnet18")
    difference = "–" if "content" in change else "-63.87"
    assert cells[1:] == ["75.87", "12.00 †", "11.00 †", difference, "1"]


def test_different_budgets_and_data_stand_in_tables_of_their_own(tmp_path):
    write_run(tmp_path / "a", BASELINE, 76.0, 75.5)
    write_run(tmp_path / "b", BASELINE, 20.0, 19.0, seed=1, epochs=5)
    write_run(tmp_path / "c", BASELINE, 10.0, 9.0, seed=2, epochs=5, fingerprint="b" * 32)
    lines = [line for line in section(rendered(tmp_path), "tfkd/baseline").splitlines() if "| resnet18 " in line]
    assert [line.split("|")[3].strip() for line in lines] == ["76.00", "20.00 †", "10.00 †"]


def test_other_settings_and_repeated_seeds_are_never_averaged(tmp_path):
    write_run(tmp_path / "old", BASELINE, 60.0, 60.0, seed=1, batch_size=64)
    write_run(tmp_path / "first", BASELINE, 70.0, 70.0, started="2026-01-02T00:00:00+00:00")
    write_run(tmp_path / "again", BASELINE, 75.0, 75.0, started="2026-01-03T00:00:00+00:00")
    baselines = section(rendered(tmp_path), "tfkd/baseline")
    assert row(baselines, "resnet18")[2:] == ["75.00", "75.00", "-0.87", "1"]
    assert "left out, because newer ones have other settings or the same seed: 2" in baselines


def test_a_users_own_run_is_shown_among_the_others(tmp_path):
    write_run(tmp_path / "a", "base_experiments/mine", 50.0, 49.0, method="Mine", epochs=3, device="cuda")
    text = rendered(tmp_path)
    assert row(text, "tfkd", "base_experiments/mine") == [
        *("tfkd", "base_experiments/mine", "Mine", "50.00 †", "49.00 †", "1"),
        *("3 of 200 epochs, batch size 128", PUBLISHED, "c0ffee"),
    ]


def test_tables_without_runs_on_demand(tmp_path):
    write_run(tmp_path / "a", BASELINE, 76.0, 75.5)
    assert "(`edkd/main`)" not in rendered(tmp_path)
    text = render(load_tables(), *read_runs([tmp_path]), unmeasured=True)
    defective = section(text, "tfkd/de-kd")
    assert row(defective, "resnet18 (15.48, 1 epoch) / mobilenet_v2")[1] == "70.65 ± 0.35 / –"
    assert row(section(text, "edkd/main"), "EDKD")[1] == "76.28 / –"
    assert "very likely mislabelled" in section(text, "edkd/main")
    assert row(section(text, "tfkd/baseline"), "resnet18")[1:3] == ["75.87", "76.00"]


def test_unfinished_and_foreign_records_are_left_out_and_named(tmp_path):
    write_run(tmp_path / "a", BASELINE, 50.0, 49.0, status="stopped")
    write_run(tmp_path / "b", SMOOTHED, 50.0, 49.0, status="running")
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "run.json").write_text('{"status": "done"}')
    text = rendered(tmp_path)
    assert "There are no finished runs." in text
    assert "Left out: runs that are not finished (1 running, 1 stopped)." in text
    assert f"Left out: {tmp_path / 'c' / 'run.json'} is not a complete record of a run." in text


def test_a_linked_directory_counts_once(tmp_path):
    write_run(tmp_path / "runs" / "a", BASELINE, 50.0, 49.0)
    (tmp_path / "runs" / "link").symlink_to("a")
    records, _ = read_runs([tmp_path, tmp_path / "runs"])
    assert len(records) == 1


def test_a_missing_directory():
    with pytest.raises(UserError, match="no directory"):
        read_runs([Path("/nowhere/at/all")])


def test_command_line(tmp_path):
    write_run(tmp_path / "a", BASELINE, 76.0, 75.5)
    command = [sys.executable, "-m", "common.results"]
    result = subprocess.run([*command, tmp_path], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert result.stdout == rendered(tmp_path)
    result = subprocess.run([*command, tmp_path / "none"], cwd=REPOSITORY, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, f"error: no directory {tmp_path / 'none'}\n")


def test_the_plan_of_a_table_must_have_its_rows(tmp_path):
    (tmp_path / "plan").mkdir()
    for name in ("reported.json", "plan/tfkd.json"):
        content = json.loads((REPOSITORY / "experiments" / name).read_text())
        if name != "reported.json":
            content["cells"]["tfkd/baseline"].pop("resnet18")
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match="tfkd/baseline"):
        load_tables(tmp_path)
