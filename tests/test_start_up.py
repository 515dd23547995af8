"""Scripts find the repository, import what they need and leave the rest to those who ask for it."""

import os
import shutil
import subprocess
import sys

import pytest

from common.command_line import REPOSITORY

SCRIPTS = {
    "tfkd": ["tfkd.main", "tfkd.evaluate"],
    "edkd": ["edkd.tools.train", "edkd.tools.eval"],
    "mtkd_rl": ["mtkd_rl.train_baseline", "mtkd_rl.train_student_avg", "mtkd_rl.train_student_rl"],
    "mlkd": ["mlkd.train", "mlkd.calibrate", "mlkd.train_teacher"],
}
MODULES = [module for modules in SCRIPTS.values() for module in modules]
# the files that people call
SCRIPT_FILES = ["mlkd.mlkd" if module == "mlkd.train" else module for module in MODULES]
SCRIPT_FILES += ["edkd.tools.check_distiller", "benchmarks.gpu_first_run"]
SLOW = {
    "torchvision",
    "timm",
    "tensorboard",
    "matplotlib",
    "torch.utils.tensorboard",
    "torch._dynamo",
    "torch._inductor",
}
WITH_TIMM = {"torchvision", "timm", "torch._dynamo", "torch._inductor"}  # all of which timm imports

ASK_FOR_HELP = """
import contextlib, importlib, sys
for script in sys.argv[1:]:
    sys.argv = [script, "--help"]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(sys.stderr):
        importlib.import_module(script).main()
print(*sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("paper", SCRIPTS)
def test_help_imports_nothing_slow(paper):
    ended = subprocess.run(
        [sys.executable, "-c", ASK_FOR_HELP, *SCRIPTS[paper]], capture_output=True, text=True, check=True
    )
    assert ended.stderr.count("usage:") == len(SCRIPTS[paper])
    imported = set(ended.stdout.split())
    assert "torch" in imported
    assert imported & SLOW <= (WITH_TIMM if paper == "mlkd" else set())


@pytest.mark.parametrize("script", SCRIPT_FILES)
def test_scripts_run_from_any_directory_without_being_installed(script, tmp_path):
    """In a tree whose `common` and `torch` do nothing but say that they were found."""
    tree, elsewhere = tmp_path / "tree", tmp_path / "elsewhere"
    file = tree / f"{script.replace('.', '/')}.py"
    file.parent.mkdir(parents=True)
    elsewhere.mkdir()
    shutil.copy(REPOSITORY / file.relative_to(tree), file)
    if script == "mlkd.mlkd":
        shutil.copy(REPOSITORY / "mlkd/train.py", file.parent)
        shutil.copy(REPOSITORY / "mlkd/__init__.py", file.parent)
    for package in ("common", "torch"):
        (tree / package).mkdir()
        (tree / package / "__init__.py").write_text("raise SystemExit(7)")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    ended = subprocess.run([sys.executable, file], cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert ended.returncode == 7, ended.stderr
