"""Tables from made-up run records: the right figures in the right cells, and never a wrong one."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from common.command_line import REPOSITORY
from common.errors import UserError
from common.results.records import read_runs
from common.results.report import make_report
from common.results.reported import EXPERIMENTS, load_tables
from common.results.tables import render
from common.run_record import read_record
from tests.results.records import BASELINE, PUBLISHED, SMOOTHED, write_run, write_tables


def rendered(*directories: Path, experiments: Path = EXPERIMENTS, unmeasured: bool = False) -> str:
    return render(make_report(load_tables(experiments), *read_runs(directories)), unmeasured=unmeasured)


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
    assert row(baselines, "resnet18") == [
        *("resnet18", "75.87", "76.17 ± 1.26", "75.33 ± 1.04", "+0.30 ≈", "-0.54 ≈", "3")
    ]
    assert row(baselines, "resnet50") == ["resnet50", "78.16", "–", "–", "–", "–", "–"], "no run, no figure"
    assert "†" not in baselines
    assert "fingerprint aaaaaaaaaaaa; budget: 200 of 200 epochs, batch size 128; commit: c0ffee" in baselines
    assert "hardware: AMD EPYC (CPU)." in baselines
    # the same run serves every table that shows this baseline
    assert row(section(text, "tfkd/self"), "resnet18", "baseline")[2:4] == ["75.87", "76.17 ± 1.26"]
    assert row(section(text, "tfkd/reg"), "resnet18", "label smoothing")[2:] == ["77.26", "–", "–", "–", "–", "–"]
    assert "(`tfkd/de-kd`)" not in text, "tables without runs are left out"
    assert "Other runs" not in text


def test_published_deviation_missing_parameters_and_notes(tmp_path):
    write_run(tmp_path / "a", "kd_experiments/mobilenet_v2_distill/resnet18_teacher", 71.5, 71.25)
    text = rendered(tmp_path)
    re_kd = section(text, "tfkd/re-kd")
    normal = "normal KD: student taught by teacher"
    found = row(re_kd, "resnet18 / mobilenet_v2", normal)
    assert found[2:] == ["71.05 ± 0.16", "71.50", "71.25", "+0.45", "+0.20", "1"]
    assert row(re_kd, "resnet50 / mobilenet_v2", normal)[2] == "71.04 ± 0.20 §"
    assert "§ resnet50 / mobilenet_v2, normal KD: student taught by teacher: parameters inferred, none are" in re_kd
    reg = section(text, "tfkd/reg")
    assert row(reg, "mobilenet_v2", "normal KD [resnet18]")[2:4] == ["71.05", "71.50"]
    assert row(reg, "googlenet", "normal KD [resnext29]")[2:4] == ["78.84 §", "no published parameters"]
    assert "alpha and the temperature are missing" in reg
    assert "Note: This table gives GoogLeNet's baseline as 78.15" in reg


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 5},
        {"batches": 2},
        {"limit_eval_batches": 2},
        {"content": "synthetic dataset, not the real data"},
        {"budget": {"epochs": 200, "published_epochs": 200, "published_batch_size": 64, "batches": None}},
    ],
)
def test_other_data_or_budget_is_marked(tmp_path, change):
    write_run(tmp_path / "a", BASELINE, 12.0, 11.0, **change)
    cells = row(section(rendered(tmp_path), "tfkd/baseline"), "resnet18")
    differences = ["–", "–"] if "content" in change else ["-63.87", "-64.87"]
    assert cells[1:] == ["75.87", "12.00 †", "11.00 †", *differences, "1"]


def test_different_budgets_and_data_stand_in_tables_of_their_own(tmp_path):
    write_run(tmp_path / "a", BASELINE, 76.0, 75.5)
    write_run(tmp_path / "b", BASELINE, 20.0, 19.0, 1, epochs=5)
    write_run(tmp_path / "c", BASELINE, 10.0, 9.0, 2, epochs=5, fingerprint="b" * 32)
    lines = [line for line in section(rendered(tmp_path), "tfkd/baseline").splitlines() if "| resnet18 " in line]
    assert [line.split("|")[3].strip() for line in lines] == ["76.00", "20.00 †", "10.00 †"]


def test_other_settings_and_repeated_seeds_are_never_averaged(tmp_path):
    write_run(tmp_path / "old", BASELINE, 60.0, 60.0, 1, batch_size=64)
    write_run(tmp_path / "first", BASELINE, 70.0, 70.0, started="2026-01-02T00:00:00+00:00")
    write_run(tmp_path / "again", BASELINE, 75.0, 75.0, started="2026-01-03T00:00:00+00:00")
    baselines = section(rendered(tmp_path), "tfkd/baseline")
    assert row(baselines, "resnet18")[2:] == ["75.00", "75.00", "-0.87", "-0.87", "1"]
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
    text = rendered(tmp_path, unmeasured=True)
    defective = section(text, "tfkd/de-kd")
    assert row(defective, "resnet18 (15.48, 1 epoch) / mobilenet_v2")[1] == "70.65 ± 0.35 / –"
    assert row(section(text, "edkd/main"), "EDKD")[1] == "76.28 / –"
    assert "very likely mislabelled" in section(text, "edkd/main")
    assert row(section(text, "tfkd/baseline"), "resnet18")[1:3] == ["75.87", "76.00"]


def test_doubtful_figures_are_marked(tmp_path):
    write_run(tmp_path / "a", "base_experiments/base_googlenet", 78.5, 78.0)
    text = rendered(tmp_path, unmeasured=True)
    assert row(section(text, "tfkd/baseline"), "googlenet")[1:5] == ["78.72 ‡", "78.50", "78.00", "-0.22"]
    assert row(section(text, "tfkd/reg"), "googlenet", "baseline")[2:4] == ["78.15 ‡", "78.50"]
    assert "‡ two of the published tables give GoogLeNet's baseline as 78.72, the third as 78.15" in text
    edkd = section(text, "edkd/main")
    assert [row(edkd, name)[-1] for name in ("KD", "DKD", "EDKD")] == ["74.45 ‡ / –", "76.59 ‡ § / –", "77.22 ‡ / –"]
    assert edkd.count("‡ the last column is very likely mislabelled") == 1


def test_controls_follow_the_published_cells(tmp_path):
    control = {"row": "new", "column": "accuracy", "experiment": "e2", "why": "it settles a dispute"}
    experiments = write_tables(
        tmp_path / "experiments",
        [["old", {"value": 70.0}]],
        cells={"p/t": {"old": ["e1"]}},
        controls={"p/t": [control]},
    )
    write_run(tmp_path / "runs" / "a", "e2", 71.0, 70.5, paper="p")
    text = rendered(tmp_path / "runs", experiments=experiments)
    rows = [line for line in text.splitlines() if line.startswith(("| old", "| new"))]
    assert [row(line, line.split()[1]) for line in rows] == [
        ["old", "70.00", "–", "–", "–", "–", "–"],
        ["new", "–", "71.00", "70.50", "–", "–", "1"],
    ]
    assert "Control, new: it settles a dispute." in text
    assert "Other runs" not in text


def test_the_protocol_says_which_measured_figure_is_compared(tmp_path):
    shown = {}
    for protocol in ("best", "last", "best of validation", "unknown"):
        root = tmp_path / protocol
        rows = [["r", {"value": 70.0}]]
        experiments = write_tables(root / "experiments", rows, protocol=protocol, cells={"p/t": {"r": ["e"]}})
        write_run(root / "runs" / "a", "e", 73.0, 71.0, paper="p", selected_by_validation=72.0)
        text = rendered(root / "runs", experiments=experiments)
        header, line = row(text, "row"), row(text, "r")
        assert line[2:5] == ["73.00", "71.00", "72.00"]
        shown[protocol] = dict(zip(header[5:-1], line[5:-1], strict=True))
    assert shown == {
        "best": {"best − published": "+3.00"},
        "last": {"last − published": "+1.00"},
        "best of validation": {"by validation − published": "+2.00"},
        "unknown": {"best − published": "+3.00", "last − published": "+1.00"},
    }
    assert "is not known: both are shown" in rendered(experiments=tmp_path / "unknown" / "experiments", unmeasured=True)
    assert "of the last epoch" in rendered(experiments=tmp_path / "last" / "experiments", unmeasured=True)
    experiments = write_tables(tmp_path / "wrong", [["r", {"value": 70.0}]], protocol="luck")
    with pytest.raises(UserError, match="'luck'"):
        load_tables(experiments)


def test_rows_and_cells_may_have_protocols_of_their_own(tmp_path):
    """Each is held against the measured figure of its own protocol, and against no other."""
    rows = [["a", {"value": 70.0}, {"value": 71.0, "protocol": "unknown"}], ["b", {"value": 72.0}, {"value": 73.0}]]
    experiments = write_tables(
        tmp_path / "e",
        rows,
        columns=("x", "y"),
        protocol="best",
        protocol_source="they say so",
        row_protocols={"b": {"protocol": "last", "protocol_source": "others say so"}},
        cells={"p/t": {"a": ["ax", "ay"], "b": ["bx", "by"]}},
    )
    for name in ("ax", "ay", "bx", "by"):
        write_run(tmp_path / "runs" / name, name, 75.0, 70.0, paper="p")
    text = rendered(tmp_path / "runs", experiments=experiments)
    assert row(text, "row")[5:7] == ["best − published", "last − published"]
    differences = {key: row(text, *key)[5:7] for key in (("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"))}
    assert differences == {
        ("a", "x"): ["+5.00", "–"],
        ("a", "y"): ["+4.00", "-1.00"],
        ("b", "x"): ["–", "-2.00"],
        ("b", "y"): ["–", "-3.00"],
    }
    assert "a: of the best epoch, chosen on the test set (they say so)" in text
    assert "b: of the last epoch (others say so)" in text
    experiments = write_tables(tmp_path / "wrong", rows, columns=("x", "y"), row_protocols={"b": {"protocol": "luck"}})
    with pytest.raises(UserError, match="'luck'"):
        load_tables(experiments)


def test_protocols_of_the_published_figures():
    """KD's are RepDistiller's, of the last epoch; DKD's own are of the best, the mean of five."""
    tables = {table.id: table for table in load_tables()}
    for name, others in (("edkd/main", "unknown"), ("edkd/dkd-original", "best")):
        found = {(cell.row, cell.protocol) for cell in tables[name].published_cells}
        assert found == {("KD", "last"), *((row, others) for row, _ in found if row != "KD")}
    assert {table.id: table.runs for table in tables.values() if table.runs != 1} == {"edkd/dkd-original": 5}
    assert {cell.protocol for cell in tables["mtkd_rl/dynamic"].published_cells} == {"best"}
    assert {cell.protocol for cell in tables["mlkd/resnet50"].published_cells} == {"best of validation"}


