"""The plan where something goes wrong around it: it says what in its summary, which comes last, and loses nothing."""

import errno
import fcntl
import json
import os
import signal
from pathlib import Path
from typing import IO

import pytest

from common.command_line import MOST_NAME_BYTES, shortened
from common.locks import LOCK, is_locked, locked, take_lock
from common.plan import datasets
from common.plan.budgets import Budget
from common.plan.executors import LOST, ExecutorGoneError
from common.plan.runner import Runner
from common.plan.tasks import State, Task
from tests.plan.test_runner import ALONE, STUDENT, TEACHER, Plan
from tests.plan.test_tasks import make, record
from tests.processes import CNN


@pytest.fixture
def plan(tmp_path) -> Plan:
    return Plan(tmp_path)


def last_line(output: str) -> str:
    return output.rstrip().splitlines()[-1]


# ------------------------------------------------------------------------------------------------------ the first time


@pytest.mark.slow
def test_the_first_run_without_data_says_why(plan):
    (plan.root / "data/generated/cifar-100-python").rmdir()
    (plan.root / "data/generated").rmdir()
    (plan.root / "data").rmdir()
    (plan.root / "data").write_text("in the way")
    code, output = plan.run("--cells", "base/alone")
    assert code == 1
    assert "BLOCKED stub base/alone (seed 0): cannot write " in output
    assert "no directory" not in output
    assert "There are no finished runs." in output
    assert last_line(output).startswith("0 of 1 runs done")


def test_offline_says_why(tmp_path, monkeypatch):
    def download(*args: object, **options: object) -> None:
        raise OSError("offline")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download)
    reason = datasets.ensure_dataset("cifar100", tmp_path / "data", Budget("any", "", generated=False))
    assert "could not be downloaded" in reason
    assert "(offline)" in reason
    assert not (tmp_path / "data").exists()


def test_tables_that_cannot_be_written_cost_no_summary(plan):
    (plan.root / "out").mkdir()
    (plan.root / "out/index.html").mkdir()
    code, output = plan.run("--cells", "base/alone")
    assert code == 1
    assert "error: cannot write " in output
    assert last_line(output).startswith("1 of 1 runs done")
    assert "base/alone" in plan.tables()


# ------------------------------------------------------------------------------------------------- the same plan twice


@pytest.mark.slow
def test_the_same_plan_twice_at_once_waits_and_fails_nothing(plan):
    go = plan.root / "go"
    plan.set("base/teacher", until=str(go))
    first = plan.start("--cells", "kd/student")
    while not plan.calls(TEACHER):
        assert first.poll() is None
    second = plan.start("--cells", "kd/student")
    for line in second.stdout:
        if line.startswith("[0/2] WAITS    stub base/teacher (seed 0): another process is at it"):
            break
    go.touch()
    for process in (first, second):
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert last_line(output).startswith("2 of 2 runs done")
        assert "FAILED" not in output
    assert (plan.calls(TEACHER), plan.calls(STUDENT)) == (1, 1)


def test_a_run_that_somebody_began_by_hand_is_waited_for(tmp_path):
    task = make(tmp_path)
    directory = record(task, "run", status="running")
    with take_lock(directory / LOCK), pytest.raises(BlockingIOError):
        task.lock()
    task.lock().close()


# ----------------------------------------------------------------------------------------------- executors and workers


class Script:
    """An executor whose jobs end as they are told to, one ending after the other for each task."""

    jobs, restarts = 1, 3

    def __init__(self, *endings: int | Exception) -> None:
        self.endings, self.started = list(endings), 0

    def start(self, task: Task) -> "Script":
        self.started += 1
        self.task = task
        return self

    def poll(self) -> int:
        ending = self.endings.pop(0)
        if isinstance(ending, Exception):
            raise ending
        if ending == 0:
            record(self.task, f"run{self.started}")
        return ending

    def terminate(self) -> None:
        raise AssertionError("nothing runs any more")

    kill = terminate


def run(tmp_path: Path, *endings: int | Exception) -> tuple[Runner, list[Task]]:
    """A task and one that needs it."""
    first = make(tmp_path, "first")
    tasks = [first, make(tmp_path, "second", (first,))]
    runner = Runner(tasks, Script(*endings), {})
    runner.run()
    return runner, tasks


def test_a_killed_worker_is_started_once_more(tmp_path, capsys):
    runner, tasks = run(tmp_path, -signal.SIGKILL, 0, -signal.SIGSEGV, 0)
    assert runner.outcome.done == set(tasks)
    output = capsys.readouterr().out
    assert "AGAIN    stub first (seed 1): it was killed by SIGKILL, which is what happens where memory" in output
    assert "AGAIN    stub second (seed 1): it was killed by SIGSEGV; it starts again and resumes" in output


def test_a_worker_that_is_killed_again_fails_by_name(tmp_path):
    runner, (first, second) = run(tmp_path, -signal.SIGKILL, -signal.SIGKILL)
    assert "killed by SIGKILL, which is what happens where memory is short, 2 times" in runner.outcome.failed[first]
    assert runner.outcome.blocked == {second: "needs stub first (seed 1)"}


