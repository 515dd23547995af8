"""docs/cells.md: every published cell once, with its value, and settings that are those of the scripts."""

import json
import shlex
import subprocess
import sys

import pytest

from common.command_line import REPOSITORY, settings_from
from common.errors import UserError
from common.plan.cells import Settings, render
from common.plan.plan import load_plan
from common.results.reported import EXPERIMENTS

PAGE = (REPOSITORY / "docs/cells.md").read_text(encoding="utf-8")
RUNS = {run.key: run for run in load_plan()}
SETTINGS = Settings(EXPERIMENTS)


def rows() -> list[tuple[str, list[str]]]:
    """(table, texts of the cells of a row) of the page."""
    found = []
    for section in PAGE.split("\n## ")[1:]:
        table = section.partition("(`")[2].partition("`)")[0]
        lines = [line for line in section.splitlines() if line.startswith("| ")]
        found += [(table, [text.strip() for text in line.strip("| ").split(" | ")]) for line in lines[2:]]
    return found


def test_the_page_is_what_the_plan_gives():
    command = [sys.executable, "-m", "common.plan.cells"]
    printed = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert printed == PAGE, "make it again: python -m common.plan.cells > docs/cells.md"


def test_every_published_cell_stands_there_once_with_its_value():
    reported = []
    for table in json.loads((EXPERIMENTS / "reported.json").read_text())["tables"]:
        for row, *figures in table["rows"]:
            for column, figure in zip(table["columns"], figures, strict=True):
                value = f"{figure['value']:.2f}" + (f" ± {figure['std']:.2f}" if "std" in figure else "")
                teacher = figure.get("teacher")
                reported.append((table["id"], row, column.replace("[teacher]", f"[{teacher}]"), value))
    shown = [(table, row[0], row[1], row[2].rstrip(" ‡§")) for table, row in rows()]
    assert len(shown) == 113
    assert sorted(shown) == sorted(reported)


def test_every_row_names_a_command_of_the_plan_but_one():
    planned = {(run.paper, f"`python {shlex.join(run.command)}`") for run in RUNS.values() if run.trains}
    without = []
    for table, (row, column, _, command, settings, protocol, seeds) in rows():
        assert protocol
        if command == "–":
            without.append((table, row, column, settings, seeds))
            continue
        assert (table.partition("/")[0], command) in planned
        assert settings
        assert int(seeds) >= 1
    assert without == [("tfkd/reg", "googlenet", "normal KD [resnext29]", "no published parameters", "–")]
    assert "112 of 113 cells have a command" in PAGE


def test_undecidable_cells_have_notes():
    marked = {(table, row[0], row[1]) for table, row in rows() if "§" in row[2]}
    assert {row for table, row, _ in marked if table == "mlkd/resnet50"} == {"cifar-10", "cifar-100", "oxford-iiit"}
    assert len({cell for cell in marked if cell[:2] == ("edkd/main", "DKD")}) == 3
    assert len({cell for cell in marked if cell[0].startswith("tfkd/")}) == 4
    for table in json.loads((EXPERIMENTS / "reported.json").read_text())["tables"]:
        assert table["note"] in PAGE


def test_protocols_differ_by_row():
    of_dkd = {row[0]: row[5] for table, row in rows() if table == "edkd/dkd-original"}
    assert of_dkd == {"KD": "the last epoch", "DKD": "the best epoch, chosen on the test set"}
    assert {row[5] for table, row in rows() if table.startswith("tfkd/")} == {
        "not known: best and last are both compared"
    }


# ------------------------------------------------------------------------ settings, held against the scripts themselves


def test_settings_of_edkd_are_the_loaded_configuration(monkeypatch):
    from edkd.engine.config import ConfigFlags, load_config
    from edkd.tools.train import parse_arguments

    experiments = [run for run in RUNS.values() if run.command[0] == "tools/train.py" and "/" in run.experiment[9:]]
    assert len(experiments) > 40
    for run in experiments:
        monkeypatch.setattr("sys.argv", list(run.command))
        loaded = dict(load_config(settings_from(ConfigFlags, parse_arguments()))[0].leaves())
        for key, value in SETTINGS.of(run).items():
            assert str(loaded[key]) == str(type(loaded[key])(value)), (run.experiment, key)
    beta = SETTINGS.of(RUNS["edkd", "cifar100/dkd/res50_mv2 DKD.BETA 10"])["DKD.BETA"]
    assert beta == "10"
    assert SETTINGS.of(RUNS["edkd", "cifar100/dkd/res50_mv2"])["DKD.BETA"] == 8.0


def test_settings_of_tfkd_are_what_the_method_takes():
    from tfkd import main
    from tfkd.params import read_params

    for run in (run for run in RUNS.values() if run.paper == "tfkd" and run.trains):
        settings, params = SETTINGS.of(run), read_params(REPOSITORY / run.parameters / "params.json")
        assert (settings["momentum"], settings["weight_decay"]) == (main.MOMENTUM, main.WEIGHT_DECAY)
        assert (tuple(settings["milestones"]), settings["gamma"]) == (main.MILESTONES, main.GAMMA)
        assert settings["rate_batch_size"] == main.LR_BATCH_SIZE
        read = {key: value for key, value in settings.items() if hasattr(params, key)}
        assert read == {key: getattr(params, key) for key in read}
        assert ("alpha" in settings) == params.has_teacher
        assert ("reg_alpha" in settings) == ("--regularization" in run.command)
        assert ("multiplier" in settings) == bool({"--regularization", "--self_training"} & set(run.command))


@pytest.mark.parametrize(
    ("experiment", "expected"),
    [
        ("ShuffleV2 MTKD-RL", {"epochs": 240, "init_lr": 0.05, "agent_step": 1000}),
        ("teacher resnet32x4", {"epochs": 240, "learning_rate": 0.05}),
    ],
)
def test_settings_of_mtkd_rl_are_those_of_its_script(experiment, expected):
    settings = SETTINGS.of(RUNS["mtkd_rl", experiment])
    assert {key: settings[key] for key in expected} == expected
    assert ("agent_step" in settings) == ("agent_step" in expected), "no other script's"


def test_a_plan_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*reported\.json"):
        render(tmp_path)
