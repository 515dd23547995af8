"""The analysis at the end of a run, against networks that are loaded again and evaluated by hand."""

import json
import re
import signal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.analysis.metrics import optimal_temperature
from common.data import Augmentation, DeviceLoader, ImageArrays, Normalization, load_dataset
from common.data.device_loader import evenly_spaced
from common.models import create_model
from common.training.checkpoints import load_weights
from tests.processes import CNN, SELF_TAUGHT_CNN, record
from tests.training.test_resume import in_training
from tfkd.experiment import CIFAR

TWO = ["--epochs", "2"]
BASELINE = "base_experiments/base_cnn"


@pytest.fixture
def taught(workspace):
    """A baseline, and a run that it teaches with a validation split; gives their directories."""
    workspace.experiment(BASELINE)
    directory = workspace.experiment(SELF_TAUGHT_CNN)
    assert workspace.run(BASELINE, "--epochs", "1").code == 0
    ended = workspace.run(SELF_TAUGHT_CNN, *TWO, "--self_training", "--val-fraction", "0.2")
    assert (ended.code, ended.stderr) == (0, "")
    announced, said = (
        ended.stdout.index("analyzing the last epoch"),
        ended.stdout.index("analysis of the last epoch: NLL "),
    )
    assert announced < said
    assert re.search(
        r"analyzing the last epoch,.* cnn on 100 test and 60 validation and 240 train images: about \d+ s", ended.stdout
    )
    assert "agreement with cnn " in ended.stdout
    return workspace.root / "experiments" / BASELINE, directory


def _logits(file, images):
    network = create_model("cnn", 10, family="tfkd", num_channels=4, dropout_rate=0.5)
    load_weights(network, file, "cnn")
    with torch.no_grad():
        (batch,) = DeviceLoader(images, len(images), CIFAR[0]).epoch()
        return network.eval()(batch.images).double()


@pytest.mark.slow
def test_figures_are_those_of_the_checkpoints(taught, generated_data):
    base, directory = taught
    run, data = record(directory), load_dataset("cifar10", generated_data)
    analysis, targets = run["analysis"], torch.from_numpy(data.test.targets)
    teacher = _logits(base / "best.pth.tar", data.test)
    wrong = teacher.argmax(1) != targets
    tau = run["settings"]["temperature"]
    assert analysis["temperature"] == tau
    assert analysis["test"]["images"] == len(targets) == 100
    for epoch, file in (("last", "last.pth.tar"), ("best", "best.pth.tar")):
        found, student = analysis["test"][epoch], _logits(directory / file, data.test)
        assert found["accuracy"] == pytest.approx(run["accuracy"][epoch], abs=1e-3)
        assert found["nll"] == pytest.approx(float(F.cross_entropy(student, targets)), rel=1e-4)
        same = student.argmax(1) == teacher.argmax(1)
        fidelity = found["fidelity"]["cnn"]
        assert fidelity["agreement"] == pytest.approx(100 * float(same.double().mean()), abs=1e-3)
        assert fidelity["agreement_where_teacher_wrong"] == pytest.approx(
            100 * float(same[wrong].double().mean()), abs=1e-3
        )
        for key, t in (("kl", 1.0), ("kl_at_temperature", tau)):
            expected = F.kl_div((student / t).log_softmax(1), (teacher / t).softmax(1), reduction="batchmean")
            assert fidelity[key] == pytest.approx(float(expected), rel=1e-3, abs=1e-6)
        assert sum(each["count"] for each in found["bins"]) == 100
        assert len(found["accuracy_by_class"]) == 10
        validation = data.train.split(0.2)[1]
        best = optimal_temperature(_logits(directory / file, validation), torch.from_numpy(validation.targets))
        assert found["optimal_temperature"] == (best if best is None else pytest.approx(best, rel=1e-3))
        train = data.train.split(0.2)[0]
        predicted = _logits(directory / file, train).argmax(1)
        hits = float((predicted == torch.from_numpy(train.targets)).double().mean())
        assert analysis["train"][epoch]["accuracy"] == pytest.approx(100 * hits, abs=1e-3)
        same = float((predicted == _logits(base / "best.pth.tar", train).argmax(1)).double().mean())
        assert analysis["train"][epoch]["agreement"]["cnn"] == pytest.approx(100 * same, abs=1e-3)
    assert analysis["train"]["images"] == len(train)
    assert analysis["test"]["teachers"]["cnn"]["accuracy"] == pytest.approx(
        100 * float((~wrong).double().mean()), abs=1e-3
    )


