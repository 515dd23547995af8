"""Remembered teachers' logits in whole runs: killed and resumed, in two processes, listed, verified and deleted."""

import functools
import json
import os
import shutil
import signal
import socket

import pytest
import torch

from common.models import create_model
from common.teacher_cache.rows import RowFile
from tests.processes import Ended, Process, before_call, checkpoint, differences, kill_self

BATCH = 40  # 300 images: seven batches and one of 20


@pytest.fixture
def data(generated_data, tmp_path):
    """A dataset whose cache is this test's own."""
    root = tmp_path / "data"
    shutil.copytree(generated_data / "cifar-100-python", root / "cifar-100-python")
    return root


@pytest.fixture
def command(data, tmp_path) -> list[str]:
    torch.manual_seed(0)
    torch.save({"model": create_model("resnet8", 100).state_dict()}, tmp_path / "teacher.pth")
    networks = ["DISTILLER.TEACHER", "resnet8", "DISTILLER.STUDENT", "resnet8"]
    where = ["--data-dir", str(data), "--no-download", "--device", "cpu", "--limit-eval-batches", "1"]
    sizes = ["SOLVER.BATCH_SIZE", str(BATCH), "LOG.WANDB", "False", "--epochs", "2"]
    teacher = ["DISTILLER.TEACHER_CKPT", str(tmp_path / "teacher.pth")]
    return ["--cfg", "configs/cifar100/edkd/res32x4_res8x4.yaml", *networks, *teacher, *where, *sizes]


@pytest.fixture
def start(command, tmp_path):
    """`start(NAME, *flags)` trains in a process of its own below NAME."""

    def run(name: str, *flags: str, prepare=None) -> Ended:
        words = [*command, "LOG.PREFIX", str(tmp_path / name), *flags]
        return Process("edkd.tools.train", words, tmp_path, prepare=prepare).wait()

    return run


def run_of(place):
    (file,) = place.glob("**/run.json")
    return file.parent


def assert_same(a, b):
    for file in ("latest", "student_latest", "student_best"):
        assert not differences(checkpoint(run_of(a) / file), checkpoint(run_of(b) / file)), file


def logits_of(run) -> list[dict]:
    """What each start of a run says about its teacher's logits."""
    segments = json.loads((run_of(run) / "run.json").read_text())["segments"]
    return [segment["execution"].get("teacher_logits") for segment in segments]


def only_file(data):
    (file,) = (data / ".cache/teachers").glob("*.rows")
    return file


@pytest.mark.slow
def test_runs_without_with_an_empty_and_with_a_filled_cache_are_the_same(start, data, tmp_path):
    assert start("off", "--teacher-cache", "off").code == 0
    assert not (data / ".cache/teachers").exists()
    first, second = start("first"), start("second")
    assert (first.code, second.code) == (0, 0), first.stderr + second.stderr
    (line,) = [line for line in first.stdout.splitlines() if "teacher logits" in line]
    assert f"kept in {only_file(data)}: 19.8 MB when full, less than a quarter of the" in line
    for name in ("first", "second"):
        assert_same(tmp_path / name, tmp_path / "off")
    assert logits_of(tmp_path / "off") == [None]
    (empty,), (filled,) = logits_of(tmp_path / "first"), logits_of(tmp_path / "second")
    assert empty["from_cache"] + empty["computed_ahead"] == 600
    assert empty["computed_ahead"] > 590
    assert (filled["from_cache"], filled["computed_ahead"]) == (600, 0)
    assert filled["files"] == [str(only_file(data))]


@pytest.mark.slow
def test_killed_in_a_pass_and_in_an_epoch_and_resumed(start, data, tmp_path):
    """First among the rows of the second epoch, then between its steps; what was kept before is read again."""
    assert start("off", "--teacher-cache", "off").code == 0
    write = "common.teacher_cache.rows:RowFile.write"
    killed = start("broken", prepare=functools.partial(before_call, write, 8, kill_self))  # 5 chunks an epoch
    assert killed.code == -signal.SIGKILL
    step = "common.training.training_step:TrainingStep.set_lr"
    killed = start("broken", "--resume", prepare=functools.partial(before_call, step, 4, kill_self))
    assert killed.code == -signal.SIGKILL
    assert start("broken", "--resume").code == 0
    assert_same(tmp_path / "broken", tmp_path / "off")
    last = logits_of(tmp_path / "broken")[-1]
    assert (last["from_cache"], last["computed_ahead"]) == (300, 0)
    _, damaged = RowFile(only_file(data)).written()
    assert not len(damaged)


