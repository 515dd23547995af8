"""Two processes train as one does with the same global batch."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import torch

from tests.processes import (
    CNN,
    PATIENCE,
    REPOSITORY,
    Ended,
    Workspace,
    before_call,
    checkpoint,
    differences,
    kill_self,
    metrics,
    record,
)

ALEXNET = "base_experiments/base_alexnet"  # has no batch norm and no dropout
TAUGHT_ALEXNET = "kd_experiments/alexnet_distill/alexnet_self_teacher"
# 300 images in batches of 59: 29 and 30 a process, and 2 and 3 of the last five
UNEVEN = {"batch_size": 59, "num_epochs": 2}


def two(workspace: Workspace, experiment: str, *flags: str, **options) -> list[Ended]:
    """Run in two processes, which both end well."""
    ended = workspace.run_distributed(2, experiment, *flags, **options)
    assert [e.code for e in ended] == [0, 0], ended
    return ended


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference between two state dicts, relative to the largest entry of the same tensor."""
    assert a.keys() == b.keys()
    return max(((a[key] - b[key]).abs().max() / a[key].abs().max()).item() for key in a)


# Each is called in every process, ahead of the script.


def keep_final_weights() -> None:
    """Each process keeps what it has in memory at the end, in `rank<r>.pt`."""
    from common.training.engine import Trainer

    fit = Trainer.fit

    def fit_and_keep(self: Trainer, *args):
        result = fit(self, *args)
        torch.save(self.method.state_dict(), f"rank{os.environ['RANK']}.pt")
        return result

    Trainer.fit = fit_and_keep


def forbid_others_to_write() -> None:
    """All processes but the first fail when they open a file for writing, or make or rename one."""
    if os.environ["RANK"] == "0":
        return

    def hook(event: str, args: tuple) -> None:
        writes = event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if (writes or event in ("os.mkdir", "os.rename", "os.remove")) and "workspace" in str(args[0]):
            raise AssertionError(f"{event} {args}")

    sys.addaudithook(hook)


@pytest.mark.slow
class TestWithoutBatchNorm:
    @pytest.fixture(params=[ALEXNET, TAUGHT_ALEXNET])
    def experiment(self, request, workspace) -> str:
        if request.param == TAUGHT_ALEXNET:
            workspace.experiment(ALEXNET, num_epochs=1)
            assert workspace.run(ALEXNET).code == 0
        return request.param

    def test_two_processes_train_as_one(self, experiment, workspace):
        directory = workspace.experiment(experiment, **UNEVEN)
        assert workspace.run(experiment).code == 0
        one, one_metrics = checkpoint(directory / "last.pth.tar"), metrics(directory)
        two(workspace, experiment)
        assert record(directory)["segments"][-1]["runtime"]["world_size"] == 2
        assert distance(one["state_dict"], checkpoint(directory / "last.pth.tar")["state_dict"]) < 1e-6
        # figures are sums over both processes
        for ours, theirs in zip(metrics(directory), one_metrics, strict=True):
            assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-8)


@pytest.mark.slow
def test_batch_norm_makes_a_difference_only_through_its_batches(workspace, record_property):
    """Each process normalizes by its own share; all else is the same, so losses differ little."""
    directory = workspace.experiment(CNN, dropout_rate=0, batch_size=60, num_channels=8)
    assert workspace.run(CNN).code == 0
    one = metrics(directory)
    two(workspace, CNN)
    differences_by_epoch = {
        key: [round(b[key] / a[key] - 1, 5) for a, b in zip(one, metrics(directory), strict=True)]
        for key in ("train/loss", "test/loss")
    }
    print("relative differences of losses by epoch, 2 x 30 against 60 images per step:", differences_by_epoch)
    record_property("relative_differences", differences_by_epoch)
    assert all(0 < abs(d) < 0.05 for d in differences_by_epoch["train/loss"])
    assert [line["learning_rate"] for line in one] == [line["learning_rate"] for line in metrics(directory)]


@pytest.mark.slow
def test_both_processes_end_with_the_same_weights_and_statistics(workspace):
    workspace.experiment(CNN, **UNEVEN)
    two(workspace, CNN, prepare=keep_final_weights)
    first, second = (checkpoint(workspace.root / f"rank{rank}.pt") for rank in (0, 1))
    assert any("running_var" in key for key in first)
    assert not differences(first, second)


@pytest.mark.slow
def test_only_the_first_process_writes_and_speaks(workspace):
    directory = workspace.experiment(CNN, **UNEVEN)
    first, second = two(workspace, CNN, prepare=forbid_others_to_write)
    assert first.stdout.count("epoch 2/2") == 1
    assert (second.stdout, second.stderr) == ("", "")
    assert [line["epoch"] for line in metrics(directory)] == [0, 1]
    assert record(directory)["status"] == "done"


