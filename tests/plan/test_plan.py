"""The plan as data: complete, consistent with the published files, and understood by the papers' own scripts."""

import itertools
import json
from pathlib import Path

import pytest

from common.command_line import REPOSITORY, settings_from
from common.errors import UserError
from common.plan.budgets import load_budget
from common.plan.plan import PlannedRun, load_plan, select, with_released
from common.plan.seeds import seeds_of
from common.results.reported import EXPERIMENTS, load_tables
from tests.golden import conformance
from tests.material import shared_or_skip
from tests.plan.names import name_of
from tfkd.params import read_params

RUNS = load_plan()
TABLES = load_tables()
TFKD = [run for run in RUNS if run.paper == "tfkd" and run.trains]
CELLS = [(table, cell) for table in TABLES for cell in table.published_cells]
TFKD_CELLS = [(table, cell) for table, cell in CELLS if table.paper == "tfkd"]
BUDGETS = ("paper", "tenth", "small", "trial", "smoke")


def ids(run: PlannedRun) -> str:
    return f"{run.paper} {run.experiment}"


def test_reported_figures_are_the_shared_ones():
    shared = shared_or_skip("reported.json")
    ours = json.loads((EXPERIMENTS / "reported.json").read_text())
    for table in ours["tables"]:  # what we say about the figures is not among them
        for key in ("protocol", "protocol_source", "row_protocols", "runs", "compares"):
            table.pop(key, None)
        for _, *figures in table["rows"]:
            for figure in figures:
                figure.pop("misprint", None)
    assert ours == json.loads(shared.read_text())


# --------------------------------------------------------------------------------------------------------- all cells


def test_every_published_cell_is_planned_or_says_why_not():
    experiments = {run.key for run in RUNS if run.trains}
    assert len(TABLES) == 9
    assert len(CELLS) == 113
    for table, cell in CELLS:
        assert cell.missing or (table.paper, cell.experiment) in experiments, (table.id, cell)
    ((table, cell),) = [(table, cell) for table, cell in CELLS if cell.missing]
    assert (table.id, cell.row, cell.column) == ("tfkd/reg", "googlenet", "normal KD [resnext29]")
    assert cell.missing == "no published parameters"
    assert "alpha and the temperature are missing" in cell.note


def test_parameters_that_are_not_published_are_marked_and_follow_from_published_ones():
    """Alpha and temperature are those of all published files of the student with another network as teacher."""
    published = conformance("params.json")["tfkd_params"]
    inferred = {}
    for table, cell in TFKD_CELLS:
        if cell.experiment and "_inferred" in cell.experiment:
            assert "parameters inferred" in cell.note, (table.id, cell)
            inferred[cell.experiment.split()[0]] = cell
        else:
            assert "inferred" not in (cell.note or "")
    assert len([cell for _, cell in TFKD_CELLS if "_inferred" in (cell.experiment or "")]) == 3
    for directory in inferred:
        file = EXPERIMENTS / directory / "params.json"
        params = read_params(file)
        assert params.inferred
        assert directory.partition("/")[2] not in published
        siblings = [
            values
            for values in published.values()
            if values["model_version"] == params.model_version and values["teacher"] != params.student
        ]
        assert len(siblings) >= 2
        assert {(values["alpha"], values["temperature"]) for values in siblings} == {(params.alpha, params.temperature)}
        ours = json.loads(file.read_text())
        assert any(
            {**values, "teacher": params.teacher} == {k: v for k, v in ours.items() if k != "inferred"}
            for values in siblings
        ), "all else as in one of them"
    assert {read_params(EXPERIMENTS / d / "params.json").batch_size for d in inferred} == {64, 128}


