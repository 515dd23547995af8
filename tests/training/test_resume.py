"""A run that is killed, stopped or cut off at any moment and resumed ends as one that nothing happened to."""

import io
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import (
    CNN,
    REPOSITORY,
    SELF_TAUGHT_CNN,
    Workspace,
    before_call,
    checkpoint,
    differences,
    kill_self,
    lose_checkpoint,
    metrics,
    record,
    snapshot,
    wait_for,
)

ALEXNET = "kd_experiments/alexnet_distill/alexnet_self_teacher"

TWO = ["--epochs", "2"]

# case -> experiment, its flags, and the baseline that trains its teacher
CASES = {
    "dropout, Adam, validation split": (CNN, ["--val-fraction", "0.34"], None),
    "self-training": (SELF_TAUGHT_CNN, ["--self_training"], "base_experiments/base_cnn"),
    "teacher, SGD with momentum": (ALEXNET, [], "base_experiments/base_alexnet"),
}


def assert_same_run(broken: Path, whole: Path) -> None:
    """All that two runs leave behind is the same, but for times and for how often they were started."""
    ours, theirs = ({f.name for f in d.iterdir() if f.is_file()} for d in (broken, whole))
    assert ours == theirs
    for name in sorted(name for name in ours if name.endswith(".pth.tar")):
        assert not differences(checkpoint(broken / name), checkpoint(whole / name)), name
    assert metrics(broken) == metrics(whole)
    for name in sorted(name for name in ours if name.startswith("eval_")):
        assert (broken / name).read_text() == (whole / name).read_text()
    for key in ("status", "error", "accuracy", "epochs_done", "settings", "experiment"):
        assert record(broken)[key] == record(whole)[key]


def uninterrupted(workspace: Workspace, experiment: str, *flags: str) -> Path:
    """The directory of the same run in a workspace of its own, where nothing happens to it."""
    other = Workspace(workspace.root.with_name("uninterrupted"), workspace.data)
    shutil.copytree(workspace.root, other.root, dirs_exist_ok=True)
    ended = other.run(experiment, *flags)
    assert ended.code == 0, ended.stderr
    return other.root / "experiments" / experiment


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments(case, workspace):
    experiment, flags, teacher = CASES[case]
    if teacher:
        workspace.experiment(teacher)
        assert workspace.run(teacher, "--epochs", "1").code == 0
    directory = workspace.experiment(experiment)
    whole = uninterrupted(workspace, experiment, *flags)
    epoch_seconds = record(whole)["seconds"] / 4
    moments = random.Random(case)

    for finished in (0, 1, 3):
        began = time.time_ns()
        process = workspace.start(experiment, "--resume", *flags)
        file = directory / "metrics.jsonl"

        def far_enough(file=file, finished=finished, began=began) -> bool:
            return file.exists() and file.stat().st_mtime_ns > began and len(file.read_bytes().splitlines()) >= finished

        assert process.wait_for(far_enough)
        time.sleep(moments.uniform(0, epoch_seconds))
        process.signal(signal.SIGKILL)
        assert process.wait().code == -signal.SIGKILL
        assert record(directory)["status"] == "running"

    ended = workspace.run(experiment, "--resume", *flags)
    assert ended.code == 0, ended.stderr
    assert re.search("resuming after epoch [2-4]/4", ended.stdout)
    assert_same_run(directory, whole)


# Each is called in the run's process, ahead of the script, and has it killed in its second epoch at the latest.


def in_training() -> None:
    before_call("common.training.training_step.TrainingStep.__call__", 9, kill_self)


def in_the_first_epoch() -> None:
    before_call("common.training.training_step.TrainingStep.__call__", 3, kill_self)


def in_evaluation() -> None:
    before_call("common.training.engine.Evaluation.__call__", 2, kill_self)


def before_renaming(name: str) -> None:
    """A file is complete under its temporary name, and has not got its own yet."""
    original, seen = os.replace, []

    def replace(source: Path, target: Path) -> None:
        seen.append(Path(target).name)
        if seen.count(name) == 2:
            kill_self()
        original(source, target)

    os.replace = replace


