"""The pinned settings of `experiments/mlkd` are the scripts' defaults, and what they name exists."""

import json
import re
import sys

import pytest

from common.command_line import REPOSITORY, settings_from
from common.plan.plan import load_plan
from mlkd import calibrate, train, train_teacher
from mlkd.data import SEED
from mlkd.ensemble import read_ensemble
from mlkd.teachers import is_architecture
from tests.golden import conformance
from tests.mlkd.checks import CONFIG
from tests.processes import EXPERIMENTS

SETTINGS = json.loads((EXPERIMENTS / "mlkd/ensemble.json").read_text())
SCRIPTS = {"mlkd.py": train, "calibrate.py": calibrate, "train_teacher.py": train_teacher}


def parsed(command: str, monkeypatch):
    script, *words = command.split()[1:]
    monkeypatch.setattr(sys, "argv", [script, *words])
    return SCRIPTS[script].parse_arguments()


@pytest.mark.parametrize("dataset", SETTINGS["expected"])
def test_commands(dataset, monkeypatch):
    file = read_ensemble(EXPERIMENTS / f"mlkd/{dataset}_ensemble.json")
    assert list(file.names) == SETTINGS["members"]
    assert all(map(is_architecture, file.names))
    assert file.reading.endswith("names are those in 'models', checkpoints those in 'names'")
    for model, name in zip(file.names, file.checkpoints, strict=True):
        command = SETTINGS["teachers"].replace("DATASET", dataset).replace("MODEL", model).replace("NAME", name)
        args = parsed(command, monkeypatch)
        assert (args.dataset, args.model, args.name, args.seed) == (dataset, model, name, SEED)
    assert parsed(SETTINGS["calibration"].replace("DATASET", dataset), monkeypatch).fit_on == "train"
    args = parsed(SETTINGS["command"].replace("DATASET", dataset), monkeypatch)
    assert {key: getattr(args, key) for key in SETTINGS["hyperparameters"]} == SETTINGS["hyperparameters"]
    assert train.experiment_name(settings_from(train.StudentFlags, args), ranks=1) == f"{dataset} ensemble"
    assert read_ensemble(EXPERIMENTS.parent / args.ensemble) == file


def test_the_ensemble_is_the_published_one():
    """On Oxford-IIIT Pet to the letter, as our README shows it too; elsewhere with the same members."""
    assert json.loads((EXPERIMENTS / "mlkd/oxford-iiit_ensemble.json").read_text()) == CONFIG
    page = (REPOSITORY / "mlkd/README.md").read_text()
    (shown,) = re.findall(r"```json\n(.*?)```", page, flags=re.DOTALL)
    assert json.loads(shown) == CONFIG
    assert SETTINGS["members"] == CONFIG["models"]


def test_the_published_seed():
    assert conformance("params.json")["mlkd_datasets"]["seed"] == SEED == SETTINGS["hyperparameters"]["seed"]


def test_the_plan_teaches_by_the_ensembles_of_these_files():
    """Each member's training is needed, under the name that the file gives; only unpublished weights are calibrated."""
    runs = {run.experiment: run for run in load_plan() if run.paper == "mlkd"}
    for dataset in SETTINGS["expected"]:
        file = read_ensemble(EXPERIMENTS / f"mlkd/{dataset}_ensemble.json")
        run = runs[f"{dataset} ensemble"]
        teachers = [f"{dataset} teacher {model}" for model in file.names]
        assert list(run.depends_on) == teachers + ([] if dataset == "oxford-iiit" else [f"calibrate {dataset}"])
        assert dict(run.copy_files) == {
            run.command[run.command.index("--ensemble") + 1]: f"experiments/mlkd/{dataset}_ensemble.json"
        }
        for experiment, name in zip(teachers, file.checkpoints, strict=True):
            command = runs[experiment].command
            assert command[command.index("-n") + 1] == name
            assert runs[experiment].link_paths in ((), (f"models/{name}.pth",))
    calibration = runs["calibrate oxford-iiit"]
    assert calibration.variant  # elsewhere, so that the published weights stay


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
