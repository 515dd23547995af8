"""What is made of the metrics of several trainings, and that the scripts take the command lines."""

import argparse
import itertools
import json
import sys

import pytest

from benchmarks import packing
from benchmarks.packing import SCRIPTS, finished_epochs, steady_rate, train_together
from common.command_line import REPOSITORY
from common.errors import UserError

E = ["--epochs", "1", "--limit-train-batches", "1", "--limit-eval-batches", "1", "--device", "cpu"]


def test_epochs_come_from_the_lines_that_are_whole(tmp_path):
    assert finished_epochs(tmp_path) == []
    file = tmp_path / "somewhere" / "metrics.jsonl"
    file.parent.mkdir()
    whole = "".join(json.dumps({"epoch": i, "images_per_second": rate}) + "\n" for i, rate in enumerate((10.0, 20.5)))
    file.write_text(whole + '{"epoch": 2, "images_per_sec')
    assert finished_epochs(tmp_path) == [10.0, 20.5]


def test_steady_rate_adds_up_images_by_seconds():
    # as many images at 30 as at 60 a second: 40 a second
    assert steady_rate([[1.0, 2.0, 30.0, 60.0], [3.0, 100.0, 100.0]], [1, 0]) == pytest.approx(40 + 100)
    with pytest.raises(UserError, match="more --epochs"):
        steady_rate([[1.0, 2.0, 30.0], [3.0, 4.0]], [1, 1])


class Job:
    """A process that goes on until it is told to stop."""

    def __init__(self) -> None:
        self.calls = []

    def poll(self) -> None:
        return None

    def terminate(self) -> None:
        self.calls.append("terminate")

    def wait(self) -> None:
        self.calls.append("wait")


def test_epochs_count_from_when_all_are_at_it_until_the_first_is_done(monkeypatch, tmp_path):
    # at every look one epoch more; the second training starts two looks later and is twice as fast
    looks = {
        tmp_path / "a": ([1.0, 1.0, 1.0, 1.0, 50.0, 50.0][:n] for n in itertools.count()),
        tmp_path / "b": ([1.0, 1.0, 100.0, 100.0][: max(0, n - 2)] for n in itertools.count()),
    }
    jobs = [Job(), Job()]
    waiting = iter(jobs)
    monkeypatch.setattr(packing, "POLL_SECONDS", 0)
    monkeypatch.setattr(packing, "start_process", lambda *_: next(waiting))
    monkeypatch.setattr(packing, "finished_epochs", lambda place: next(looks[place]))
    assert train_together({place: [] for place in looks}, 1, 6) == pytest.approx(150)
    assert [job.calls for job in jobs] == [["terminate", "wait"]] * 2


def test_a_training_that_fails_is_named_and_stops_the_others(tmp_path):
    commands = {}
    for name, code in (("a", "import time; time.sleep(600)"), ("b", "import sys; sys.exit('error: no such network')")):
        (tmp_path / name).mkdir()
        commands[tmp_path / name] = [sys.executable, "-c", code]
    with pytest.raises(UserError, match="exit code 1: error: no such network"):
        train_together(commands, 1, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "student", "teacher"),
    [("edkd", "resnet8", "resnet8"), ("edkd", "resnet8", None), ("tfkd", "shufflenet_v2", None)],
)
def test_the_scripts_take_the_flags(call, generated_data, tmp_path, script, student, teacher):
    file, flags = SCRIPTS[script]
    assert (REPOSITORY / file).is_file()
    own = flags(argparse.Namespace(student=student, teacher=teacher), tmp_path)
    ended = call([*own, *E, "--data-dir", str(generated_data)], file.removesuffix(".py").replace("/", "."))
    assert ended.code == 0, ended.stderr
    assert len(finished_epochs(tmp_path)) == 1


def test_a_teacher_for_tfkd_is_refused(call):
    ended = call(["--script", "tfkd", "--teacher", "resnet18"], "benchmarks.packing")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: --teacher is for --script edkd")
