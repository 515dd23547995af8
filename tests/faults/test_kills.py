"""Kills while the plan runs, of the plan and of its workers: the same command goes on, to the same bits.

Nothing here waits for a time: a kill comes when a worker's own record says that an epoch is done, and the next start
when the kernel has let go of the run's lock.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.command_line import REPOSITORY
from common.data.synthetic import write_generated
from common.locks import LOCK, is_locked
from common.run_record import read_record
from tests.processes import CNN, PATIENCE, SELF_TAUGHT_CNN, checkpoint, children_of, differences, metrics, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's"),
]

STUDENT = f"{SELF_TAUGHT_CNN} --self_training"


class TinyPlan:
    """A teacher and its student through the paper's own script, four epochs each, on a few hundred images."""

    def __init__(self, root: Path) -> None:
        self.root, experiments = root, root / "experiments"
        for name in (CNN, SELF_TAUGHT_CNN):
            (experiments / name).mkdir(parents=True)
            shutil.copy(REPOSITORY / "experiments" / name / "params.json", experiments / name)
        teacher = {"experiment": CNN, "command": f"main.py --model_dir experiments/{CNN}/"}
        command = f"main.py --model_dir experiments/{SELF_TAUGHT_CNN}/ --self_training"
        student = {"experiment": STUDENT, "command": command, "depends_on": [CNN]}
        plan = {"paper": "tfkd", "dataset": "cifar100", "parameters": "--model_dir", "networks": ["*.pth.tar"]}
        plan |= {"runs": [teacher, student], "cells": {}}
        plan |= {"link_paths": {CNN: "experiments/pretrained_teacher_models/base_cnn"}}
        small = {"batch_size": 50, "num_channels": 4}
        budget = {"description": "tiny", "data": "generated", "flags": {"tfkd *": ["--epochs", "4", "--device", "cpu"]}}
        contents = {"plan/tfkd.json": plan, "reported.json": {"tables": []}, "budgets.json": {"smoke": budget}}
        budget["params"] = {"tfkd *": small}
        for name, content in contents.items():
            (experiments / name).parent.mkdir(exist_ok=True)
            (experiments / name).write_text(json.dumps(content))

    def start(self, data: Path) -> subprocess.Popen:
        where = ["--experiments", self.root / "experiments", "--output", self.root / "out", "--data-dir", data]
        command = [sys.executable, "-m", "common.plan", "--budget", "smoke", "--jobs", "1", *where]
        return subprocess.Popen(command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, data: Path) -> str:
        output, _ = (process := self.start(data)).communicate(timeout=PATIENCE)
        assert process.returncode == 0, output
        return output

    def directory(self, experiment: str) -> Path:
        home = self.root / "out/smoke/seed_0/tfkd"
        (found,) = [file.parent for file in home.rglob("run.json") if read_record(file.parent).experiment == experiment]
        return found

    def epochs_done(self, experiment: str) -> int:
        try:
            return read_record(self.directory(experiment)).epochs_done
        except (ValueError, AttributeError):
            return 0


def worker_of(process: subprocess.Popen) -> int:
    """The process that the plan has started."""
    return next(c for c in children_of(process.pid) if b"main.py" in Path(f"/proc/{c}/cmdline").read_bytes())


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("plan_data")
    write_generated(root / "generated", "cifar-100", train_per_class=3, test_per_class=1)
    return root


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> TinyPlan:
    plan = TinyPlan(tmp_path_factory.mktemp("undisturbed"))
    plan.run(data)
    return plan


@pytest.mark.parametrize(
    ("whom", "number", "killed"),
    [
        pytest.param("plan", signal.SIGKILL, CNN, id="plan-SIGKILL-teacher"),
        pytest.param("plan", signal.SIGKILL, STUDENT, id="plan-SIGKILL-student"),
        pytest.param("plan", signal.SIGTERM, CNN, id="plan-SIGTERM-teacher"),  # handled as the next one is
        pytest.param("plan", signal.SIGHUP, STUDENT, id="plan-SIGHUP-student"),
        pytest.param("worker", signal.SIGKILL, CNN, id="worker-SIGKILL-teacher"),
        pytest.param("worker", signal.SIGKILL, STUDENT, id="worker-SIGKILL-student"),
    ],
)
def test_kills_while_the_plan_runs_change_nothing(whom, number, killed, data, undisturbed, tmp_path):
    plan = TinyPlan(tmp_path)
    process = plan.start(data)
    assert wait_for(lambda: plan.epochs_done(killed) >= 1, lambda: process.poll() is None)
    os.kill(process.pid if whom == "plan" else worker_of(process), number)
    output, _ = process.communicate(timeout=PATIENCE)
    assert "Traceback" not in output
    if whom == "worker":
        assert process.returncode == 0, output
        assert f"AGAIN    tfkd {killed} (seed 0): it was killed by SIGKILL" in output
    else:
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130), output
        end = time.monotonic() + PATIENCE
        while is_locked(plan.directory(killed) / LOCK):  # its worker writes down how far it came
            assert time.monotonic() < end
            time.sleep(0.01)
        assert "2 of 2 runs done" in plan.run(data)
    for experiment in (CNN, STUDENT):
        ours, theirs = (each.directory(experiment) for each in (plan, undisturbed))
        assert metrics(ours) == metrics(theirs)
        found = differences(*(checkpoint(place / "last.pth.tar") for place in (ours, theirs)))
        assert [place for place in found if "teacher_files" not in place] == []  # a teacher's file holds its times
