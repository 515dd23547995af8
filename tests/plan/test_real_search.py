"""A search with a paper's own script: halved on the way, killed in the middle of a rung, and gone on with."""

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
from tests.processes import CNN, EXPERIMENTS, Workspace, checkpoint, children_of, differences, metrics, record

RATES = ("0.0001", "0.001", "0.01")
BUDGET = {
    "description": "nine small epochs",
    "data": "generated",
    "images": {"cifar100": [4, 40, 10]},
    "flags": {"tfkd *": ["--epochs", "9"]},
    "params": {"tfkd *": {"batch_size": 4, "num_channels": 8}},
}


@pytest.fixture
def command(tmp_path) -> list[str]:
    """A search over the learning rate of the small plain network: three trials, compared after 1, 3 and 9 epochs."""
    experiments = tmp_path / "experiments"
    shutil.copytree(EXPERIMENTS / CNN, experiments / CNN)
    run = {"experiment": CNN, "command": f"main.py --model_dir experiments/{CNN}/"}
    contents = {
        "plan/tfkd.json": {"paper": "tfkd", "dataset": "cifar100", "parameters": "--model_dir", "runs": [run]},
        "reported.json": {"tables": []},
        "budgets.json": {"nine": BUDGET},
    }
    for name, content in contents.items():
        (experiments / name).parent.mkdir(exist_ok=True)
        (experiments / name).write_text(json.dumps(content))
    where = ["--experiments", experiments, "--output", tmp_path / "out", "--data-dir", tmp_path / "data"]
    search = ["--cells", CNN, "--sweep", f"learning_rate={','.join(RATES)}", "--halving", "3", "--seeds", "0,1"]
    return [sys.executable, "-m", "common.plan", "--budget", "nine", *map(str, where), *search]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the trial's process is found in /proc")
def test_a_search_killed_in_the_middle_of_a_rung_goes_on(command, tmp_path):
    trials = tmp_path / "out/nine/sweeps/base_experiments_base_cnn_low_rate/trial"
    process = subprocess.Popen(command, cwd=REPOSITORY, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + 500
    on_the_way: list[Path] = []
    while not on_the_way and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
        files = trials.rglob("metrics.jsonl")
        on_the_way = [file.parent for file in files if 5 <= len(file.read_text().splitlines()) < 9]
    process.send_signal(signal.SIGSTOP)  # it neither starts the trial again nor, by its own end, asks it to stop
    for child in children_of(process.pid):
        os.kill(child, signal.SIGKILL)
    process.kill()
    output, _ = process.communicate(timeout=300)
    (best,) = on_the_way
    assert record(best)["status"] == "running", output
    others = [record(file.parent) for file in trials.rglob("run.json") if file.parent != best]
    assert [(other["status"], other["epochs_done"]) for other in others] == [("stopped", 1)] * 2, "of the first rung"

    ended = subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "chosen by validation" in ended.stdout
    ran = record(best)
    assert (ran["status"], ran["epochs_done"], ran["accuracy"]) == ("done", 9, None)
    assert len(ran["segments"]) > 1, "resumed"
    table = " ".join((tmp_path / "out/nine/sweeps/tables.md").read_text().split())
    assert (table.count(" | 1 | |"), table.count(" | 9 | chosen |")) == (2, 1)
    assert subprocess.run(command, cwd=REPOSITORY, text=True, capture_output=True).stdout.count("started") == 0

    # the same trial, never stopped
    whole = Workspace(tmp_path / "whole", tmp_path / "data/generated")
    directory = whole.experiment(CNN)
    shutil.copy(best / "params.json", directory)
    flags = ["--epochs", "9", "--val-fraction", "0.1", "--no-test"]
    assert whole.run(CNN, *flags).code == 0
    assert metrics(directory) == metrics(best)
    contents = [checkpoint(place / "last.pth.tar") for place in (directory, best)]
    assert not differences(*(content["state_dict"] for content in contents))
