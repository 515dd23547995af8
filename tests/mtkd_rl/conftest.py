"""The scripts of this paper on the synthetic dataset, with two small teachers from the paper's own script."""

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import Ended

TEACHERS = ("resnet8", "wrn_10_1")


def run_main(script: str, arguments: list[str]) -> int:
    """Call `mtkd_rl/<script>.py` in this process; gives its exit code."""
    before, sys.argv = sys.argv, [f"{script}.py", *map(str, arguments)]
    try:
        importlib.import_module(f"mtkd_rl.{script}").main()
    except SystemExit as end:
        return end.code
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="session")
def small(generated_data) -> list[str]:
    """Flags of a run on the synthetic dataset that takes seconds."""
    data = ["--data-dir", str(generated_data), "--no-download", "--device", "cpu"]
    return [*data, "--limit-train-batches", "3", "--limit-eval-batches", "1"]


@pytest.fixture(scope="session")
def trained(small, tmp_path_factory) -> Path:
    """A directory of checkpoints that holds the teachers."""
    root = tmp_path_factory.mktemp("trained")
    for model in TEACHERS:
        flags = ["--model", model, "--epochs", "1", "--checkpoint-dir", root, *small]
        assert run_main("train_baseline", flags) == 0
    return root


@pytest.fixture
def checkpoints(trained, tmp_path, monkeypatch) -> Path:
    """`./checkpoint` of a fresh working directory, with the teachers in it."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "checkpoint"))


@pytest.fixture
def run_script(capsys) -> Callable[..., Ended]:
    """`run_script("train_student_rl", *arguments)`: as from a shell, only in this process."""

    def run(script: str, *arguments: str) -> Ended:
        capsys.readouterr()
        code = run_main(script, list(arguments))
        return Ended(code, *capsys.readouterr())

    return run