def test_every_control_is_planned_and_says_what_it_is_good_for():
    experiments = {run.key for run in RUNS if run.trains}
    controls = [(table, cell) for table in TABLES for cell in table.cells if cell.published is None]
    for table, cell in controls:
        assert (table.paper, cell.experiment) in experiments, (table.id, cell)
        assert cell.why
    for table, words in {
        "tfkd/reg": ("loss scale of Tf-KD reg", "Tf-KD reg, paper's form", "label smoothing, paper's form"),
        "tfkd/self": ("Tf-KD self, paper's form",),
        "edkd/main": ("DKD, beta 6.1", "EDKD, per-sample beta", "resnet32x4 / ShuffleV2"),
        "mtkd_rl/dynamic": ("AVER", "equal weights", "policy gradient"),
    }.items():
        shown = [f"{cell.row} {cell.column}" for other, cell in controls if other.id == table]
        assert all(any(word in name for name in shown) for word in words), table


def test_cells_name_the_student_and_teacher_of_their_experiment():
    """The row of a cell says who is taught by whom; so do the parameters of its experiment."""
    for table, cell in TFKD_CELLS:
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


def test_cells_of_edkd_name_the_networks_of_their_configuration():
    import yaml

    for table in TABLES:
        if table.paper != "edkd":
            continue
        for cell in table.cells:
            file = REPOSITORY / "edkd/configs" / f"{cell.experiment.split()[0]}.yaml"
            distiller = yaml.safe_load(file.read_text())["DISTILLER"]
            if cell.row == "no teacher":
                assert cell.experiment.split()[2] == cell.column.split(" / ")[1]
                continue
            assert f"{distiller['TEACHER']} / {distiller['STUDENT']}" == cell.column
            assert cell.row.partition(",")[0] == distiller["TYPE"]


def test_controls_without_a_teacher_train_at_the_rate_of_their_distilled_counterparts(monkeypatch):
    """0.01 for MobileNetV2, ShuffleV1 and ShuffleV2, 0.05 for the others."""
    rates = {run.experiment: edkd_config(run, monkeypatch).SOLVER.LR for run in RUNS if is_training_of_edkd(run)}
    low = 0
    for table in (table for table in TABLES if table.paper == "edkd"):
        of_column = {cell.column: rates[cell.experiment] for cell in table.cells if cell.row in ("KD", "DKD", "EDKD")}
        for cell in table.cells:
            if cell.row == "no teacher":
                assert rates[cell.experiment] == of_column[cell.column], (table.id, cell)
                low += rates[cell.experiment] == 0.01
    assert low == 9
    assert rates["cifar100/vanilla DISTILLER.STUDENT resnet8x4"] == 0.05


def test_beta_of_dkd_has_a_control_where_no_published_file_sets_it(monkeypatch):
    """EDKD's tree defaults to 10, mdistiller's to 8; the affected cells say that it cannot be decided."""
    published = conformance("params.json")["yaml"]["mdistiller_tree_only"]
    (main,) = [table for table in TABLES if table.id == "edkd/main"]
    runs = {run.experiment: run for run in RUNS if is_training_of_edkd(run)}
    controls = {cell.column: cell.experiment for cell in main.cells if cell.row == "DKD, beta 10"}
    affected = []
    for cell in (cell for cell in main.published_cells if cell.row == "DKD"):
        file = f"configs/{cell.experiment.replace('res32x4_mv2', 'res32x4_shuv2')}.yaml"
        beta = edkd_config(runs[cell.experiment], monkeypatch).DKD.BETA
        if "DKD" in published[file]:
            assert beta == published[file]["DKD"]["BETA"]
            assert cell.note is None
            assert cell.column not in controls
            continue
        affected.append(cell.column)
        assert beta == 8
        assert edkd_config(runs[controls[cell.column]], monkeypatch).DKD.BETA == 10
        assert "cannot be decided" in cell.note
    assert affected == ["resnet32x4 / resnet8x4", "ResNet50 / MobileNetV2", "resnet32x4 / MobileNetV2"]
    assert set(controls) == {*affected, "resnet32x4 / ShuffleV2"}, "the last column very likely is that pair"


def is_training_of_edkd(run: PlannedRun) -> bool:
    return run.paper == "edkd" and run.command[0] == "tools/train.py"