def test_differences_between_methods_within_the_spread_are_said_to_be_so(tmp_path):
    rows = [["A", {"value": 70.0}], ["B", {"value": 71.0}], ["C", {"value": 72.0}]]
    cells = {"p/t": {"A": ["a"], "B": ["b"], "C": ["c"]}}
    text = {}
    for compares in ("rows", "other tables"):
        root = tmp_path / compares
        experiments = write_tables(root / "e", rows, cells=cells, compares=compares, protocol="best")
        for seed, shift in enumerate((-0.5, 0.5)):  # a deviation of 0.71 each
            for name, mean in (("a", 70.0), ("b", 70.9), ("c", 73.0)):
                write_run(root / "runs" / f"{name}{seed}", name, mean + shift, mean, seed, paper="p")
        text[compares] = rendered(root / "runs", experiments=experiments)
    assert "≈ Not told apart by these seeds. accuracy, best: A and B." in text["rows"]
    assert "Not told apart" not in text["other tables"]
    assert row(text["rows"], "B")[4] == "-0.10 ≈"
    assert row(text["rows"], "C")[4] == "+1.00", "larger than the spread"
    one = rendered(tmp_path / "rows" / "runs" / "a0", experiments=tmp_path / "rows" / "e")
    assert "Not told apart" not in one, "one seed has no spread"
    with pytest.raises(UserError, match="compares 'colors'"):
        load_tables(write_tables(tmp_path / "wrong", rows, compares="colors"))


