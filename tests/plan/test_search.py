"""Searches over hyperparameters: what is tried, that trials are blind to the test split, and what is made of them."""

import json
import math
import subprocess
import sys

import pytest

from common.errors import UserError
from common.plan import __main__ as script
from common.plan.executors import ExecutorGoneError
from common.plan.plan import PlannedRun
from common.plan.sweep import Axis, Grid, equal_trials, parse_axes, parse_axis, rungs
from tests.plan.test_runner import ALONE, Plan

SWEEPS = "out/smoke/sweeps"


@pytest.fixture
def plan(tmp_path):
    made = Plan(tmp_path)
    made.set("base/alone", alpha=1, beta=1)
    made.set("kd/student", alpha=1, beta=1, teacher="teachers/best")
    return made


def grid(name: str, *axes: Axis) -> Grid:
    run = PlannedRun("stub", name, ("main.py",), "cifar100")
    return Grid(run, axes, {axis.key: 2 for axis in axes})


def test_a_flag_and_a_key_of_its_name_are_two():
    assert [axis.key for axis in parse_axes(["alpha=1,2", "--alpha=1,2"])] == ["alpha", "--alpha"]


def test_axes():
    assert parse_axis("KD.TEMPERATURE=2, 4,8") == Axis("KD.TEMPERATURE", ("2", "4", "8"))
    assert parse_axis("--kd-T=4") == Axis("--kd-T", ("4",))
    assert parse_axis("STAGES=[1,2],(3,4), 5").values == ("[1,2]", "(3,4)", "5")
    interval = parse_axis("alpha=0.01:10:log")
    assert (interval.key, interval.low, interval.high, interval.is_logarithmic) == ("alpha", 0.01, 10, True)


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["KD.TEMPERATURE="], "the grid is empty"),
        (["KD.TEMPERATURE"], "give KEY=VALUE"),
        (["=2"], "give KEY=VALUE"),
        (["a=1,,2"], "a value is empty or stands twice"),
        (["a=1,1"], "a value is empty or stands twice"),
        (["a=1", "a=2"], "the key a is given twice"),
        (["--a-b=1", "--a_b=2"], "the key --a_b is given twice"),
        (["a=4,4.0"], "a value is empty or stands twice"),
        (["a=2:1"], "an interval is LOW:HIGH"),
        (["a=0:1:log"], "an interval is LOW:HIGH"),
        (["a=x:y"], "an interval is LOW:HIGH"),
        (["a=-1e308:1e308"], "an interval is LOW:HIGH"),
        (["a=-1e400:1"], "an interval is LOW:HIGH"),
    ],
)
def test_bad_axes(texts, words):
    with pytest.raises(UserError, match=words):
        parse_axes(texts)


def test_grids_are_tried_whole_and_in_order():
    both = grid("a", parse_axis("x=1,2"), parse_axis("y=3,4"))
    assert both.combinations() == [(("x", x), ("y", y)) for x in "12" for y in "34"]
    assert both.is_published((("x", "2"), ("y", "2.0")))
    assert not both.is_published((("x", "2"), ("y", "4")))


def test_methods_get_as_many_trials():
    """The larger grid is drawn from, the same each time."""
    small, large = grid("small", parse_axis("x=1,2,4")), grid("large", parse_axis("y=1,2,3,4,5"))
    trials = equal_trials([small, large], None, seed=0)
    assert trials == equal_trials([small, large], None, seed=0)
    assert {key: len(found) for key, found in trials.items()} == {small.run.key: 3, large.run.key: 3}
    assert trials[small.run.key] == small.combinations()
    assert set(trials[large.run.key]) < set(large.combinations())
    assert len(set(equal_trials([small, large], 2, seed=0)[large.run.key])) == 2
    with pytest.raises(UserError, match="the smallest grid has 3"):
        equal_trials([small, large], 4, seed=0)


def test_of_large_grids_some_are_drawn_in_their_order():
    values = ",".join(map(str, range(3000)))
    large = grid("a", *(parse_axis(f"{key}={values}") for key in "xyz"))
    found = equal_trials([large], 4, seed=0)[large.run.key]
    assert found == equal_trials([large], 4, seed=0)[large.run.key]
    numbers = [tuple(int(value) for _, value in combination) for combination in found]
    assert len(set(numbers)) == 4
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("axes", "count", "words"),
    [
        (["x=1:2"], 1_000_000, "--trials 1000000: 10000 at most"),
        (["x=1:2"], 5000, "so many different combinations of a cannot be drawn"),
        (
            [f"{key}={','.join(map(str, range(3000)))}" for key in "xyz"],
            None,
            "has 27000000000 combinations: say how many",
        ),
    ],
)
def test_more_trials_than_anybody_waits_for(axes, count, words):
    with pytest.raises(UserError, match=words):
        equal_trials([grid("a", *map(parse_axis, axes))], count, seed=0)