@pytest.mark.slow
def test_two_processes_take_their_shares(command, data, tmp_path):
    """Each computes and reads those of its own samples; both fill the same file."""

    def two(name: str, *flags: str) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = str(listener.getsockname()[1])
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
        words = [*command, "LOG.PREFIX", str(tmp_path / name), *flags]
        processes = [
            Process("edkd.tools.train", words, tmp_path, environment={**common, "RANK": r, "LOCAL_RANK": r})
            for r in "01"
        ]
        ended = [process.wait() for process in processes]
        assert [e.code for e in ended] == [0, 0], ended

    two("off", "--teacher-cache", "off")
    two("empty")
    two("filled")
    assert_same(tmp_path / "empty", tmp_path / "off")
    assert_same(tmp_path / "filled", tmp_path / "off")
    (empty,), (filled,) = logits_of(tmp_path / "empty"), logits_of(tmp_path / "filled")
    assert empty["from_cache"] + empty["computed_ahead"] == 300  # of the first process
    assert (filled["from_cache"], filled["computed_ahead"]) == (300, 0)
    assert len(RowFile(only_file(data)).written()[0]) > 590


@pytest.mark.slow
def test_list_verify_and_delete(command, data, tmp_path, run_script, call):
    def cache(*arguments: str) -> Ended:
        return call([*arguments, "--data-dir", str(data)], "common.teacher_cache.__main__")

    assert "no teachers' logits in" in cache("list").stdout
    ended = run_script("train", *command, "LOG.PREFIX", tmp_path / "output", "--limit-train-batches", "2")
    assert ended.code == 0, ended.stderr
    file = only_file(data)
    listed = cache("list").stdout
    assert f"{file.stem}: cifar100, padded by 4, flipped; {len(RowFile(file).written()[0])} of 48600 rows" in listed

    good = cache("verify", "--rows", "30")
    assert good.code == 0
    assert "0 damaged; of 30 computed again 0 differ" in good.stdout

    rows = RowFile(file, {key: value for key, value in RowFile(file).header.items() if key != "version"})
    there, _ = rows.written()
    content, _ = rows.read(there)
    content[:, 3] ^= 1  # other logits, with right checksums
    rows.write(there, content)
    wrong = cache("verify", file.stem, "--rows", "30")
    assert wrong.code == 1
    assert "of 30 computed again 30 differ" in wrong.stdout

    content = bytearray(file.read_bytes())
    content[4096 + int(there[0]) * 408] ^= 1
    file.write_bytes(content)
    assert "1 damaged (they count as missing)" in cache("verify", "--rows", "30").stdout

    file.with_suffix(".pth").unlink()
    assert "not computed again: no checkpoint" in cache("verify").stdout
    (file.with_name("odd.rows")).write_bytes(b"something else")
    assert "odd: 0.0 MB on the disk; cannot be used: it does not begin" in cache("list").stdout
    assert cache("verify", "odd").code == 1

    unknown = cache("delete", "../../cifar-100-python/train")
    assert unknown.code == 2
    assert len(unknown.stderr.splitlines()) == 1
    assert cache("delete").code == 2
    assert cache("delete", file.stem).code == 0
    assert not file.exists()
    assert cache("delete", "--all").code == 0
    assert not list((data / ".cache/teachers").glob("*"))
    assert (data / "cifar-100-python/train").is_file()


@pytest.mark.slow
def test_rows_of_another_machine_are_not_computed_again(command, data, tmp_path, run_script, call, monkeypatch):
    short = [*command, "--limit-train-batches", "1", "--teacher-cache", "on"]
    assert run_script("train", *short, "LOG.PREFIX", tmp_path / "output").code == 0
    monkeypatch.setattr("common.teacher_cache.key.cpu_name", lambda: "another processor")
    ended = call(["verify", "--data-dir", str(data)], "common.teacher_cache.__main__")
    assert "not computed again: made with processor" in ended.stdout
    assert ended.code == 0
    assert run_script("train", *short, "LOG.PREFIX", tmp_path / "again").code == 0
    assert len(list((data / ".cache/teachers").glob("*.rows"))) == 2  # each has its own


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--teacher-cache", "maybe"], "invalid choice: 'maybe'"),
        (["--teacher-cache-limit", "much"], "'much' is not a size"),
        (["--teacher-cache-limit", "-1"], "is not a size"),
    ],
)
def test_flags_that_mean_nothing(flags, message, command, run_script, tmp_path):
    ended = run_script("train", *command, "LOG.PREFIX", tmp_path / "output", *flags)
    assert ended.code == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_dataset(command, data, run_script, tmp_path):
    data.chmod(0o500)
    ended = run_script("train", *command, "LOG.PREFIX", tmp_path / "output", "--limit-train-batches", "1")
    data.chmod(0o700)
    assert ended.code == 0
    assert "and not kept: " in ended.stdout