def edkd_config(run: PlannedRun, monkeypatch: pytest.MonkeyPatch):
    from edkd.engine.config import ConfigFlags, load_config
    from edkd.tools.train import parse_arguments

    monkeypatch.setattr("sys.argv", list(run.command))
    return load_config(settings_from(ConfigFlags, parse_arguments()))[0]


def test_one_baseline_serves_all_tables():
    of_resnet18 = {cell.experiment for _, cell in CELLS if cell.row == "resnet18" and cell.column == "baseline"}
    assert of_resnet18 == {"base_experiments/base_resnet18"}


# ------------------------------------------------------------------------------------------- the papers' own scripts


@pytest.mark.parametrize("run", [run for run in RUNS if run.trains], ids=ids)
def test_the_script_understands_the_command_and_calls_it_by_the_planned_name(run, monkeypatch):
    for name in BUDGETS:
        flags = [*run.flags, *load_budget(name).flags_of(run.name), "--seed", "0", "--data-dir", "data", "--resume"]
        assert name_of(run, [*run.command[1:], *flags], monkeypatch) == run.experiment


def test_students_need_the_teachers_that_their_scripts_look_for(monkeypatch):
    for run in TFKD:
        params = read_params(REPOSITORY / run.parameters / "params.json")
        teachers = {"base_experiments/base_" + params.teacher.replace("_v2", "v2")} if params.has_teacher else set()
        assert set(run.depends_on) == teachers
    for run in RUNS:
        if run.paper == "edkd" and run.trains and "vanilla" not in run.experiment:
            import yaml

            file = REPOSITORY / "edkd" / run.command[run.command.index("--cfg") + 1]
            teacher = yaml.safe_load(file.read_text())["DISTILLER"]["TEACHER"]
            assert run.depends_on == (f"cifar100/vanilla DISTILLER.STUDENT {teacher}",)
        if run.paper == "mtkd_rl" and run.trains and "--teacher-name-list" in run.command:
            rest = run.command[run.command.index("--teacher-name-list") + 1 :]
            named = itertools.takewhile(lambda word: not word.startswith("--"), rest)
            assert run.depends_on == tuple(f"teacher {teacher}" for teacher in named)


def test_the_script_finds_teachers_where_the_plan_puts_them(tmp_path):
    from tfkd.teachers import find_teacher

    for run in TFKD:
        for place in run.link_paths:
            (tmp_path / place).mkdir(parents=True)
            best = tmp_path / place / "best.pth.tar"
            best.touch()
            student = read_params(REPOSITORY / run.parameters / "params.json").student
            model_dir = tmp_path / "experiments" / "kd_experiments" / "any"
            assert find_teacher(student, model_dir).path == best


def test_every_published_command_of_tfkd_is_planned():
    published = conformance("params.json")["tfkd_readme_directories"]["commands"]
    of_readme = [run for run in TFKD if run.readme]
    assert {run.parameters for run in of_readme} == set(published)
    assert {run.readme for run in of_readme} == {
        *("baselines", "normal KD", "Re-KD", "De-KD", "Tf-KD self", "Tf-KD reg", "label smoothing")
    }


def test_runs_that_write_to_one_directory_have_workspaces_of_their_own():
    """Tf-KD's script writes to the same place with and without a flag, MLKD's where `-n` says."""
    seen = {}
    for run in RUNS:
        if run.trains and run.paper in ("tfkd", "mlkd"):
            place = run.parameters or run.command[run.command.index("-n") + 1]
            assert seen.setdefault((run.paper, place, run.variant), run) is run


# ------------------------------------------------------------------------------------------------------------ budgets


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_override_with_valid_parameters(name, tmp_path):
    budget = load_budget(name)
    for run in TFKD:
        params = json.loads((REPOSITORY / run.parameters / "params.json").read_text())
        file = tmp_path / "params.json"
        file.write_text(json.dumps({**params, **budget.overrides(run.name)}))
        read_params(file)
    assert name != "paper" or not (budget.flags or budget.params or budget.generated)


@pytest.mark.parametrize("name", BUDGETS)
def test_patterns_of_budgets_match_something(name):
    budget = load_budget(name)
    for pattern in (*budget.flags, *budget.params):
        assert any(budget_matches(pattern, run) for run in RUNS), pattern
    for pattern, why in budget.leaves_out.items():
        assert any(budget_matches(pattern, run) for run in RUNS), pattern
        assert why