def test_without_teacher_and_validation_split(workspace):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, "--epochs", "1").code == 0
    analysis = record(directory)["analysis"]
    assert (analysis["temperature"], analysis["test"]["teachers"]) == (None, {})
    assert analysis["test"]["last"]["fidelity"] == {}
    assert analysis["test"]["last"]["optimal_temperature"] is None
    assert analysis["train"]["last"]["agreement"] == {}
    assert analysis["test"]["best"] == analysis["test"]["last"]


@pytest.mark.slow
def test_a_run_killed_and_resumed_has_the_same_analysis(workspace, taught):
    _, directory = taught
    flags = [*TWO, "--self_training", "--val-fraction", "0.2"]
    whole = {key: value for key, value in record(directory)["analysis"].items() if key != "seconds"}
    assert workspace.run(SELF_TAUGHT_CNN, *flags, prepare=in_training).code == -signal.SIGKILL
    assert record(directory)["analysis"] is None
    assert workspace.run(SELF_TAUGHT_CNN, *flags, "--resume").code == 0
    assert {key: value for key, value in record(directory)["analysis"].items() if key != "seconds"} == whole


def test_the_teacher_sees_each_test_image_once_in_the_analysis(workspace, call, monkeypatch):
    from common.training.method import FrozenTeacher

    workspace.experiment(BASELINE)
    workspace.experiment(SELF_TAUGHT_CNN)
    assert call(workspace.arguments(BASELINE, "--epochs", "1")).code == 0
    seen = []
    logits = FrozenTeacher.logits
    monkeypatch.setattr(FrozenTeacher, "logits", lambda self, images: seen.append(len(images)) or logits(self, images))
    assert call(workspace.arguments(SELF_TAUGHT_CNN, *TWO, "--self_training")).code == 0
    assert sum(seen) == 100 + 300


@pytest.mark.slow
def test_the_analysis_comes_to_tensorboard_once(taught):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(taught[1] / "tensorboard"))
    events.Reload()
    (point,) = events.Scalars("analysis/test/last/agreement/cnn")
    found = record(taught[1])["analysis"]["test"]["last"]["fidelity"]["cnn"]["agreement"]
    assert (point.step, point.value) == (1, pytest.approx(found))
    assert [point.step for point in events.Scalars("analysis/train/best/accuracy")] == [1]


@pytest.mark.slow
def test_processes_together_say_what_one_says(workspace, taught):
    _, directory = taught
    flags = [*TWO, "--self_training", "--val-fraction", "0.2"]
    ended = workspace.run_distributed(2, SELF_TAUGHT_CNN, *flags)
    assert [process.code for process in ended] == [0, 0]
    run = record(directory)
    analysis = run["analysis"]
    assert analysis["test"]["images"] == sum(each["count"] for each in analysis["test"]["last"]["bins"]) == 100
    for epoch in ("last", "best"):
        assert analysis["test"][epoch]["accuracy"] == pytest.approx(run["accuracy"][epoch], abs=1e-3)
    json.dumps(analysis, allow_nan=False)


@pytest.mark.parametrize("count", [1000, 7])
def test_unaugmented_batches_are_the_images_as_they_are(count):
    random = np.random.default_rng(0)
    images = ImageArrays(random.integers(0, 256, (20, 8, 8, 3), np.uint8), np.arange(20))
    how = Normalization((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    train = DeviceLoader(
        images, 4, how, augmentation=Augmentation(padding=2, flip=True, rotation=15), shuffle=True, limit=2
    )
    chosen = evenly_spaced(20, count)
    assert (len(chosen), chosen[0], chosen[-1]) == (min(count, 20), 0, 19)
    expected = DeviceLoader(images.take(chosen), 4, how)
    for found, wanted in zip(train.unaugmented(count).epoch(3), expected.epoch(0), strict=True):
        assert torch.equal(found.images, wanted.images)
        assert torch.equal(found.targets, wanted.targets)
        assert torch.equal(found.indices, wanted.indices)
    assert (train.samples, len(train)) == (8, 2), "the training batches stay as they were"