def test_intervals_are_drawn_from():
    interval = grid("a", parse_axis("x=0.1:10:log"), parse_axis("y=1,2"))
    drawn = equal_trials([interval], 20, seed=0)[interval.run.key]
    values = [float(dict(combination)["x"]) for combination in drawn]
    assert len(set(drawn)) == 20
    assert all(0.1 <= value <= 10 for value in values)
    assert 4 < sum(value < 1 for value in values) < 16, "by the logarithm"
    with pytest.raises(UserError, match="say how often"):
        equal_trials([interval], None, seed=0)


def test_rungs():
    assert rungs(240, None) == [240]
    assert rungs(27, 3) == [1, 3, 9, 27]
    assert rungs(20, 2) == [1, 2, 5, 10, 20]
    with pytest.raises(UserError, match="no earlier epoch"):
        rungs(2, 3)


@pytest.mark.slow
def test_chosen_by_validation_alone_and_tested_beside_the_published_values(plan):
    arguments = ["--sweep", "alpha=0,1,2", "--cells", "base/alone", "--cells", "kd/student", "--seeds", "0,1"]
    arguments += ["--metrics", "agreement,ece"]
    code, output = plan.run(*arguments)
    assert code == 0, output
    assert "chosen by validation: base/alone: alpha 2" in output, "the test split, which nobody looked at, has it worse"
    root = plan.root / SWEEPS / "base_alone"
    for alpha in "012":
        run = json.loads((root / f"trial/alpha={alpha}/stub" / ALONE / "run.json").read_text())
        assert run["accuracy"] is None
        assert {"--no-test", "--val-fraction", "0.1"} <= set(run["command"])
        params = json.loads((root / f"trial/alpha={alpha}/stub" / ALONE / "params.json").read_text())
        assert (params["alpha"], params["beta"]) == (int(alpha), 1)
    for place, alpha in (("published", 1), ("alpha=2", 2)):
        for seed in (0, 1):
            run = json.loads((root / f"tested/{place}/seed_{seed}/stub" / ALONE / "run.json").read_text())
            assert not {"--no-test", "--val-fraction"} & set(run["command"])
            assert run["accuracy"]["last"] == 11.25 + seed - alpha
    tables = (plan.root / SWEEPS / "tables.md").read_text()
    assert tables in output
    assert "| base/alone | 3      | alpha 2 |" in tables
    assert "| 52.00 | 10.75 ± 0.71 | 9.75 ± 0.71 | -1.00 (-1.00 to -1.00) |" in " ".join(tables.split())
    assert "| base/alone | as published | 81.00 ± 0.00 | – |" in " ".join(tables.split())
    assert "| base/alone | tuned | 82.00 ± 0.00 | – |" in " ".join(tables.split())
    assert "| base/alone − kd/student | +0.00 | +0.00 | +0.00 |" in " ".join(tables.split())

    code, output = plan.run(*arguments)
    assert (code, "started" in output) == (0, False), "everything is there already"
    code, output = plan.run(*[a.replace("0,1,2", "0,1,2,3") for a in arguments])
    assert code == 0
    assert output.count("started") == 2 * (1 + 2), "a larger grid: one trial, and its test, of each"


def test_what_is_chosen_is_the_published_setting(plan):
    code, output = plan.run("--sweep", "alpha=0,1", "--cells", "base/alone")
    assert code == 0, output
    assert "alpha 1 (as published)" in output
    assert "0, the same runs" in output
    assert not (plan.root / SWEEPS / "base_alone/tested/alpha=1").exists()


@pytest.mark.slow
def test_trials_of_which_one_fails(plan):
    plan.set("base/alone", alpha=1, fails=False)
    code, output = plan.run("--sweep", "fails=1,0", "--sweep", "alpha=0,3", "--cells", "base/alone")
    assert code == 1
    assert "FAILED stub base/alone: trial fails 1, alpha 0" in output
    assert "chosen by validation: base/alone: fails 0, alpha 3" in output
    assert "| fails 1, alpha 3 | failed | – | |" in " ".join(output.split())


