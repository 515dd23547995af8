"""Runs that must not look at the test split, and runs that stop on their way."""

import json
import pickle
import shutil

import numpy as np
import pytest

from common.data.datasets import Dataset, ImageArrays
from tests.processes import CNN, Workspace, checkpoint, differences, metrics, record

BLIND = ["--epochs", "2", "--val-fraction", "0.2", "--no-test"]


def test_trials_are_the_same_whatever_the_test_split_holds(workspace, tmp_path, generated_data):
    """The same run on data whose test images are noise and whose labels are others: the same bits."""
    other = tmp_path / "other"
    shutil.copytree(generated_data / "cifar-10-batches-py", other / "cifar-10-batches-py")
    file = other / "cifar-10-batches-py/test_batch"
    with open(file, "rb") as source:
        batch = pickle.load(source, encoding="latin1")
    random = np.random.default_rng(0)
    batch["data"] = random.integers(0, 256, batch["data"].shape, np.uint8)
    batch["labels"] = random.permutation(batch["labels"]).tolist()
    file.write_bytes(pickle.dumps(batch))
    found = []
    for place, data in (("one", generated_data), ("two", other)):
        each = Workspace(tmp_path / place, data)
        directory = each.experiment(CNN)
        ended = each.run(CNN, *BLIND)
        assert (ended.code, ended.stderr) == (0, "")
        assert "validation accuracy: last epoch" in ended.stdout
        assert "test accuracy" not in ended.stdout
        found.append((record(directory), metrics(directory), checkpoint(directory / "last.pth.tar")))
    (one, curve, weights), (two, other_curve, other_weights) = found
    assert one["data"]["fingerprint"] != two["data"]["fingerprint"], "the files differ"
    assert "test_images" not in one["data"]
    assert one["accuracy"] is two["accuracy"] is one["analysis"] is None
    assert one["validation"] == two["validation"]
    assert curve == other_curve
    assert not [key for line in curve for key in line if key.startswith("test/")]
    assert not differences(weights["state_dict"], other_weights["state_dict"])


def test_whoever_looks_at_a_withheld_split_fails():
    images = ImageArrays(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2))
    data = Dataset("any", images, images, ("a", "b"), "content", "print").without_test()
    assert data.is_test_withheld
    for look in (lambda: data.test.pixels, lambda: data.test.targets, lambda: len(data.test), lambda: data.test.take):
        with pytest.raises(AssertionError, match="withheld"):
            look()
    assert data.describe()["train_images"] == 2


def test_nothing_to_evaluate_on_is_refused(workspace):
    workspace.experiment(CNN)
    ended = workspace.run(CNN, "--epochs", "1", "--no-test")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert "--no-test leaves nothing to evaluate on" in ended.stderr


def test_a_blind_run_is_no_other_run(workspace):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *BLIND).code == 0
    ended = workspace.run(CNN, *BLIND[:-1], overwrite=False)
    assert ended.code == 2
    assert "no_test" in ended.stderr
    assert record(directory)["accuracy"] is None


@pytest.mark.slow
def test_stopped_on_the_way_and_resumed_is_as_never_stopped(workspace, tmp_path, generated_data):
    whole = Workspace(tmp_path / "whole", generated_data)
    for each in (workspace, whole):
        each.experiment(CNN)
    assert whole.run(CNN, "--epochs", "3").code == 0
    for stop, done, status in (("1", 1, "stopped"), ("1", 1, "stopped"), ("2", 2, "stopped"), ("3", 3, "done")):
        resume = ["--resume"] if done > 1 or stop == "1" else []
        ended = workspace.run(CNN, "--epochs", "3", "--stop-after", stop, *resume)
        assert (ended.code, ended.stderr) == (0, "")
        run = record(workspace.root / "experiments" / CNN)
        assert (run["status"], run["epochs_done"], run["error"]) == (status, done, None)
    places = [each.root / "experiments" / CNN for each in (workspace, whole)]
    assert metrics(places[0]) == metrics(places[1])
    contents = [checkpoint(place / "last.pth.tar") for place in places]
    assert not differences(*(content["state_dict"] for content in contents))
    assert run["analysis"] is not None
    json.dumps(run)