def test_teachers_are_named_with_their_origin_and_one_for_each_seed_is_no_other_experiment(tmp_path):
    experiments = write_tables(tmp_path / "e", [["r", {"value": 70.0}]], cells={"p/t": {"r": ["x"]}}, protocol="best")

    def write(seed: int, digest: str, origin: str, started: str) -> None:
        settings = {"seed": seed, "SOLVER.BATCH_SIZE": 64, "DISTILLER.TEACHER": "net", "teacher": digest}
        teacher = {"path": "/some/file", "origin": origin}
        changes = {"paper": "p", "teacher": teacher, "settings": settings, "started": started}
        write_run(tmp_path / "runs" / f"{origin[:5]}{seed}", "x", 70 + seed, 70, **changes)

    for seed in (0, 1):
        write(seed, f"digest {seed}", f"trained here for 240 epochs, test accuracy 7{seed}.00", "2026-01-01")
    text = rendered(tmp_path / "runs", experiments=experiments)
    assert row(text, "r")[2] == "70.50 ± 0.71"
    assert "teachers: net: trained here for 240 epochs." in text
    write(3, "digest 3", "trained here for 8 epochs, test accuracy 25.00", "2026-01-01T12")
    text = rendered(tmp_path / "runs", experiments=experiments)
    assert row(text, "r")[2] == "73.00", "never averaged with students of a teacher of another schedule"
    write(2, "digest 2", "in the place of mdistiller's released teachers", "2026-01-02")
    text = rendered(tmp_path / "runs", experiments=experiments)
    assert row(text, "r")[2] == "72.00", "never averaged with students of another teacher"
    assert "teachers: net: in the place of mdistiller's released teachers;" in text


