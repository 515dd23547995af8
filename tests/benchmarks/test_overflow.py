"""How far runs are from overflowing: the largest entry of any module's output."""

import json
import multiprocessing

import pytest

from benchmarks.overflow import execute
from tests.processes import CNN


@pytest.mark.slow
def test_the_largest_entry_of_a_run(workspace, tmp_path):
    workspace.experiment(CNN, num_epochs=1)
    result = tmp_path / "result.json"
    arguments = workspace.arguments(CNN, "--limit-train-batches", "1")
    process = multiprocessing.get_context("spawn").Process(
        target=execute, args=("tfkd.main", arguments, workspace.root, result)
    )
    process.start()
    process.join()
    assert process.exitcode == 0, result.with_suffix(".stderr").read_text()
    largest = json.loads(result.read_text())
    assert 1 < largest < 1e4
