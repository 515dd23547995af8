"""A task's workspace: what is put into it, how a run is found in it again, and what is taken out of it."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest

from common.command_line import REPOSITORY
from common.plan.budgets import Budget
from common.plan.plan import PlannedRun, load_plan, with_released
from common.plan.tasks import State, Task, make_tasks, read_records, states, teachers_together
from common.results.reported import EXPERIMENTS
from common.run_record import RunRecord
from tests.run_records import BUDGET as TRAINED
from tests.run_records import DATA

BUDGET = Budget("any", "", generated=False, keep_networks=False, flags={"stub a.py *": ["-x"]})


def make(root: Path, experiment: str = "net", depends_on: tuple[Task, ...] = (), **options) -> Task:
    run = PlannedRun("stub", experiment, ("a.py", "--deep"), "cifar100", **options)
    return Task(run, 1, BUDGET, depends_on, root / "stub", root / "data", None)


def record(task: Task, place: str, status: str = "done", *, started: str = "2026-01-01", **changes) -> Path:
    """What the script would write."""
    directory = task.home / place
    directory.mkdir(parents=True)
    what = {
        "paper": "stub",
        "experiment": task.run.experiment,
        "method": "m",
        "student": "s",
        "batch_size": 1,
        "seed": 1,
    }
    content = RunRecord(**what, settings={}, data=DATA, budget=TRAINED, command=["a.py", *task.arguments])
    content = {**content.to_json(), "status": status, "started": started, **changes}
    (directory / "run.json").write_text(json.dumps(content))
    return directory


def test_flags_come_in_order_and_evaluations_do_not_resume(tmp_path):
    task = make(tmp_path, flags=("-p",))
    assert task.arguments == ["--deep", "-p", "-x", "--seed", "1"]
    assert task.command[-4:] == ["--data-dir", str(tmp_path / "data"), "--resume", "--overwrite"]
    keeping = dataclasses.replace(task, budget=dataclasses.replace(BUDGET, keep_networks=True))
    assert keeping.command[-1] == "--resume", "its finished run has its networks"
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
    assert task.found().directory == done
    newer = record(task, "third", started="2026-01-03")
    assert task.found().directory == newer


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
    teacher = make(tmp_path, "teacher", link_paths=("output/teacher", "models/best.pth"))
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
    teacher = make(tmp_path, "teacher", link_paths=("teacher",))
    student = make(tmp_path, "student", (teacher,))
    student.home.mkdir()
    (student.home / "teacher").symlink_to("gone")
    directory = record(teacher, "now_here")
    student.prepare()
    assert (student.home / "teacher").resolve() == directory.resolve()


def test_a_copied_file_is_the_workspace_s_own(tmp_path):
    task = make(tmp_path, copy_files=(("config.json", "experiments/budgets.json"),))
    task.prepare()
    copy = task.workspace / "config.json"
    assert copy.read_bytes() == (REPOSITORY / "experiments/budgets.json").read_bytes()
    copy.write_text("changed")
    task.prepare()
    assert copy.read_text() == "changed"


def test_networks_go_when_no_task_needs_them_any_more(tmp_path):
    task = make(tmp_path, networks=("*.pth", "../{name}.pth", "../{name}_e_*.pth"), cleanup=("last.pth",))
    directory = record(task, "run[1]")
    exported = [directory.with_name(name) for name in ("run[1].pth", "run[1]_e_5.pth", "another.pth")]
    for file in (directory / "net.pth", directory / "last.pth", *exported):
        file.touch()
    task.finish()
    assert {file.name for file in directory.iterdir()} == {"run.json", "net.pth"}
    task.delete_networks()
    assert {file.name for file in directory.iterdir()} == {"run.json"}
    assert [file.exists() for file in exported] == [False, False, True]


def test_a_run_whose_networks_are_deleted_is_done_until_a_task_needs_them(tmp_path):
    teacher = make(tmp_path, "teacher", networks=("*.pth",))
    student = make(tmp_path, "student", (teacher,))
    network = record(teacher, "teacher") / "net.pth"
    assert states([teacher]) == {teacher: State.DONE}
    assert states([teacher, student]) == {teacher: State.BARE, student: State.TO_DO}
    network.touch()
    assert states([teacher, student]) == {teacher: State.DONE, student: State.TO_DO}
    network.unlink()
    record(student, "student")
    assert states([teacher, student]) == {teacher: State.DONE, student: State.DONE}


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


def test_those_that_share_a_teacher_follow_one_another(tmp_path):
    """All after what they need, whether it is trained here or published."""
    teachers = [make(tmp_path, name) for name in ("teacher a", "teacher b")]
    tasks = [*teachers, make(tmp_path, "alone")]
    for method in ("kd", "at", "dkd"):
        for teacher, name in zip(teachers, "ab", strict=True):
            tasks.append(make(tmp_path, f"{method} {name}", (teacher,)))
        tasks.append(make(tmp_path, f"{method} p", published_needs=("teacher p",)))
    ordered = [task.run.experiment for task in teachers_together(tasks)]
    assert ordered[:3] == ["teacher a", "teacher b", "alone"]
    assert ordered[3:] == [f"{method} {name}" for name in "abp" for method in ("kd", "at", "dkd")]


def test_the_plan_s_tasks_come_in_that_order(tmp_path):
    """Of several seeds with published teachers, which all share; and each after those that it needs."""
    runs, _ = with_released([dataclasses.replace(run, released=run.released and Path(__file__)) for run in load_plan()])
    chosen = [run for run in runs if run.paper == "edkd" and "res32x4" in run.experiment]
    places = {"output": tmp_path, "data": tmp_path, "experiments": EXPERIMENTS}
    tasks = make_tasks(chosen, {run.key: (0, 1) for run in chosen}, BUDGET, **places)
    assert len(tasks) == 2 * len(chosen)
    taught = [task.teachers for task in tasks]
    changes = sum(a != b for a, b in itertools.pairwise(taught))
    assert changes == len(set(taught)) - 1
    assert ("edkd", "cifar100/vanilla DISTILLER.STUDENT resnet32x4", None) in next(iter(set(taught) - {frozenset()}))
    for position, task in enumerate(tasks):
        assert all(tasks.index(need) < position for need in task.depends_on)