def test_several_teachers_are_each_named_with_their_origin(tmp_path):
    experiments = write_tables(tmp_path / "e", [["r", {"value": 70.0}]], cells={"p/t": {"r": ["x"]}}, protocol="best")
    for seed in (0, 1):
        origins = [
            f"trained here for 240 epochs, test accuracy 7{seed}.00",
            "in the place of mdistiller's released teachers",
        ]
        teacher = [{"path": "/some/file", "origin": origin} for origin in origins]
        settings = {"seed": seed, "DISTILLER.TEACHER": ["net", "other"], "teacher": f"digest {seed}+released"}
        write_run(tmp_path / f"runs/{seed}", "x", 70 + seed, 70, paper="p", teacher=teacher, settings=settings)
    text = rendered(tmp_path / "runs", experiments=experiments)
    assert row(text, "r")[2] == "70.50 ± 0.71"
    assert "teachers: net: trained here for 240 epochs, other: in the place of mdistiller's released teachers." in text
    settings = {"seed": 2, "DISTILLER.TEACHER": ["net", "other"], "teacher": "digest 2+another"}
    write_run(tmp_path / "runs/2", "x", 72, 70, paper="p", teacher=teacher, settings=settings, started="2099-01-01")
    assert row(rendered(tmp_path / "runs", experiments=experiments), "r")[2] == "72.00", "another second teacher"


