"""Each offered file is the one that its record speaks of, is small and finite, and fits the network of its record."""

import json

import pytest
import torch

from common.command_line import REPOSITORY
from common.data import DeviceLoader, load_dataset
from common.errors import UserError
from common.models import create_model
from common.training.checkpoints import load_weights
from common.training.evaluation import evaluate
from common.training.offered_weights import DIRECTORY, LARGEST, digest_of
from common.training.runtime import Runtime
from tests.run_records import make_record

RECORDS = sorted(DIRECTORY.glob("*.json"))


def load(record):
    content = json.loads(record.read_text())
    network = create_model(content["student"], content["data"]["classes"], family="mdistiller")
    load_weights(network, record.with_suffix(".pt"), content["student"])
    return content, network


def test_there_are_some_and_none_without_a_record():
    assert RECORDS
    assert {file.stem for file in DIRECTORY.glob("*.pt")} == {record.stem for record in RECORDS}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_file_is_the_one_of_its_record(record):
    content, network = load(record)
    file = record.with_suffix(".pt")
    assert digest_of(file) == content["sha256"]
    assert file.stat().st_size < LARGEST
    assert all(torch.isfinite(value).all() for value in network.state_dict().values() if value.is_floating_point())
    assert file.name in content["command"]
    assert content["accuracy"] == pytest.approx(content["accuracy_of_run"]["best"], abs=0.1), (
        "half precision costs none"
    )
    assert content["data"]["content"].startswith("published ")
    page = (DIRECTORY / "README.md").read_text()
    assert f"{content['accuracy']:.2f}" in page
    assert content["command"].split(": ")[-1] in page


def test_what_is_offered_is_not_overwritten(tmp_path, monkeypatch, call):
    monkeypatch.setattr("common.training.offered_weights.DIRECTORY", tmp_path / "weights")
    script, run = "common.training.offered_weights", tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text(json.dumps(make_record().to_json()))
    torch.save({"model": {"a": torch.ones(2)}}, run / "x.pth")
    torch.save({"model": {"a": torch.zeros(2)}}, run / "y.pth")
    assert call([str(run / "x.pth"), "-n", "mine"], script).code == 0
    before = (tmp_path / "weights/mine.pt").read_bytes()
    ended = call([str(run / "y.pth"), "-n", "mine", "--accuracy", "50"], script)
    assert (ended.code, "mine.pt holds other weights" in ended.stderr) == (2, True)
    assert (tmp_path / "weights/mine.pt").read_bytes() == before
    assert call([str(run / "x.pth"), "-n", "mine", "--accuracy", "50"], script).code == 0, "the same ones, evaluated"


@pytest.mark.slow
@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.stem)
def test_a_file_has_the_accuracy_of_its_record(record):
    from edkd.engine.experiment import CIFAR100

    content, network = load(record)
    try:
        data = load_dataset("cifar100", REPOSITORY / "data", download=False)
    except UserError:
        pytest.skip("the real CIFAR-100 is not in data/")
    assert data.fingerprint == content["data"]["fingerprint"]
    batches = DeviceLoader(data.test, 64, CIFAR100[0], torch.device("cpu"))
    accuracy = evaluate(network, batches, Runtime(torch.device("cpu")))["accuracy"]
    assert accuracy == pytest.approx(content["accuracy"], abs=0.02)
