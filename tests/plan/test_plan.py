"""The plan as data: complete, consistent with the published files, and understood by the papers' own scripts."""

import json
import sys
from pathlib import Path

import pytest

import tfkd.main
from common.command_line import REPOSITORY
from common.errors import UserError
from common.plan.budgets import load_budget
from common.plan.plan import load_plan, select
from common.results.reported import EXPERIMENTS, load_tables
from tests.golden import SHARED, conformance
from tfkd.params import read_params

RUNS = load_plan()
TFKD = [run for run in RUNS if run.paper == "tfkd"]
CELLS = [(table, cell) for table in load_tables() if table.paper == "tfkd" for cell in table.cells]


def test_reported_figures_are_the_shared_ones():
    shared = SHARED / "reported.json"
    if not shared.is_file():
        pytest.skip(f"{shared} is not here")
    assert json.loads((EXPERIMENTS / "reported.json").read_text()) == json.loads(shared.read_text())


def test_every_cell_of_tfkd_is_planned_or_says_why_not():
    experiments = {run.experiment for run in TFKD}
    assert len(CELLS) == 7 + 16 + 8 + 12 + 16
    for table, cell in CELLS:
        assert cell.missing or cell.experiment in experiments, (table.id, cell)
    assert {(table.id, cell.row, cell.missing) for table, cell in CELLS if cell.missing} == {
        ("tfkd/re-kd", "resnet50 / mobilenet_v2", "no published parameters"),
        ("tfkd/re-kd", "resnext29 / resnet18", "no published parameters"),
        ("tfkd/de-kd", "resnet50 (45.82, 50 epochs) / mobilenet_v2", "no published parameters"),
        ("tfkd/reg", "googlenet", "no published parameters"),
    }


def test_cells_name_the_student_and_teacher_of_their_experiment():
    """The row of a cell says who is taught by whom; so do the parameters of its experiment."""
    for table, cell in CELLS:
        if cell.missing:
            continue
        params = read_params(EXPERIMENTS / cell.experiment.split()[0] / "params.json")
        if " / " in cell.row:
            teacher, student = [name.split(" ")[0] for name in cell.row.split(" / ")]
            if cell.column.startswith("Re-KD"):
                teacher, student = student, teacher
        else:
            student = cell.row
            teacher = {"Tf-KD self": cell.row}.get(cell.column, "none")
            if cell.column.startswith("normal KD"):
                teacher = cell.column.partition("[")[2].rstrip("]")
        assert (params.student, params.teacher) == (student, teacher), (table.id, cell)


def test_one_baseline_serves_all_tables():
    of_resnet18 = {cell.experiment for _, cell in CELLS if cell.row == "resnet18" and cell.column == "baseline"}
    assert of_resnet18 == {"base_experiments/base_resnet18"}


@pytest.mark.parametrize("run", TFKD, ids=lambda run: run.experiment)
def test_the_script_understands_the_command_and_calls_it_by_the_planned_name(run, monkeypatch):
    for budget in ("paper", "small", "quick"):
        flags = load_budget(budget).flags.get("tfkd", [])
        monkeypatch.setattr(sys, "argv", ["main.py", *run.arguments, *flags])
        args = tfkd.main.parse_arguments()
        assert tfkd.main.experiment_name(args, REPOSITORY / args.model_dir) == run.experiment
    params = read_params(REPOSITORY / args.model_dir / "params.json")
    teachers = {"base_experiments/base_" + params.teacher.replace("_v2", "v2")} if params.has_teacher else set()
    assert set(run.needs) == teachers


def test_the_script_finds_teachers_where_the_plan_puts_them(tmp_path):
    from tfkd.teachers import find_teacher

    for run in TFKD:
        if run.place is not None:
            (tmp_path / "experiments" / run.place).mkdir(parents=True)
            best = tmp_path / "experiments" / run.place / "best.pth.tar"
            best.touch()
            student = read_params(EXPERIMENTS / run.directory / "params.json").student
            model_dir = tmp_path / "experiments" / "kd_experiments" / "any"
            assert find_teacher(student, model_dir).path == best


def test_every_command_of_the_readme_is_planned():
    published = conformance("params.json")["tfkd_readme_directories"]["commands"]
    of_readme = [run for run in TFKD if run.readme]
    assert {f"experiments/{run.directory}" for run in of_readme} == set(published)
    assert {run.readme for run in of_readme} == {
        *("baselines", "normal KD", "Re-KD", "De-KD", "Tf-KD self", "Tf-KD reg", "label smoothing")
    }


@pytest.mark.parametrize("name", ["paper", "small", "quick"])
def test_budgets_override_with_valid_parameters(name, tmp_path):
    budget = load_budget(name)
    for run in TFKD:
        params = json.loads((EXPERIMENTS / run.directory / "params.json").read_text())
        file = tmp_path / "params.json"
        file.write_text(json.dumps({**params, **budget.overrides(run.experiment)}))
        read_params(file)
    assert name != "paper" or not (budget.flags or budget.params or budget.generated)


def test_later_patterns_of_a_budget_win():
    quick = load_budget("quick")
    assert quick.overrides("base_experiments/base_resnet18") == {"batch_size": 8}
    assert quick.overrides("base_experiments/base_resnext29") == {"batch_size": 2}


def test_selection_takes_what_the_chosen_runs_need():
    tables = load_tables()
    chosen = select(RUNS, tables, table_patterns=["tfkd/reg"], cell_patterns=["* resnet18 normal KD*"])
    assert [run.experiment for run in chosen] == [
        "base_experiments/base_resnet50",
        "kd_experiments/resnet18_distill/resnet50_teacher",
    ]
    assert len(select(RUNS, tables)) == len(RUNS)
    assert len(select(RUNS, tables, table_patterns=["tfkd/base*"])) == 7
    assert len(select(RUNS, tables, cell_patterns=["base_experiments/base_resnet18"])) == 1


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"papers": ["nobody"]}, "no paper 'nobody'"),
        ({"table_patterns": ["tfkd/none"]}, "no table 'tfkd/none'"),
        ({"cell_patterns": ["*vgg*"]}, "no experiment or cell answers to"),
        ({"table_patterns": ["tfkd/self"], "cell_patterns": ["* --pt_teacher"]}, "all of"),
    ],
)
def test_a_selection_that_nothing_answers_to(choice, complaint):
    with pytest.raises(UserError, match=complaint):
        select(RUNS, load_tables(), **choice)


@pytest.mark.parametrize(
    ("runs", "complaint"),
    [
        ([{"experiment": "a", "command": "main.py"}, {"experiment": "a", "command": "main.py"}], "twice"),
        ([{"experiment": "a", "command": "main.py", "needs": ["b"]}, {"experiment": "b", "command": "main.py"}], "'b'"),
        ([{"experiment": "a", "command": "other.py"}], "other.py"),
    ],
)
def test_plans_that_cannot_work(tmp_path: Path, runs, complaint):
    plan = {"paper": "p", "script": "main.py", "dataset": "cifar100", "places": {}, "runs": runs, "cells": {}}
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "p.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match=complaint):
        load_plan(tmp_path)


def test_an_unknown_budget_names_the_known_ones():
    with pytest.raises(UserError, match="no budget 'huge': give one of paper, small, trial, quick"):
        load_budget("huge")
