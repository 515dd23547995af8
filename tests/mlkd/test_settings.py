"""The pinned settings of `experiments/mlkd` are the scripts' defaults, and what they name exists."""

import json
import sys

import pytest

from mlkd import calibrate, train, train_teacher
from mlkd.ensemble import read_ensemble
from mlkd.teachers import is_architecture
from tests.golden import conformance
from tests.processes import EXPERIMENTS

SETTINGS = json.loads((EXPERIMENTS / "mlkd/ensemble.json").read_text())
SCRIPTS = {"mlkd.py": train, "calibrate.py": calibrate, "train_teacher.py": train_teacher}


def parsed(command: str, monkeypatch):
    script, *words = command.split()[1:]
    monkeypatch.setattr(sys, "argv", [script, *words])
    return SCRIPTS[script].parse_arguments()


@pytest.mark.parametrize("dataset", SETTINGS["expected"])
def test_commands(dataset, monkeypatch):
    for key in ("command", "calibration", "teachers"):
        for model in SETTINGS["members"]:
            args = parsed(SETTINGS[key].replace("DATASET", dataset).replace("MODEL", model), monkeypatch)
            assert args.dataset == dataset
    args = parsed(SETTINGS["command"].replace("DATASET", dataset), monkeypatch)
    assert {key: getattr(args, key) for key in SETTINGS["hyperparameters"]} == SETTINGS["hyperparameters"]
    assert train.experiment_name(args) == f"{dataset} ensemble"
    file = read_ensemble(EXPERIMENTS.parent / args.ensemble)
    assert list(file.names) == SETTINGS["members"]
    assert all(map(is_architecture, file.names))
    assert list(file.checkpoints) == [f"models/{dataset}_{name}.pth" for name in file.names]


def test_expected_figures_are_the_reported_ones():
    tables = json.loads((EXPERIMENTS / "reported.json").read_text())["tables"]
    (table,) = [table for table in tables if table["paper"] == "mlkd"]
    assert {name: figure["value"] for name, figure in table["rows"]} == SETTINGS["expected"]


FLAGS = conformance("params.json")["flags"]


@pytest.mark.parametrize(("script", "module"), [("mlkd/mlkd.py", train), ("mlkd/calibrate.py", calibrate)])
def test_published_flags_and_defaults(script, module, monkeypatch):
    words = ["--ensemble", "x.json"]
    given = {"ensemble"}
    for flag in FLAGS[script]:
        if flag["dest"] not in given:
            value = {"int": "3", "float": "0.5", "str": "cifar-10" if flag["dest"] == "dataset" else "x"}[flag["type"]]
            if flag["dest"] not in ("model", "checkpoint"):
                monkeypatch.setattr(sys, "argv", [script, *words, flag["flags"][0], value])
                assert str(getattr(module.parse_arguments(), flag["dest"])) == value
    monkeypatch.setattr(sys, "argv", [script, *words])
    args = module.parse_arguments()
    for flag in FLAGS[script]:
        if flag["dest"] not in given:
            assert getattr(args, flag["dest"]) == flag["default"], flag["flags"]
    (dataset,) = [flag for flag in FLAGS[script] if flag["dest"] == "dataset"]
    for choice in dataset["choices"]:
        monkeypatch.setattr(sys, "argv", [script, *words, "-d", choice])
        assert module.parse_arguments().dataset == choice
