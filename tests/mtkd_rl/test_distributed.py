"""Two gloo processes train as one does with the same global batch; the agent, too, learns from the whole of it."""

import os
import re
import socket
import subprocess
import sys

import pytest
import torch

from tests.mtkd_rl.conftest import TEACHERS
from tests.processes import PATIENCE, REPOSITORY, Ended, Process, metrics, record

STUDENT = ("--arch", "resnet8", "--teacher-name-list", *TEACHERS, "--epochs", "2", "--dynamic", "--init-lr", "1e-3")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def without_batch_statistics() -> None:
    """Batch norm by its running statistics: what a process sees of a batch then depends on its own samples alone."""
    from common.training.batch_norm import ChannelsLastBatchNorm2d

    def forward(self, x):
        return torch.nn.functional.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)

    ChannelsLastBatchNorm2d.forward = torch.nn.BatchNorm2d.forward = forward


def run(count: int, arguments: list[str], directory, prepare=None) -> list[Ended]:
    """The RL script in `count` processes."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(count)}
    ranks = [{**common, "RANK": str(r), "LOCAL_RANK": str(r), "GLOO_SOCKET_IFNAME": "lo"} for r in range(count)]
    processes = [
        Process("mtkd_rl.train_student_rl", arguments, directory, environment=e if count > 1 else None, prepare=prepare)
        for e in ranks
    ]
    ended = [process.wait() for process in processes]
    assert [e.code for e in ended] == [0] * count, ended
    return ended


@pytest.mark.slow
@pytest.mark.parametrize("agent_loss", ["reward-weighted", "policy-gradient"])
def test_two_processes_train_as_one(agent_loss, checkpoints, small, tmp_path):
    """Batches of 31 give shares of 15 and 16. Student, transforms, agent and all figures are the same."""
    arguments = [*STUDENT, "-b", "31", "--agent-loss", agent_loss, *small]
    run(1, [*arguments, "--trial", "one"], tmp_path, without_batch_statistics)
    first, second = run(2, [*arguments, "--trial", "two"], tmp_path, without_batch_statistics)
    assert "warning: nccl is not available here; gloo takes its place" in first.stdout
    warnings = [line for line in first.stdout.splitlines() if line.startswith("warning")]
    assert [line for line in warnings if " was trained for " not in line] == [
        "warning: nccl is not available here; gloo takes its place"
    ]
    assert (second.stdout, second.stderr) == ("", "")
    one, two = (next(checkpoints.glob(f"resnet8_cifar100_rl_{trial}_*")) for trial in ("one", "two"))
    assert record(two)["segments"][-1]["runtime"]["world_size"] == 2
    a, b = (torch.load(run / "resnet8.pth.tar", weights_only=True)["training"]["weights"] for run in (one, two))
    assert a.keys() == b.keys()
    for key, value in a.items():
        if value.is_floating_point():
            atol = 1e-7 + 1e-5 * value.abs().max().item()
            assert torch.allclose(value, b[key], rtol=1e-4, atol=atol), key
    for ours, theirs in zip(metrics(one), metrics(two), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_both_processes_act_by_the_same_agent(checkpoints, small, tmp_path):
    run(2, [*STUDENT, "-b", "31", *small], tmp_path, keep_agent)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


def keep_agent() -> None:
    """Each process keeps its agent at the end, in `rank<r>.pt`."""
    from common.training.engine import Trainer

    fit = Trainer.fit

    def fit_and_keep(self, *args):
        result = fit(self, *args)
        torch.save(self.method.agent.state_dict(), f"rank{os.environ['RANK']}.pt")
        return result

    Trainer.fit = fit_and_keep


@pytest.mark.slow
def test_two_machines_meet_as_the_published_flags_say(checkpoints, small, tmp_path):
    """Two shells with --world-size 2 and their ranks, as two machines would have them; --evaluate in one."""
    url = f"tcp://127.0.0.1:{free_port()}"
    flags = ["--multiprocessing-distributed", "--world-size", "2", "--dist-url", url, "--dist-backend", "gloo"]
    script = str(REPOSITORY / "mtkd_rl/train_student_avg.py")
    arguments = [sys.executable, script, *STUDENT[:4], "wrn_10_1", "--epochs", "1", "-b", "31", *small, *flags]
    shells = [
        subprocess.Popen(
            [*arguments, "--rank", str(rank)],
            cwd=tmp_path,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [shell.communicate(timeout=PATIENCE) for shell in shells]
    assert [shell.returncode for shell in shells] == [0, 0], outputs
    assert re.search(r"epoch 1/1: ", outputs[0][0])
    assert "warning" not in outputs[0][0]
    assert "epoch" not in outputs[1][0]
    (directory,) = checkpoints.glob("resnet8_*")
    assert record(directory)["segments"][-1]["runtime"]["world_size"] == 2