@pytest.mark.slow
def test_successive_halving_compares_early_and_goes_on_with_the_best(plan):
    """Three epochs, factor 3: all after one epoch, the best of them to the end; a late loss is not seen in between."""
    code, output = plan.run("--sweep", "alpha=0,1,2", "--halving", "3", "--cells", "base/alone")
    assert code == 0, output
    root = plan.root / SWEEPS / "base_alone/trial"
    found = {a: json.loads((root / f"alpha={a}/stub" / ALONE / "run.json").read_text()) for a in "012"}
    assert [(run["status"], run["epochs_done"]) for run in found.values()] == [("stopped", 1)] * 2 + [("done", 3)]
    lines = [" ".join(line.split()) for line in output.splitlines()]
    assert "| alpha 2 | 52.00 | 3 | chosen |" in lines
    assert "| alpha 0 | 50.00 | 1 | |" in lines


@pytest.mark.slow
def test_trials_that_have_gone_on_are_compared_by_what_they_were(plan):
    """A search that is repeated finds the best of its first rung trained to the end, where it is worse than others."""
    plan.set("base/alone", alpha=1, late=5)
    plan.set_budget(keep_networks=False)
    search = ["--halving", "3", "--cells", "base/alone"]
    for values, started in (("0,1,2", True), ("0,1,2", False), ("0,1,2,0.5", True)):
        code, output = plan.run("--sweep", f"alpha={values}", *search)
        assert (code, "started" in output) == (0, started), output
        assert "chosen by validation: base/alone: alpha 2" in output
        assert "| 47.00 | 3 | chosen |" in " ".join(output.split())
    log = (plan.root / SWEEPS / "base_alone/trial/alpha=2/stub/logs/base_alone.log").read_text()
    assert log.count("resuming") == 1, "the network that it goes on from is not deleted between the rungs"


@pytest.mark.slow
def test_teachers_are_trained_once_for_all_rounds_of_a_search(plan):
    """Also under a budget that deletes networks, which it does in the end."""
    plan.set_budget(keep_networks=False)
    code, output = plan.run("--sweep", "alpha=0,2", "--halving", "2", "--cells", "kd/student", "--seeds", "0,1")
    assert code == 0, output
    for seed in (0, 1):
        teacher = plan.workspace(seed) / "experiments/base/teacher"
        assert len((teacher / "calls.txt").read_text().splitlines()) == 1
        assert not list(teacher.glob("*.pth.tar"))


class Gone:
    """An executor of a cluster that has died."""

    jobs, restarts = 1, 0

    def start(self, task):
        raise ExecutorGoneError("nobody answers any more")


def test_a_cluster_that_dies_leaves_no_table_of_trials_that_failed(plan, monkeypatch, capsys):
    where = ["--experiments", plan.experiments, "--output", plan.root / "out", "--data-dir", plan.root / "data"]
    search = ["--budget", "smoke", "--sweep", "alpha=1,2", "--cells", "base/alone", *map(str, where)]
    monkeypatch.setattr(sys, "argv", ["plan", *search])
    monkeypatch.setattr(script, "make_executor", lambda args, budget: Gone())
    with pytest.raises(SystemExit, match="1"):
        script.main()
    assert " s; nobody answers any more: the same command resumes from here" in capsys.readouterr().out
    assert not (plan.root / SWEEPS / "tables.md").exists()


@pytest.mark.slow
def test_dry_run_says_how_many_trials_and_does_nothing(plan):
    code, output = plan.run("--sweep", "alpha=0,1,2", "--cells", "kd/student", "--dry-run")
    assert code == 0
    assert "search: kd/student: 3 trials" in output
    assert "runs: 12 to do" in output, "three trials, three seeds of two settings, three teachers"
    assert "estimate of what remains" in output
    assert not (plan.root / "out").exists()
    for values, words in (
        ("0,1,2", "2 trials of 3, drawn at random, as many for each method\n"),
        ("0:1", "2 trials, drawn at random, as many for each method\n"),
    ):
        code, output = plan.run("--sweep", f"alpha={values}", "--trials", "2", "--cells", "kd/student", "--dry-run")
        assert (code, f"search: kd/student: {words}" in output) == (0, True)
    code, output = plan.run("--sweep", "alpha=0,1,2", "--cells", "kd/student", "--dry-run", "--halving", "3")
    assert code == 0
    assert "compared after 1, 3 epochs; one in 3 goes on" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sweep", "gamma=1,2", "--cells", "base/alone"], "none of the chosen runs has the key gamma"),
        (["--sweep", "alpha=", "--cells", "base/alone"], "the grid is empty"),
        (["--sweep", "alpha=1,2", "--seeds", "0", "--cells", "base/alone"], "one seed shows no spread"),
        (["--sweep", "alpha=1,2", "--cells", "base/*"], "base/teacher has none of the keys alpha"),
        (["--sweep", "alpha=1,2", "--trials", "3", "--cells", "base/alone"], "the smallest grid has 2"),
        (["--sweep", "alpha=1,-2", "--sweep", "beta=4,8", "--cells", "base/alone"], "trial alpha -2, beta 4"),
        (["--halving", "1", "--sweep", "alpha=1,2"], "keeps every trial"),
        (["--trials", "3"], "are for a search"),
        (["--sweep", "alpha=1,2", "--cells", "nowhere"], "no experiment or cell answers to 'nowhere'"),
    ],
)
def test_bad_input_is_one_line(plan, arguments, words):
    code, output = plan.run(*arguments, "--dry-run")
    assert code == 2
    assert words in output
    assert output.count("\n") == 1