def test_seeds_of_an_ensemble_are_averaged_though_each_has_teachers_of_its_own(tmp_path):
    experiments = write_tables(tmp_path / "e", [["r", {"value": 70.0}]], cells={"p/t": {"r": ["x"]}}, protocol="best")

    def write(seed: int, weight: float) -> None:
        teacher = [{"path": "/f", "origin": f"trained here for 30 epochs, test accuracy 7{seed}.00"}]
        settings = {"seed": seed, "teachers": [{"name": "net", "checkpoint": f"digest {seed}", "weight": weight}]}
        started = f"2026-01-0{seed + 1}"
        write_run(
            tmp_path / f"runs/{seed}",
            "x",
            70 + seed,
            70,
            paper="p",
            teacher=teacher,
            settings=settings,
            started=started,
        )

    write(0, 0.9)
    write(1, 0.9)
    text = rendered(tmp_path / "runs", experiments=experiments)
    assert row(text, "r")[2] == "70.50 ± 0.71"
    assert "teachers: net: trained here for 30 epochs." in text
    write(2, 0.8)
    assert row(rendered(tmp_path / "runs", experiments=experiments), "r")[2] == "72.00", "other weights"


def test_a_record_of_another_shape_is_left_out(tmp_path):
    write_run(tmp_path / "a", BASELINE, 75.0, 74.0, teacher=["by name alone"])
    text = rendered(tmp_path)
    assert f"Left out: {tmp_path / 'a' / 'run.json'} is not a complete record of a run." in text


def test_a_figure_that_some_runs_lack_is_not_averaged_over_the_others(tmp_path):
    write_run(tmp_path / "a", BASELINE, 75.0, 74.0, selected_by_validation=74.5)
    write_run(tmp_path / "b", BASELINE, 76.0, 75.0, 1)
    assert "by validation" not in row(section(rendered(tmp_path), "tfkd/baseline"), "row")
    write_run(tmp_path / "c", "base_experiments/base_resnet50", 0, 0, accuracy={"selected_by_validation": 77.0})
    baselines = section(rendered(tmp_path), "tfkd/baseline")
    assert row(baselines, "row")[4] == "by validation"
    assert row(baselines, "resnet18")[2:7] == ["75.50 ± 0.71", "74.50 ± 0.71", "–", "-0.37 ≈", "-1.37"]
    assert row(baselines, "resnet50")[2:7] == ["–", "–", "77.00", "–", "–"]


def test_a_run_on_another_data_set_is_not_in_the_table(tmp_path):
    write_run(tmp_path / "a", BASELINE, 95.0, 94.0, name="cifar10")
    text = rendered(tmp_path)
    assert "(`tfkd/baseline`)" not in text
    assert row(text, "tfkd", BASELINE)[3:5] == ["95.00", "94.00"], "it is among the others"


@pytest.mark.parametrize(
    ("table", "yes", "no"),
    [
        ("tfkd/baseline", ["cifar100", ""], ["cifar10", "cifar1000", "tiny_imagenet"]),
        ("mlkd/resnet50", ["cifar10", "cifar100", "oxford-iiit"], ["cifar1", "imagenet"]),
    ],
)
def test_the_data_sets_of_a_table(table, yes, no):
    (table,) = [t for t in load_tables() if t.id == table]
    assert [name for name in (*yes, *no) if table.is_of(name)] == yes


def test_what_was_trained_without_the_test_set_has_no_best_epoch_on_it(tmp_path):
    rows = [["r", {"value": 70.0}]]
    protocol = {"protocol": "best of validation"}
    experiments = write_tables(tmp_path / "e", rows, cells={"p/t": {"r": ["e"]}}, **protocol)
    chosen = {"selected_by_validation": 72.0, "validation": {"best": 80.0}}
    write_run(tmp_path / "runs" / "a", "e", 72.0, 71.0, paper="p", **chosen)
    text = rendered(tmp_path / "runs", experiments=experiments)
    assert row(text, "row") == ["row", "published", "last", "by validation", "by validation − published", "seeds"]
    assert row(text, "r") == ["r", "70.00", "71.00", "72.00", "+2.00", "1"]