def in_writing(number: int) -> None:
    """Half a checkpoint is written."""
    original, calls = torch.save, []

    def save(content: dict, target: Any) -> None:
        calls.append(target)
        if len(calls) == number:
            original(content, whole := io.BytesIO())
            target.write(whole.getvalue()[: whole.tell() // 2])
            target.flush()
            kill_self()
        original(content, target)

    torch.save = save


def before_the_end() -> None:
    before_call("common.training.runs.RunDirectory.close", 1, kill_self)


MOMENTS = {
    "in training": in_training,
    "in the first epoch": in_the_first_epoch,
    "in evaluation": in_evaluation,
    "eval_last_results.json not renamed": partial(before_renaming, "eval_last_results.json"),
    "best.pth.tar not renamed": partial(before_renaming, "best.pth.tar"),
    "last.pth.tar not renamed": partial(before_renaming, "last.pth.tar"),
    "run.json not renamed": partial(before_renaming, "run.json"),
    "first last.pth.tar half written": partial(in_writing, 1),
    "first snapshot half written": partial(in_writing, 2),
    "first best.pth.tar half written": partial(in_writing, 4),
    "second last.pth.tar half written": partial(in_writing, 5),
    "before the end": before_the_end,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, generated_data) -> Path:
    """Directory of a run of two epochs that nothing happened to."""
    workspace = Workspace(tmp_path_factory.mktemp("whole") / "workspace", generated_data)
    directory = workspace.experiment(CNN)
    ended = workspace.run(CNN, *TWO)
    assert (ended.code, ended.stderr) == (0, "")
    assert len({line["test/loss"] for line in metrics(directory)}) == 2
    return directory


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at(moment, workspace, whole):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *TWO, prepare=MOMENTS[moment]).code == -signal.SIGKILL
    assert record(directory)["status"] == "running"
    for file in directory.glob("*.pth.tar"):
        checkpoint(file)  # what bears its own name is whole
    ended = workspace.run(CNN, *TWO, "--resume")
    assert (ended.code, ended.stderr) == (0, "")
    assert_same_run(directory, whole)
    assert not list(directory.glob(".*.tmp"))


@pytest.mark.slow
def test_killed_again_and_again_leaves_nothing_behind(workspace, whole):
    directory = workspace.experiment(CNN)
    for _ in range(3):
        workspace.run(CNN, *TWO, "--resume", prepare=MOMENTS["first best.pth.tar half written"])
        assert len(list(directory.glob(".*.tmp"))) == 1
    assert workspace.run(CNN, *TWO, "--resume").code == 0
    assert {f.name for f in directory.iterdir()} == {f.name for f in whole.iterdir()}


@pytest.mark.slow
def test_from_a_shell(workspace):
    """The script itself: killed while it writes a checkpoint, stopped with Ctrl-C, then left alone."""
    experiment = "base_experiments/base_cnn"
    directory = workspace.experiment(experiment, num_channels=64, num_epochs=5)
    whole = uninterrupted(workspace, experiment)
    arguments = workspace.arguments(experiment, "--resume")
    command = [sys.executable, str(REPOSITORY / "tfkd" / "main.py"), *arguments]
    temporary = directory / ".last.pth.tar.tmp"

    def start() -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=workspace.root, **pipes)

    process = start()
    assert wait_for(temporary.exists, lambda: process.poll() is None, interval=0)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert temporary.exists(), "it was quicker than the signal"
    assert temporary.stat().st_size <= (whole / "last.pth.tar").stat().st_size

    process = start()
    assert wait_for(lambda: len(metrics(directory)) >= 2, lambda: process.poll() is None)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate()
    assert process.returncode == 130
    assert errors == STOPPED
    assert record(directory)["status"] == "stopped"

    process = start()
    output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "resuming after epoch" in output
    assert_same_run(directory, whole)
    assert not temporary.exists()


STOPPED = "stopped; the same command with --resume continues from the last finished epoch\n"


def epochs_done(directory: Path) -> int:
    """According to `run.json`."""
    return record(directory).get("epochs_done", 0) if (directory / "run.json").exists() else 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_by_a_signal(number, workspace, whole):
    directory = workspace.experiment(CNN)
    process = workspace.start(CNN, *TWO, prepare=held)
    assert process.wait_for(lambda: epochs_done(directory) == 1)
    process.signal(number)
    ended = process.wait()
    assert (ended.code, ended.stderr) == (130, STOPPED)
    stopped = record(directory)
    assert (stopped["status"], stopped["error"], stopped["epochs_done"]) == ("stopped", None, 1)
    assert stopped["accuracy"]["last"] == metrics(directory)[0]["test/accuracy"]
    assert workspace.run(CNN, *TWO, "--resume").code == 0
    assert_same_run(directory, whole)


def held() -> None:
    """Training waits in its second epoch until the working directory holds a file `go-on`."""

    def wait() -> None:
        wait_for(Path("go-on").exists, lambda: True)

    before_call("common.training.training_step.TrainingStep.__call__", 9, wait)


@pytest.mark.parametrize("by", ["absent", "half of it", "of another run"])
def test_a_lost_best_checkpoint_of_the_last_epoch_is_written_again(by, workspace, call):
    directory = workspace.experiment(CNN)
    assert call(workspace.arguments(CNN, *TWO, "--stop-after", "1")).code == 0
    best = directory / "best.pth.tar"
    lose_checkpoint(best, by, "seed")
    ended = call(workspace.arguments(CNN, *TWO, "--resume"))
    assert ended.code == 0, ended.stderr
    assert "warning" not in ended.stdout
    assert checkpoint(best)["epoch"] == record(directory)["accuracy"]["best_epoch"] + 1


