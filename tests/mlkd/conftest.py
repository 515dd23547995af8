"""The scripts of this paper on synthetic datasets, run in this process with a small student."""

import importlib
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from common.data.synthetic import write_generated
from tests.mlkd.checks import small_student
from tests.processes import Ended

TEACHER = "test_resnet"  # timm's smallest


@pytest.fixture(scope="session")
def pets(tmp_path_factory) -> Path:
    """Directory of datasets: 74 training and 37 test images in Oxford-IIIT Pet's layout."""
    root = tmp_path_factory.mktemp("pets")
    write_generated(root, "oxford-iiit-pet", train_per_class=2, test_per_class=1)
    return root


@pytest.fixture
def where(pets) -> list[str]:
    """Flags that keep a run small."""
    limits = ["--limit-train-batches", "2", "--limit-eval-batches", "2", "-b", "6"]
    return [
        "--data-dir",
        str(pets),
        "--no-download",
        "--device",
        "cpu",
        "--workers",
        "0",
        "--image-size",
        "64",
        *limits,
    ]


@pytest.fixture
def directory(tmp_path, monkeypatch) -> Path:
    """An empty working directory."""
    place = tmp_path / "run"
    place.mkdir()
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def teachers(directory) -> list[str]:
    """Two teachers with their initial weights, `models/a.pth` and `models/b.pth`; the flags that name the first."""
    (directory / "models").mkdir()
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        torch.save(timm.create_model(TEACHER, num_classes=37).state_dict(), directory / f"models/{name}.pth")
    return ["--model", TEACHER, "--checkpoint", "models/a.pth"]


@pytest.fixture
def ensemble(directory, teachers) -> Path:
    """A file that names both teachers."""
    path = directory / "config.json"
    content = {"models": ["models/a.pth", "models/b.pth"], "names": [TEACHER] * 2, "weights": [0.9, 1.1]}
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def run_script(monkeypatch, capsys, directory) -> Callable[..., Ended]:
    """`run_script("train", *arguments)` runs a script of `mlkd/` as from a shell, only in this process."""
    small_student(monkeypatch.setattr)

    def run(script: str, *arguments: str) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        code = 0
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)
                importlib.import_module(f"mlkd.{script}").main()
        except SystemExit as end:
            code = end.code
        return Ended(code, *capsys.readouterr())

    return run