@pytest.mark.slow
def test_a_lost_worker_is_started_as_often_as_the_executor_says(tmp_path):
    runner, tasks = run(tmp_path, LOST, LOST, LOST, 0, 0)
    assert runner.outcome.done == set(tasks)
    runner, (first, _) = run(tmp_path / "again", LOST, LOST, LOST, LOST)
    assert "its worker was lost, 4 times" in runner.outcome.failed[first]


def test_a_head_that_died_is_in_the_summary(tmp_path):
    runner, tasks = run(tmp_path, 0, ExecutorGoneError("the head does not answer"))
    assert runner.outcome.done == {tasks[0]}
    assert runner.outcome.broken == "the head does not answer"


def test_a_worker_that_cannot_execute_fails_its_task_alone(tmp_path):
    runner, (first, second) = run(tmp_path, OSError("no such workspace"))
    assert runner.outcome.failed == {first: "no such workspace"}
    assert second in runner.outcome.blocked


def test_a_killed_process_is_started_once_more(plan):
    plan.set("base/alone", killed=1)
    code, output = plan.run("--cells", "base/alone")
    assert code == 0, output
    assert plan.calls(ALONE) == 2


# --------------------------------------------------------------------------------------------- file systems and names


NO_LOCKS = [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF, errno.EINVAL, errno.EPERM, errno.ENOTTY, errno.EIO]


def refuse_locks(number: int, monkeypatch) -> None:
    def flock(file: object, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr("common.locks._warned", set())


@pytest.mark.parametrize("number", NO_LOCKS, ids=errno.errorcode.get)
def test_file_systems_without_locks_are_warned_of_once(number, tmp_path, monkeypatch, capsys):
    refuse_locks(number, monkeypatch)
    (tmp_path / "another").mkdir()
    for directory in (tmp_path, tmp_path / "another"):
        take_lock(directory / LOCK).close()
        with locked(directory / LOCK):
            assert not is_locked(directory / LOCK)
    assert capsys.readouterr().err.count("warning: the file system of") == 1


def test_a_run_goes_on_without_locks(workspace, call, monkeypatch):
    directory = workspace.experiment(CNN)
    refuse_locks(errno.ENOLCK, monkeypatch)
    tiny = ["--epochs", "1", "--limit-train-batches", "1", "--limit-eval-batches", "1"]
    ended = call(workspace.arguments(CNN, *tiny))
    assert (ended.code, ended.stderr.count("\n")) == (0, 1)
    assert ended.stderr.startswith(f"warning: the file system of {directory} knows no locks (No locks available)")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EACCES], ids=errno.errorcode.get)
def test_locks_of_others_are_known_by_what_file_systems_say(number, tmp_path, monkeypatch):
    (tmp_path / LOCK).touch()
    refuse_locks(number, monkeypatch)
    assert is_locked(tmp_path / LOCK)
    with pytest.raises(BlockingIOError):
        take_lock(tmp_path / LOCK)


def test_locks_are_exclusive_and_taken_on_files_open_for_writing(tmp_path, monkeypatch):
    flock = fcntl.flock

    def exclusive_on_writable(file: IO[str], how: int) -> None:
        assert file.writable(), "NFS gives no exclusive lock on others"
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", exclusive_on_writable)
    lock = take_lock(tmp_path / LOCK)
    assert is_locked(tmp_path / LOCK)
    with pytest.raises(BlockingIOError):
        take_lock(tmp_path / LOCK)
    lock.close()
    assert not is_locked(tmp_path / LOCK)


def test_other_errors_of_locks_are_errors(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        take_lock(tmp_path / "nowhere" / LOCK)


def test_long_names_are_shortened_with_a_digest(tmp_path):
    names = ["é" * 300 + end for end in "ab"]
    short = [shortened(name) for name in names]
    assert len(set(short)) == 2
    assert all(len(name.encode()) <= MOST_NAME_BYTES for name in short)
    assert shortened("as it is") == "as it is"
    task = make(tmp_path, "x" * 1000)
    task.lock().close()
    task.prepare()
    assert task.state() is State.TO_DO
    task.log.touch()


def test_what_a_budget_lacks_is_one_line(plan):
    for budget in ({"quick": {"description": "no data"}}, {"quick": 3}, [], {"quick": {"data": "published"}}):
        (plan.experiments / "budgets.json").write_text(json.dumps(budget))
        code, output = plan.run("--dry-run")
        assert code == 2, output
        assert len(output.splitlines()) == 1, output


def test_locked_data_are_written_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("common.data.synthetic.write_generated", lambda *args, **options: calls.append(args))
    monkeypatch.setattr(datasets, "is_present", lambda *args: bool(calls))
    assert datasets.ensure_dataset("cifar100", tmp_path / "data", Budget("any", "", generated=True)) is None
    assert datasets.ensure_dataset("cifar100", tmp_path / "data", Budget("any", "", generated=True)) is None
    assert len(calls) == 1