def budget_matches(pattern: str, run: PlannedRun) -> bool:
    from fnmatch import fnmatchcase

    return fnmatchcase(run.name, pattern)


def test_the_paper_budget_leaves_out_no_cell():
    chosen = select(RUNS, TABLES, left_out=list(load_budget("paper").leaves_out))
    missing = {run.key for run in RUNS} - {run.key for run in chosen}
    assert missing
    assert not missing & {(table.paper, cell.experiment) for table in TABLES for cell in table.cells}


def test_later_patterns_of_a_budget_win():
    smoke = load_budget("smoke")
    assert smoke.overrides("tfkd main.py base_experiments/base_resnet18") == {"batch_size": 8}
    assert smoke.overrides("tfkd main.py base_experiments/base_resnext29") == {"batch_size": 2}


def test_an_unknown_budget_names_the_known_ones():
    with pytest.raises(UserError, match="no budget 'huge': give one of paper, tenth, small, trial, smoke"):
        load_budget("huge")


# -------------------------------------------------------------------------------------------------------------- seeds


def test_the_paper_budget_has_as_many_seeds_as_the_figures_average_and_three_for_comparisons():
    seeds = seeds_of(RUNS, TABLES, load_budget("paper"))
    five = {cell.experiment for table in TABLES if table.id == "edkd/dkd-original" for cell in table.cells}
    for table in TABLES:
        for cell in table.cells:
            if cell.experiment:
                expected = 1 if table.paper == "mlkd" else 5 if cell.experiment in five else 3
                assert seeds[table.paper, cell.experiment] == tuple(range(expected)), (table.id, cell)
    for run in RUNS:
        for need in run.depends_on:
            assert set(seeds[run.key]) <= set(seeds[run.paper, need]), "a student of each seed has its teacher"
    assert seeds["edkd", "cifar100/reviewkd"] == (0,), "no table shows it"


def test_other_budgets_have_the_seeds_that_they_name():
    for name in ("small", "trial", "smoke"):
        assert set(seeds_of(RUNS, TABLES, load_budget(name)).values()) == {load_budget(name).seeds}


# -------------------------------------------------------------------------------------------------- released networks


def test_released_networks_take_the_place_of_their_runs(tmp_path):
    teacher = PlannedRun("edkd", "teacher", ("tools/train.py",), "cifar100", released=tmp_path / "net.pth")
    student = PlannedRun("edkd", "student", ("tools/train.py",), "cifar100", depends_on=("teacher",))
    assert with_released([teacher, student]) == ([teacher, student], [])
    teacher.released.touch()
    runs, replaced = with_released([teacher, student])
    assert replaced == [teacher]
    assert [run.depends_on for run in runs] == [(), ()]


def test_released_teachers_are_looked_for_where_the_scripts_look():
    from edkd.engine.teachers import PUBLISHED
    from mtkd_rl.setting import teacher_model_path_dict

    released = {run.key: run.released.relative_to(REPOSITORY / run.paper) for run in RUNS if run.released}
    teachers = {need for run in RUNS if is_training_of_edkd(run) for need in run.depends_on}
    assert {experiment for paper, experiment in released if paper == "edkd"} == teachers
    for (paper, experiment), file in released.items():
        name = experiment.split()[-1]
        if paper == "edkd":
            assert file == Path(PUBLISHED["cifar100"].format(name=name))
        else:
            assert file == Path("checkpoint", teacher_model_path_dict[name].format(dataset="cifar100"))


# ---------------------------------------------------------------------------------------------------------- selection