def test_several_data_sets_share_a_table_but_not_a_mean(tmp_path):
    rows = [["one", {"value": 90.0}], ["two", {"value": 80.0}]]
    experiments = write_tables(tmp_path / "e", rows, cells={"p/t": {"one": ["e1"], "two": ["e2"]}})
    runs = tmp_path / "runs"
    write_run(runs / "a", "e1", 91.0, 90.0, paper="p", name="cifar10", fingerprint="1" * 32)
    write_run(runs / "b", "e2", 81.0, 80.0, paper="p", name="cifar100", fingerprint="2" * 32)
    text = rendered(runs, experiments=experiments)
    assert row(text, "one")[2] == "91.00"
    assert row(text, "two")[2] == "81.00"
    assert f"cifar10: {PUBLISHED}, fingerprint 111111111111; cifar100: {PUBLISHED}, fingerprint 222222222222" in text
    # the same experiment on another set is something else, and so is another version of the same set
    write_run(runs / "c", "e1", 95.0, 94.0, paper="p", name="cifar100", fingerprint="2" * 32)
    write_run(runs / "d", "e2", 85.0, 84.0, paper="p", name="cifar100", fingerprint="3" * 32)
    text = rendered(runs, experiments=experiments)
    lines = [line for line in text.splitlines() if line.startswith(("| one", "| two"))]
    assert [line.split("|")[3].strip() for line in lines] == ["91.00", "85.00", "95.00", "81.00"]


def test_a_bar_in_a_name_does_not_break_the_table(tmp_path):
    write_run(tmp_path / "a", "mine|yours\nnext", 50.0, 49.0)
    assert "| mine\\|yours next |" in rendered(tmp_path)


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
    found, _, tables = result.stdout.partition("# Published and measured figures")
    assert found.startswith("# Runs found")
    assert f"# Published and measured figures{tables}" == rendered(tmp_path)
    result = subprocess.run([*command, tmp_path / "none"], cwd=REPOSITORY, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (2, f"error: no directory {tmp_path / 'none'}\n")


def test_a_control_must_say_what_it_is(tmp_path):
    rows = [["r", {"value": 70.0}]]
    experiments = write_tables(tmp_path, rows, cells={"p/t": {"r": ["e"]}}, controls={"p/t": [{"name": "mine"}]})
    with pytest.raises(UserError, match="a control of p/t"):
        load_tables(experiments)


def test_the_plan_of_a_table_must_have_its_rows(tmp_path):
    (tmp_path / "plan").mkdir()
    for name in ("reported.json", "plan/tfkd.json"):
        content = json.loads((REPOSITORY / "experiments" / name).read_text())
        if name != "reported.json":
            content["cells"]["tfkd/baseline"].pop("resnet18")
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match="tfkd/baseline"):
        load_tables(tmp_path)


def test_runs_of_mixed_segments_are_marked(tmp_path):
    """Whose starts had other code, or computed otherwise; one that computed nothing does not count."""
    for seed, changes in enumerate(
        [{}, {"commit": "decade"}, {"runtime": {"device": "cpu", "amp": "off", "plain": True}}]
    ):
        write_run(tmp_path / str(seed), BASELINE, 75.0, 74.0, seed)
        record = read_record(tmp_path / str(seed))
        first = dataclasses.replace(record.segments[0], epochs=100)
        first.runtime["plain"] = False
        unused = dataclasses.replace(first, commit="unused", first_epoch=100, epochs=0)
        second = dataclasses.replace(first, first_epoch=100, **changes)
        record.segments = [first, unused, second]
        (tmp_path / str(seed) / "run.json").write_text(json.dumps(record.to_json()))
    baselines = section(rendered(tmp_path), "tfkd/baseline")
    assert row(baselines, "resnet18")[-1] == "3 (2 mixed)"
    assert "commit: c0ffee, c0ffee + decade; hardware" in baselines
    assert "mixed runs were resumed with another: commit, plain" in baselines
    assert "unused" not in baselines
