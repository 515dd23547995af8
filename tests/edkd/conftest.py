"""The scripts of this paper, run in this process."""

import importlib
import sys
from collections.abc import Callable

import pytest

from tests.processes import Ended


@pytest.fixture
def run_script(monkeypatch, capsys) -> Callable[..., Ended]:
    """`run_script("train", *arguments)` runs `edkd/tools/train.py` as from a shell, only in this process."""

    def run(script: str, *arguments: str) -> Ended:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *map(str, arguments)])
        code = 0
        try:
            importlib.import_module(f"edkd.tools.{script}").main()
        except SystemExit as end:
            code = end.code
        return Ended(code, *capsys.readouterr())

    return run
