"""A task's workspace: what is put into it, how a run is found in it again, and what is taken out of it."""

import json
from pathlib import Path

import pytest

from common.command_line import REPOSITORY
from common.plan.budgets import Budget
from common.plan.plan import PlannedRun, load_plan
from common.plan.tasks import State, Task, read_records, states

BUDGET = Budget("any", "", generated=False, keep_networks=False, flags={"stub a.py *": ["-x"]})


def make(root: Path, experiment: str = "net", needs: tuple[Task, ...] = (), **options) -> Task:
    run = PlannedRun("stub", experiment, ("a.py", "--deep"), "cifar100", **options)
    return Task(run, 1, BUDGET, needs, root / "stub", root / "data", None)


def record(task: Task, place: str, status: str = "done", *, started: str = "2026-01-01", **changes) -> Path:
    """What the script would write."""
    directory = task.home / place
    directory.mkdir(parents=True)
    content = {"experiment": task.run.experiment, "command": ["a.py", *task.arguments], "status": status}
    (directory / "run.json").write_text(json.dumps({**content, "started": started, **changes}))
    return directory


def test_flags_come_in_order_and_evaluations_do_not_resume(tmp_path):
    task = make(tmp_path, flags=("-p",))
    assert task.arguments == ["--deep", "-p", "-x", "--seed", "1"]
    assert task.command[-3:] == ["--data-dir", str(tmp_path / "data"), "--resume"]
    assert task.command[1] == str(REPOSITORY / "stub" / "a.py")
    assert "--resume" not in make(tmp_path, trains=False).command


@pytest.mark.parametrize(
    ("status", "changes", "state"),
    [
        ("done", {}, State.DONE),
        ("stopped", {}, State.BROKEN),
        ("running", {}, State.BROKEN),
        ("done", {"command": ["a.py", "--deep", "-x", "--seed", "2"]}, State.STALE),
        ("done", {"experiment": "other"}, State.TO_DO),
    ],
)
def test_a_run_is_found_wherever_its_script_wrote_it(tmp_path, status, changes, state):
    task = make(tmp_path)
    assert task.state() is State.TO_DO
    record(task, "deep/in/the_tree", status, **changes)
    assert task.state() is state
    assert states([task]) == {task: state}


def test_a_finished_run_counts_before_newer_ones_that_are_not(tmp_path):
    task = make(tmp_path)
    done = record(task, "first", started="2026-01-01")
    record(task, "second", "failed", started="2026-01-02")
    assert task.record().directory == done
    newer = record(task, "third", started="2026-01-03")
    assert task.record().directory == newer


def test_damaged_records_and_links_are_passed_by(tmp_path):
    task = make(tmp_path)
    directory = record(task, "run")
    (task.home / "again").symlink_to(directory)
    for i, text in enumerate(("", "[]", "3", '{"status": "done"}')):
        (task.home / str(i)).mkdir()
        (task.home / str(i) / "run.json").write_text(text)
    assert {key: found.directory for key, found in read_records(task.home).items()} == {"net": directory}


def test_a_change_of_a_record_is_seen(tmp_path):
    task = make(tmp_path)
    file = record(task, "run", "running") / "run.json"
    assert task.state() is State.BROKEN
    file.write_text(file.read_text().replace("running", "done   ").replace("done   ", "done"))
    assert task.state() is State.DONE


def test_needs_are_linked_to_their_places(tmp_path):
    teacher = make(tmp_path, "teacher", places=("output/teacher", "models/best.pth"))
    directory = record(teacher, "models/t_1")
    (directory / "weights").write_text("w")
    directory.with_name("t_1.pth").write_text("exported")
    for variant in ("", "apart"):
        student = make(tmp_path, "student", (teacher,), variant=variant)
        student.prepare()
        assert (student.workspace / "output/teacher/weights").read_text() == "w"
        assert (student.workspace / "models/best.pth").read_text() == "exported"
        student.prepare()
    assert student.workspace == tmp_path / "stub/with_apart"


def test_a_dangling_link_is_made_anew(tmp_path):
    teacher = make(tmp_path, "teacher", places=("teacher",))
    student = make(tmp_path, "student", (teacher,))
    student.home.mkdir()
    (student.home / "teacher").symlink_to("gone")
    directory = record(teacher, "now_here")
    student.prepare()
    assert (student.home / "teacher").resolve() == directory.resolve()


def test_a_copied_file_is_the_workspace_s_own(tmp_path):
    task = make(tmp_path, copies=(("config.json", "experiments/budgets.json"),))
    task.prepare()
    copy = task.workspace / "config.json"
    assert copy.read_bytes() == (REPOSITORY / "experiments/budgets.json").read_bytes()
    copy.write_text("changed")
    task.prepare()
    assert copy.read_text() == "changed"


@pytest.mark.parametrize(("needed", "left"), [(True, {"net.pth"}), (False, set())])
def test_networks_go_unless_another_run_needs_them(tmp_path, needed, left):
    task = make(tmp_path, needed=needed, networks=("*.pth",), leftovers=("last.pth",))
    directory = record(task, "run")
    for name in ("net.pth", "last.pth"):
        (directory / name).touch()
    task.finish()
    assert {file.name for file in directory.iterdir()} == {"run.json", *left}


def test_a_command_without_a_record_is_done_when_it_has_ended_well(tmp_path):
    task = make(tmp_path, "evaluate net", trains=False)
    task.prepare()
    assert task.state() is State.TO_DO
    task.finish()
    assert task.state() is State.DONE
    assert make(tmp_path, "evaluate net", trains=False, flags=("-other",)).state() is State.TO_DO


def test_logs_of_different_runs_are_different_files(tmp_path):
    runs = load_plan()
    logs = {Task(run, 0, BUDGET, (), tmp_path / run.paper, tmp_path, None).log for run in runs}
    assert len(logs) == len(runs)
    assert {log.parent.relative_to(tmp_path).as_posix() for log in logs} == {f"{run.paper}/logs" for run in runs}