def test_selection_takes_what_the_chosen_runs_need():
    chosen = select(RUNS, TABLES, table_patterns=["tfkd/reg"], cell_patterns=["* resnet18 normal KD [[]resnet50]"])
    assert [run.experiment for run in chosen] == [
        "base_experiments/base_resnet50",
        "kd_experiments/resnet18_distill/resnet50_teacher",
    ]
    assert select(RUNS, TABLES, cell_patterns=["tfkd/reg | resnet18 | normal KD [resnet50]"]) == chosen, (
        "as it is printed"
    )
    assert len(select(RUNS, TABLES)) == len(RUNS)
    assert len(select(RUNS, TABLES, table_patterns=["tfkd/base*"])) == 7
    assert len(select(RUNS, TABLES, cell_patterns=["base_experiments/base_resnet18"])) == 1


def test_what_a_budget_leaves_out_can_be_asked_for():
    left_out = ["edkd tools/train.py cifar100/kd/*"]
    assert "cifar100/kd/res56_res20" not in {run.experiment for run in select(RUNS, TABLES, left_out=left_out)}
    asked = select(RUNS, TABLES, cell_patterns=["cifar100/kd/res56_res20"], left_out=left_out)
    assert [run.experiment for run in asked] == [
        "cifar100/vanilla DISTILLER.STUDENT resnet56",
        "cifar100/kd/res56_res20",
    ]


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"papers": ["nobody"]}, "no paper 'nobody'"),
        ({"table_patterns": ["tfkd/none"]}, "no table 'tfkd/none'"),
        ({"cell_patterns": ["*efficientnet*"]}, "no experiment or cell answers to"),
        ({"table_patterns": ["tfkd/self"], "cell_patterns": ["* --pt_teacher"]}, "all of"),
    ],
)
def test_a_selection_that_nothing_answers_to(choice, complaint):
    with pytest.raises(UserError, match=complaint):
        select(RUNS, TABLES, **choice)


# --------------------------------------------------------------------------------------------------------- plan files


def write_plans(root: Path, **plans: dict) -> None:
    (root / "plan").mkdir()
    for name, plan in plans.items():
        (root / "plan" / f"{name}.json").write_text(json.dumps({"paper": "tfkd", "dataset": "cifar100", **plan}))


@pytest.mark.parametrize(
    ("runs", "complaint"),
    [
        ([{"experiment": "a", "command": "main.py"}, {"experiment": "a", "command": "main.py"}], "planned already"),
        (
            [{"experiment": "a", "command": "main.py", "depends_on": ["b"]}, {"experiment": "b", "command": "main.py"}],
            "'b'",
        ),
        ([{"experiment": "a", "command": "other.py"}], "other.py, which is not in tfkd/"),
        ([{"experiment": "a"}], "lacks the key 'command'"),
        ([{"experiment": "a", "command": "main.py", "needs": ["b"]}], "has the unknown key 'needs'"),
        ([{"experiment": "a", "command": "main.py --model_dir /tmp/a"}], "outside the repository: /tmp/a"),
        ([{"experiment": "a", "command": "main.py --model_dir ../a"}], "outside the repository: ../a"),
    ],
)
def test_plans_that_cannot_work(tmp_path: Path, runs, complaint):
    write_plans(tmp_path, tfkd={"runs": runs, "parameters": "--model_dir"})
    with pytest.raises(UserError, match=complaint):
        load_plan(tmp_path)


def test_another_file_adds_runs_to_a_paper(tmp_path):
    """It comes after the paper's own, whatever its name, and need not repeat what that says."""
    own = {"runs": [{"experiment": "a", "command": "main.py"}], "networks": ["*.pth"], "parameters": "--model_dir"}
    write_plans(tmp_path, tfkd=own)
    added = {"experiment": "b", "command": "main.py --model_dir experiments/b", "depends_on": ["a"]}
    (tmp_path / "plan" / "a_mine.json").write_text(json.dumps({"paper": "tfkd", "runs": [added]}))
    first, second = load_plan(tmp_path)
    assert (first.experiment, first.needed, second.experiment, second.needed) == ("a", True, "b", False)
    assert (second.dataset, second.networks, second.parameters) == ("cifar100", ("*.pth",), "experiments/b")


def test_the_plan_imports_no_pytorch():
    """Its start must not take seconds."""
    import subprocess
    import sys

    code = "import sys, common.plan.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