@pytest.mark.parametrize("batch_size", [50, 7, 99])
def test_evaluation_counts_the_same(batch_size, workspace):
    """100 images: also where the last batch is two for two processes, or one."""
    directory = workspace.experiment(CNN, num_epochs=1)
    assert workspace.run(CNN).code == 0
    directory = workspace.experiment(CNN, batch_size=batch_size)
    results = directory / "metrics_test_best.json"
    outputs = [workspace.run(CNN, script="tfkd.evaluate")]
    one = json.loads(results.read_text())
    outputs.append(two(workspace, CNN, script="tfkd.evaluate")[0])
    assert outputs[0] == outputs[1]
    two_processes = json.loads(results.read_text())
    assert two_processes.pop("loss") == pytest.approx(one.pop("loss"), rel=1e-6)
    assert two_processes == one


def in_the_second_epoch() -> None:
    before_call("common.training.training_step.TrainingStep.__call__", 9, kill_self)


def in_the_second_process() -> None:
    if os.environ["RANK"] == "1":
        in_the_second_epoch()


@pytest.mark.slow
@pytest.mark.parametrize("moment", [in_the_second_epoch, in_the_second_process])
def test_killed_and_resumed(moment, workspace):
    directory = workspace.experiment(CNN, **UNEVEN)
    two(workspace, CNN)
    whole, whole_metrics = checkpoint(directory / "last.pth.tar"), metrics(directory)
    first, second = workspace.run_distributed(2, CNN, prepare=moment)
    assert second.code == -signal.SIGKILL
    assert first.code == (1 if moment is in_the_second_process else -signal.SIGKILL)
    two(workspace, CNN, "--resume")
    assert not differences(checkpoint(directory / "last.pth.tar"), whole)
    assert metrics(directory) == whole_metrics


@pytest.mark.slow
def test_another_number_of_processes_may_resume(workspace):
    directory = workspace.experiment(ALEXNET, **UNEVEN)
    assert workspace.run(ALEXNET).code == 0
    one = checkpoint(directory / "last.pth.tar")["state_dict"]
    workspace.run_distributed(2, ALEXNET, prepare=in_the_second_epoch)
    assert record(directory)["epochs_done"] == 1
    ended = workspace.run(ALEXNET, "--resume")
    assert "resuming after epoch 1/2" in ended.stdout
    assert distance(one, checkpoint(directory / "last.pth.tar")["state_dict"]) < 1e-6


def stop_all() -> None:
    """What torchrun does when it is stopped."""
    before_call("common.training.training_step.TrainingStep.__call__", 9, lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_stopped(workspace):
    directory = workspace.experiment(CNN, **UNEVEN)
    first, second = workspace.run_distributed(2, CNN, prepare=stop_all)
    assert (first.code, second.code) == (130, 130)
    assert first.stderr == "stopped; the same command with --resume continues from the last finished epoch\n"
    assert second.stderr == ""
    assert record(directory)["status"] == "stopped"


def break_the_loss_of_the_second() -> None:
    from tfkd.methods import Baseline

    forward, calls = Baseline.forward, []

    def broken(self, *args):
        step = forward(self, *args)
        calls.append(1)
        if os.environ["RANK"] == "1" and len(calls) == 3:
            step.losses["cross_entropy"] = step.losses["cross_entropy"] * float("nan")
        return step

    Baseline.forward = broken


def test_a_loss_that_is_not_finite_in_one_process_stops_both(workspace):
    directory = workspace.experiment(CNN)
    ended = workspace.run_distributed(2, CNN, prepare=break_the_loss_of_the_second)
    assert [e.code for e in ended] == [1, 1], ended
    assert re.fullmatch(r"error: loss 'cross_entropy' is not finite at step 3 of epoch 1: .*\n", ended[0].stderr)
    assert ended[1].stderr == ""
    assert record(directory)["status"] == "failed"


@pytest.mark.slow
def test_torchrun(workspace):
    """From a shell, as the README says."""
    directory = workspace.experiment(ALEXNET, **UNEVEN)
    two(workspace, ALEXNET)
    expected = checkpoint(directory / "last.pth.tar")
    (directory / "last.pth.tar").unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*torchrun, str(REPOSITORY / "tfkd" / "main.py"), *workspace.arguments(ALEXNET), "--overwrite"]
    ended = subprocess.run(command, cwd=workspace.root, capture_output=True, text=True, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 2/2") == 1
    assert not differences(checkpoint(directory / "last.pth.tar"), expected)
