"""The README's recipe for a distiller of one's own, followed to the letter in a copy of the tree."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from common.command_line import REPOSITORY
from common.models import create_model

README = REPOSITORY / "edkd/README.md"


def code_blocks(section: str) -> list[tuple[str, str]]:
    """(file, content) of the fenced blocks of a README section, each after a line that names its file in `...`."""
    text = README.read_text().partition(f"## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"`(edkd/[\w/.]+)`(?:(?!```).)*```\w+\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.slow
def test_the_recipe(tmp_path, generated_data):
    for package in ("common", "edkd"):
        shutil.copytree(
            REPOSITORY / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "output")
        )
    blocks = dict(code_blocks("A distiller of your own"))
    assert list(blocks) == [
        "edkd/distillers/MyKD.py",
        "edkd/distillers/__init__.py",
        "edkd/engine/cfg.py",
        "edkd/configs/cifar100/mykd.yaml",
    ]
    # 1. write the file
    (tmp_path / "edkd/distillers/MyKD.py").write_text(blocks["edkd/distillers/MyKD.py"])
    # 2. register it in distiller_dict
    init = tmp_path / "edkd/distillers/__init__.py"
    importing, entry = blocks["edkd/distillers/__init__.py"].split("\n\n")
    text = init.read_text().replace(
        "\ndistiller_dict = {\n", f"{importing}\n\ndistiller_dict = {{\n    {entry.strip()}\n"
    )
    init.write_text(text)
    # 3. register its hyperparameters
    cfg = tmp_path / "edkd/engine/cfg.py"
    cfg.write_text(f"{cfg.read_text()}\n{blocks['edkd/engine/cfg.py']}")
    # 4. a configuration, and train
    (tmp_path / "edkd/configs/cifar100/mykd.yaml").write_text(blocks["edkd/configs/cifar100/mykd.yaml"])
    torch.save({"model": create_model("resnet32x4").state_dict()}, tmp_path / "teacher.pth")
    command = ["tools/train.py", "--cfg", "configs/cifar100/mykd.yaml", "MYKD.T", "2.5"]
    small = ["SOLVER.BATCH_SIZE", "8", "DISTILLER.TEACHER_CKPT", str(tmp_path / "teacher.pth")]
    limits = ["--epochs", "1", "--limit-train-batches", "1", "--limit-eval-batches", "1"]
    ended = subprocess.run(
        [sys.executable, *command, *small, *limits, "--data-dir", str(generated_data)],
        cwd=tmp_path / "edkd",
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    (run,) = (tmp_path / "edkd/output").glob("**/run.json")
    record = json.loads(run.read_text())
    assert record["experiment"].startswith("cifar100/mykd MYKD.T 2.5")
    assert (record["status"], record["settings"]["MYKD.T"]) == ("done", 2.5)
    assert "train/loss_mykd" in (run.parent / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_install_lines():
    """`pip3 install -r requirements.txt` resolves to this repository."""
    pytest.importorskip("setuptools", minversion="77")
    flags = ["--dry-run", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    install = [sys.executable, "-m", "pip", "install", *flags, "-r", "requirements.txt"]
    assert subprocess.run(install, cwd=REPOSITORY / "edkd").returncode == 0