@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_second_run_in_one_directory_is_refused(flags, workspace, whole, call):
    directory = workspace.experiment(CNN)
    process = workspace.start(CNN, *TWO, prepare=held)
    assert process.wait_for(lambda: epochs_done(directory) == 1)
    before = record(directory)
    refused = call(workspace.arguments(CNN, *TWO, *flags))
    assert refused.code == 2
    assert re.fullmatch(r"error: another run is writing to .*base_cnn_low_rate; .*\n", refused.stderr)
    assert record(directory) == before
    (workspace.root / "go-on").touch()
    assert process.wait().code == 0
    assert_same_run(directory, whole)


def test_resuming_a_finished_run_changes_nothing(workspace, call):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *TWO).code == 0
    before = snapshot(directory)
    again = call(workspace.arguments(CNN, *TWO, "--resume"))
    assert (again.code, again.stderr) == (0, "")
    assert "test accuracy: last epoch" in again.stdout
    assert snapshot(directory) == before


def test_resume_without_anything_to_resume_starts(workspace, whole):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *TWO, "--resume").code == 0
    assert_same_run(directory, whole)


@pytest.mark.parametrize(
    ("setting", "changes", "flags"),
    [
        ("seed", {}, ["--epochs", "2", "--seed", "1"]),
        ("epochs", {}, ["--epochs", "4"]),
        ("learning_rate", {"learning_rate": 0.02}, TWO),
        ("val_fraction", {}, [*TWO, "--val-fraction", "0.34"]),
        ("amp", {}, [*TWO, "--amp", "bf16"]),
        ("dataset", {"dataset": "cifar100"}, TWO),
    ],
)
def test_resume_with_other_settings_is_refused(setting, changes, flags, workspace, whole, call):
    for experiment in (CNN, "base_experiments/base_cnn"):
        shutil.copytree(whole, workspace.root / "experiments" / experiment)
    directory = workspace.experiment(CNN, **changes)
    before = snapshot(directory)
    refused = call(workspace.arguments(CNN, *flags, "--resume"))
    assert refused.code == 2
    assert re.fullmatch(rf"error: .*last\.pth\.tar belongs to a run with {setting} = .*\n", refused.stderr)
    assert snapshot(directory) == before


@pytest.mark.slow
def test_resume_of_a_run_that_began_from_a_file(workspace):
    """--restore_file starts a run; with --resume the same command goes on with it, and does not start it again."""
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, "--epochs", "1").code == 0
    whole = uninterrupted(workspace, CNN, *TWO, "--restore_file", "best")
    flags = [*TWO, "--restore_file", "best"]
    shutil.copy(directory / "best.pth.tar", directory / "best.pth.tar.kept")
    assert workspace.run(CNN, *flags, prepare=in_training).code == -signal.SIGKILL
    (directory / "best.pth.tar.kept").unlink()
    ended = workspace.run(CNN, *flags, "--resume")
    assert (ended.code, ended.stderr) == (0, "")
    assert "resuming after epoch 1/2" in ended.stdout
    assert_same_run(directory, whole)


def test_lost_lines_of_metrics_come_back(workspace, whole):
    """A power cut can take the end of a file that was not synced; a run started afresh empties it."""
    directory = workspace.experiment(CNN)
    shutil.copytree(whole, directory, dirs_exist_ok=True)
    assert workspace.run(CNN, *TWO, prepare=in_the_first_epoch).code == -signal.SIGKILL
    assert metrics(directory) == []
    assert workspace.run(CNN, *TWO, "--resume").code == 0
    assert_same_run(directory, whole)


@pytest.mark.slow
def test_more_epochs_where_the_finished_ones_stay_the_same(workspace):
    """Milestones move in proportion to the epochs: of these none falls into the finished ones."""
    directory = workspace.experiment(CNN, num_epochs=10)
    short = workspace.run(CNN, "--epochs", "2", prepare=stop_before_epoch_2)
    assert (short.code, epochs_done(directory)) == (130, 1)
    longer = workspace.run(CNN, "--epochs", "3", "--resume")
    assert longer.code == 0, longer.stderr
    assert "the run was begun with epochs = 2 and is resumed with epochs = 3" in longer.stdout
    assert epochs_done(directory) == 3
    resumed = metrics(directory)
    assert workspace.run(CNN, "--epochs", "3").code == 0
    assert metrics(directory) == resumed
    fewer = workspace.run(CNN, "--epochs", "2", "--resume")
    assert fewer.code == 2
    assert "belongs to a run with epochs = 3, not with epochs = 2" in fewer.stderr


def stop_before_epoch_2() -> None:
    before_call("common.training.engine.Trainer.train_epoch", 2, lambda: os.kill(os.getpid(), signal.SIGINT))