def test_nothing_is_written_where_a_script_refuses_values(plan):
    code, output = plan.run("--sweep", "alpha=1,-1", "--cells", "base/alone")
    assert (code, output.count("\n")) == (2, 1)
    assert output.endswith("trial alpha -1 (seed 0): experiments/base/alone/params.json: alpha is negative\n")
    assert not (plan.root / "out").exists()


def test_the_spread_of_an_interval_is_finite():
    assert math.isinf(grid("a", parse_axis("x=0:1")).size)


TENTH = [sys.executable, "-m", "common.plan", "--budget", "tenth", "--seeds", "0,1", "--dry-run"]  # of the real plan
DISTILLED = "kd_experiments/mobilenet_v2_distill/resnet18_teacher"


@pytest.mark.slow
def test_a_key_may_be_a_flag_of_the_script():
    """The plans of all papers: keys of YAML files and of `params.json`, and flags."""
    searches = {
        "ShuffleV2 MTKD-RL": ("--kd-T=2,4", "--kd-T 2 --val-fraction 0.1 --no-test"),
        "cifar100/dkd/res56_res20": ("DKD.BETA=1,2", "DKD.BETA 1 --val-fraction 0.1 --no-test"),
        DISTILLED: ("alpha=0.1,0.9", "--val-fraction 0.1 --no-test"),
        "oxford-iiit ensemble": ("--temperature=1,10", "--temperature 1 --no-test"),
    }
    for cell, (sweep, words) in searches.items():
        ended = subprocess.run([*TENTH, "--sweep", sweep, "--cells", cell], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        assert f"search: {cell}: 2 trials" in ended.stdout
        assert words in ended.stdout


@pytest.mark.slow
def refusal(sweep: str, cell: str) -> str:
    """The one line that a search ends with before it has begun."""
    ended = subprocess.run([*TENTH, "--sweep", sweep, "--cells", cell], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    return ended.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "sweep", "words"),
    [
        ("cifar100/kd/res56_res20", "KD.TEMPERATURE=4,0", "KD.TEMPERATURE is 0.0, but must be positive"),
        ("cifar100/kd/res56_res20", "SOLVER.LR_DECAY_RATE=0.1,many", "'SOLVER.LR_DECAY_RATE' is 'many', not of type"),
        ("cifar100/kd/res56_res20", "SOLVER.LR_DECAY_STAGES=[9,18],[-1,18]", "[-1, 18], but must be at least 0"),
        (
            "cifar100/edkd/res32x4_res8x4 EDKD.FORM per_sample",
            "EDKD.FORM=config,odd",
            "EDKD.FORM is 'odd': one of code",
        ),
        (DISTILLED, "alpha=0.1,1.5", "params.json: 'alpha' is 1.5, but must be from 0 to 1"),
        (DISTILLED, "temperature=4,nan", "params.json"),
        ("ShuffleV2 MTKD-RL", "--milestones=10,-1", "argument --milestones: -1 is not a number from 0"),
        ("ShuffleV2 MTKD-RL", "--kd_T=2,4", "unrecognized arguments: --kd_T 2: did you mean '--kd-T'?"),
        ("oxford-iiit ensemble", "--alpha=0.5,2", "argument --alpha: 2 is not a number from 0 to 1"),
    ],
)
def test_values_that_a_script_refuses_are_one_line(cell, sweep, words):
    """Each by its script's own rules, before anything is trained."""
    assert words in refusal(sweep, cell)


@pytest.mark.parametrize(
    ("cell", "sweep", "words"),
    [
        (DISTILLED, "num_epochs=10,20", "num_epochs is what the budget tenth sets itself"),
        ("ShuffleV2 MTKD-RL", "--epochs=10,20", "--epochs is what the budget tenth sets itself"),
        ("cifar100/kd/res56_res20", "SOLVER.EPOCHS=10,20", "SOLVER.EPOCHS is what the budget tenth sets itself"),
        ("ShuffleV2 MTKD-RL", "kd_T=2,4", "none of the chosen runs has the key kd_T: did you mean '--kd_T'?"),
    ],
)
def test_keys_without_effect_are_one_line(cell, sweep, words):
    assert words in refusal(sweep, cell)
