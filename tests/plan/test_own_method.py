"""CONTRIBUTING's way for a method of one's own into plan and tables, followed to the letter in a copy of the tree."""

import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from common.command_line import REPOSITORY
from tests.edkd.test_custom_distiller import code_blocks

SECTION = "Your method in the plan and the tables"


def section() -> str:
    return (REPOSITORY / "CONTRIBUTING.md").read_text().partition(f"## {SECTION}\n")[2].partition("\n## ")[0]


def write_distiller(root) -> None:
    """The recipe of edkd/README.md."""
    blocks = dict(code_blocks("A distiller of your own"))
    for file in ("edkd/distillers/MyKD.py", "edkd/configs/cifar100/mykd.yaml"):
        (root / file).write_text(blocks[file])
    init, cfg = root / "edkd/distillers/__init__.py", root / "edkd/engine/cfg.py"
    importing, entry = blocks["edkd/distillers/__init__.py"].split("\n\n")
    begin = "\ndistiller_dict = {\n"
    init.write_text(init.read_text().replace(begin, f"{importing}\n{begin}    {entry.strip()}\n"))
    cfg.write_text(f"{cfg.read_text()}\n{blocks['edkd/engine/cfg.py']}")


@pytest.mark.slow
def test_a_method_of_ones_own_stands_in_the_table(tmp_path):
    results = {"mlkd": "models", "edkd": "output", "mtkd_rl": "checkpoint", "tfkd": "*.pth.tar"}
    for package, own in results.items():
        left = shutil.ignore_patterns("__pycache__", own)
        shutil.copytree(REPOSITORY / package, tmp_path / package, ignore=left)
    for package in ("common", "experiments"):
        shutil.copytree(
            REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "measured")
        )
    shutil.copy(REPOSITORY / "pyproject.toml", tmp_path)
    write_distiller(tmp_path)
    ((file, plan),) = re.findall(r"`(experiments/[\w/.]+)`\n\n```json\n(.*?)```", section(), flags=re.DOTALL)
    (tmp_path / file).write_text(plan)

    smoke = next(line for line in section().splitlines() if line.startswith("./run_all.sh --budget smoke"))
    ended = subprocess.run(
        [sys.executable, "-m", "common.plan", *shlex.split(smoke, comments=True)[1:]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 of 2 runs done" in ended.stdout
    tables = (tmp_path / "results/smoke/tables.md").read_text()
    (row,) = [line for line in tables.splitlines() if line.startswith("| MyKD")]
    assert "resnet32x4 / resnet8x4" in row
    assert "†" in row, "measured, on the synthetic dataset"
    assert "MyKD" in (tmp_path / "results/index.html").read_text()
