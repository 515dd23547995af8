"""The runner with real processes of a small stand-in script: order, failures, skipping, resuming, stopping."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.command_line import REPOSITORY
from common.plan.progress import last_line

SCRIPT = Path(__file__).with_name("stub_main.py")


class Plan:
    """A plan of four runs: a teacher, its student, the same student with a flag, and a run on its own."""

    def __init__(self, root: Path) -> None:
        self.root, self.experiments = root, root / "experiments"
        (root / "data" / "generated" / "cifar-100-python").mkdir(parents=True)
        (self.experiments / "plan").mkdir(parents=True)
        student = {"depends_on": ["base/teacher"], "command": f"{SCRIPT} --model_dir experiments/kd/student/"}
        runs = [
            {"experiment": "base/teacher", "command": f"{SCRIPT} --model_dir experiments/base/teacher/"},
            {"experiment": "kd/student", **student},
            {"experiment": "kd/student --smooth", **student, "command": student["command"] + " --smooth"},
            {"experiment": "base/alone", "command": f"{SCRIPT} --model_dir experiments/base/alone/"},
        ]
        figures = [["teacher", {"value": 70.0}], ["student", {"value": 71.0}], ["smooth", {"value": 72.0}]]
        cells = {"teacher": ["base/teacher"], "student": ["kd/student"], "smooth": ["kd/student --smooth"]}
        plan = {"paper": "stub", "dataset": "cifar100", "parameters": "--model_dir", "networks": ["*.pth.tar"]}
        link_paths = {"base/teacher": "experiments/teachers/best"}
        plan |= {"link_paths": link_paths, "runs": runs, "cells": {"stub/table": cells}}
        table = {"id": "stub/table", "paper": "stub", "title": "A table", "columns": ["accuracy"], "rows": figures}
        table |= {"dataset": "any", "metric": "accuracy", "source": "nobody", "note": ""}
        budget = {"description": "tiny", "data": "generated", "flags": {"stub *": ["--epochs", "3"]}}
        self._write("plan/stub.json", plan)
        self._write("reported.json", {"tables": [table]})
        self._write("budgets.json", {"smoke": {**budget, "jobs": 2, "params": {"stub * kd/*": {"batch_size": 4}}}})
        self.set("base/teacher")
        self.set("kd/student", teacher="teachers/best")
        self.set("base/alone")

    def _write(self, name: str, content: object) -> None:
        file = self.experiments / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))

    def set(self, directory: str, **params: object) -> None:
        self._write(f"{directory}/params.json", {"batch_size": 128, **params})

    def set_plan(self, **changes: object) -> None:
        plan = json.loads((self.experiments / "plan/stub.json").read_text())
        self._write("plan/stub.json", {**plan, **changes})

    def set_budget(self, **changes: object) -> None:
        budgets = json.loads((self.experiments / "budgets.json").read_text())
        self._write("budgets.json", {"smoke": {**budgets["smoke"], **changes}})

    def start(self, *arguments: str) -> subprocess.Popen:
        where = ["--experiments", self.experiments, "--output", self.root / "out", "--data-dir", self.root / "data"]
        command = [sys.executable, "-m", "common.plan", "--budget", "smoke", *where, *arguments]
        return subprocess.Popen(
            command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=self.environment()
        )

    def environment(self) -> dict[str, str]:
        return {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    def workspace(self, seed: int = 0) -> Path:
        return self.root / "out" / "smoke" / f"seed_{seed}" / "stub"

    def tables(self) -> str:
        return (self.root / "out" / "smoke" / "tables.md").read_text()

    def calls(self, directory: str) -> int:
        file = self.workspace() / directory / "calls.txt"
        return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.fixture
def plan(tmp_path):
    return Plan(tmp_path)


TEACHER, STUDENT, ALONE = "experiments/base/teacher", "experiments/kd/student", "experiments/base/alone"
SMOOTH = "with_smooth/experiments/kd/student/smooth"


@pytest.mark.slow
def test_everything_runs_once_in_workspaces_of_its_own(plan):
    code, output = plan.run("--seeds", "0,2")
    assert code == 0, output
    assert "8 of 8 runs done" in output
    assert [plan.calls(d) for d in (TEACHER, STUDENT, SMOOTH, ALONE)] == [1, 1, 1, 1]
    assert not (plan.workspace() / STUDENT / "smooth").exists(), "a run with flags does not write to the plain run"
    tables = plan.tables()
    assert tables in output
    assert "| student |     71.00 | 12.50 ± 0.00 † | 12.25 ± 1.41 † |" in tables
    assert "| stub  | base/alone | Stub   |" in tables
    params = json.loads((plan.workspace() / STUDENT / "params.json").read_text())
    assert params == {"batch_size": 4, "teacher": "teachers/best"}, "the budget overrides, and nothing else"

    code, output = plan.run("--seeds", "0,2")
    assert code == 0
    assert "started" not in output
    assert [plan.calls(d) for d in (TEACHER, STUDENT, SMOOTH, ALONE)] == [1, 1, 1, 1]
    assert plan.tables() == tables
    assert "kd/student" in (plan.root / "out" / "index.html").read_text()


@pytest.mark.slow
def test_failures_are_passed_by_and_listed_with_what_they_block(plan):
    plan.set("base/teacher", fails=True)
    code, output = plan.run()
    assert code == 1
    assert "1 of 4 runs done" in output
    end = output[output.rindex("by hand: ") :]
    assert "FAILED stub base/teacher (seed 0): exit code 2: error: it went wrong" in end
    assert f"log: {plan.workspace() / 'logs' / 'base_teacher.log'}" in end
    assert "BLOCKED stub kd/student (seed 0): needs stub base/teacher (seed 0)" in end
    assert "BLOCKED stub kd/student --smooth (seed 0)" in end

    plan.set("base/teacher")
    code, output = plan.run()
    assert code == 0, output
    assert [plan.calls(d) for d in (TEACHER, STUDENT, ALONE)] == [2, 1, 1], "only what was not done is run again"
    assert "resuming" in (plan.workspace() / "logs" / "base_teacher.log").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_at_any_time_and_started_again(plan, number, tmp_path):
    plan.set("base/alone", sleep=60)
    process = plan.start("--jobs", "2")
    deadline = time.monotonic() + 30
    while plan.calls(SMOOTH) + plan.calls(ALONE) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(number)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "the same command resumes from here" in output
    record = json.loads((plan.workspace() / ALONE / "run.json").read_text())
    assert record["status"] == "stopped", "the child was told to stop, and had time to write it down"

    plan.set("base/alone")
    code, output = plan.run()
    assert code == 0, output
    assert "4 of 4 runs done" in output
    assert [plan.calls(d) for d in (TEACHER, ALONE)] == [1, 2]
    assert plan.tables() == undisturbed_tables(tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_killed_and_started_again_it_ends_with_the_same_table(plan, tmp_path):
    plan.set("base/alone", sleep=60, deaf=True)
    process = plan.start("--jobs", "2")
    deadline = time.monotonic() + 30
    while plan.calls(SMOOTH) + plan.calls(ALONE) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.kill()
    os.kill(int((plan.workspace() / ALONE / "pid.txt").read_text()), signal.SIGKILL)
    process.communicate(timeout=300)
    assert json.loads((plan.workspace() / ALONE / "run.json").read_text())["status"] == "running"

    plan.set("base/alone")
    code, output = plan.run()
    assert code == 0, output
    assert plan.calls(ALONE) == 2
    assert plan.tables() == undisturbed_tables(tmp_path)


def undisturbed_tables(root: Path) -> str:
    plan = Plan(root / "undisturbed")
    assert plan.run()[0] == 0
    return plan.tables()


def test_a_second_ctrl_c_ends_what_does_not_stop(plan):
    plan.set("base/alone", sleep=60, deaf=True)
    process = plan.start("--cells", "base/alone")
    deadline = time.monotonic() + 30
    while "deaf" not in last_line(plan.workspace() / "logs" / "base_alone.log") and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None, "it waits for the run"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=300)
    assert process.returncode == 130


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_killed_runner_takes_its_children_along(plan):
    plan.set("base/alone", sleep=60)
    process = plan.start("--cells", "base/alone")
    record = plan.workspace() / ALONE / "run.json"
    deadline = time.monotonic() + 30
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=300)
    while json.loads(record.read_text() or "{}").get("status") != "stopped":
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_results_of_other_flags_are_never_taken_for_these(plan):
    plan.run("--cells", "base/teacher")
    plan.set_budget(flags={"stub *": ["--epochs", "5"]})
    code, output = plan.run("--cells", "base/teacher")
    assert code == 1
    assert (
        f"done with other flags, parameters or code of your own: remove {plan.workspace() / TEACHER} to run it again"
        in output
    )


def test_jobs_share_the_cores(plan):
    code, _ = plan.run("--jobs", "1", "--cells", "base/alone")
    assert code == 0
    cores = len(os.sched_getaffinity(0))
    assert (plan.workspace() / ALONE / "calls.txt").read_text() == f"{cores}\n"


@pytest.mark.slow
def test_networks_are_deleted_once_nobody_needs_them_and_made_again_for_whoever_does(plan):
    plan.set_budget(keep_networks=False)
    teacher = plan.workspace() / TEACHER
    assert plan.run("--cells", "base/*")[0] == 0
    assert not list(plan.workspace().rglob("network.pth.tar"))
    assert plan.calls(TEACHER) == 1
    code, output = plan.run("--cells", "kd/student")
    assert code == 0, output
    assert plan.calls(TEACHER) == 2, "for its student"
    assert not (teacher / "network.pth.tar").exists()
    code, output = plan.run("--cells", "kd/student")
    assert (code, plan.calls(TEACHER), plan.calls(STUDENT)) == (0, 2, 1)


def test_dry_run_says_what_is_there_and_writes_nothing(plan):
    (plan.root / "data" / "generated" / "cifar-100-python").rmdir()
    code, output = plan.run("--dry-run", "--cells", "kd/student")
    assert code == 0
    assert "[1/2] stub base/teacher (seed 0): to do\n" in output
    assert "[2/2] stub kd/student (seed 0): to do, waits for base/teacher\n" in output
    command = f"stub_main.py --model_dir experiments/kd/student/ --epochs 3 --seed 0 --data-dir {plan.root}/data/gen"
    assert command in output
    assert "missing data: cifar100" in output
    assert "missing teachers (the plan trains them): stub: teacher\n" in output
    assert "missing students" not in output
    assert not (plan.root / "out").exists()


def test_dry_run_names_the_published_cells(plan):
    code, output = plan.run("--dry-run", "--cells", "kd/student")
    assert code == 0
    assert "published cells that these runs give: 2 of 3\n" in output
    assert "  stub/table | teacher | accuracy: base/teacher\n  stub/table | student | accuracy: kd/student\n" in output
    assert "smooth | accuracy" not in output


def test_a_released_network_takes_the_place_of_its_run(plan):
    file = plan.root / "net.pth"
    plan.set_plan(released={"base/teacher": str(file)})
    plan.set_budget(data="published")
    assert "[1/4] stub base/teacher" in plan.run("--dry-run")[1]
    file.touch()
    code, output = plan.run("--dry-run")
    assert code == 0
    assert f"published network in place of stub base/teacher: {file}\n" in output
    assert "[1/3] stub kd/student (seed 0): to do\n" in output, "it waits for nobody"
    assert "missing teachers" not in output
    assert "[1/1] stub base/teacher" in plan.run("--dry-run", "--cells", "base/teacher")[1], "it can be asked for"
    plan.set_budget(data="generated")
    assert "[1/4] stub base/teacher" in plan.run("--dry-run")[1], "it knows the real data alone"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--budget", "huge"], "no budget 'huge': give one of smoke"),
        (["--papers", "nobody"], "no paper 'nobody' in the plan: give one of stub"),
        (["--tables", "stub/other"], "no table 'stub/other' in the plan: give one of stub/table"),
        (["--cells", "*nothing*"], "no experiment or cell answers to '*nothing*'"),
        (["--seeds", "0,x"], "argument --seeds"),
        (["--seeds", "1,1"], "different seeds"),
        (["--jobs", "0"], "not a positive number"),
    ],
)
def test_bad_input_is_one_line(plan, arguments, complaint):
    code, output = plan.run(*arguments)
    assert code == 2
    assert output.startswith("error: ")
    assert complaint in output
    assert len(output.splitlines()) == 1


def test_without_ray_it_says_what_to_install():
    code = (
        "import sys; sys.modules['ray'] = None; sys.argv = ['plan', '--budget', 'smoke', '--cluster', 'auto'];"
        "import common.plan.__main__ as plan; plan.main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "--cluster needs Ray: pip install '.[cluster]'" in ended.stderr


@pytest.mark.slow
def test_real_runs_on_the_generated_set(tmp_path):
    """Teacher, self-training and regularization of the small network through the paper's own script."""
    from common.data.synthetic import write_generated

    experiments, published = tmp_path / "experiments", REPOSITORY / "experiments"
    base, student = "base_experiments/base_cnn_low_rate", "kd_experiments/cnn_distill/cnn_self_teacher"
    for directory in (base, student):
        (experiments / directory).mkdir(parents=True)
        (experiments / directory / "params.json").write_bytes((published / directory / "params.json").read_bytes())
    command = "main.py --model_dir experiments/"
    plan = {
        "paper": "tfkd",
        "networks": ["*.pth.tar"],
        "parameters": "--model_dir",
        "dataset": "cifar100",
        "link_paths": {base: "experiments/pretrained_teacher_models/base_cnn"},
        "runs": [
            {"experiment": base, "command": f"{command}{base}/"},
            {"experiment": f"{base} --regularization", "command": f"{command}{base}/ --regularization"},
            {
                "experiment": f"{student} --self_training",
                "command": f"{command}{student}/ --self_training",
                "depends_on": [base],
            },
        ],
        "cells": {},
    }
    (experiments / "plan").mkdir()
    (experiments / "plan" / "tfkd.json").write_text(json.dumps(plan))
    for name in ("reported.json", "budgets.json"):
        (experiments / name).write_bytes((published / name).read_bytes())
    write_generated(tmp_path / "data" / "generated", train_per_class=2, test_per_class=1)
    where = ["--experiments", experiments, "--output", tmp_path / "out", "--data-dir", tmp_path / "data"]
    result = subprocess.run(
        [sys.executable, "-m", "common.plan", "--budget", "smoke", *where],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 of 3 runs done" in result.stdout
    for name in ("base_cnn_low_rate  ", "base_cnn_low_rate --regularization", "cnn_self_teacher --self_training"):
        assert name in result.stdout
