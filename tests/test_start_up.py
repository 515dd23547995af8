"""Scripts find the repository, import what they need and leave the rest to those who ask for it."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from common.command_line import REPOSITORY, cli_main
from common.interrupts import leave_imports, stop_in_imports

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

# modules of the repository that take long to import, by `python -m`
PROGRAMS = ["common.models", "common.analyze", "common.results", "common.data.synthetic", "common.teacher_cache"]
PROGRAMS += ["common.plan", "common.convert_checkpoint", "benchmarks.step"]

INTERRUPT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["INTERRUPTED_AT"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""

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


def interrupted(tmp_path, module: str, *command: str) -> subprocess.CompletedProcess[str]:
    """A program whose process gets SIGINT when it is about to import `module`."""
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    paths = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": paths, "INTERRUPTED_AT": module}
    empty = tmp_path / "empty"
    empty.mkdir()
    ended = subprocess.run([sys.executable, *command], cwd=empty, env=environment, capture_output=True, text=True)
    assert not list(empty.iterdir())
    return ended


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPT_FILES)
def test_ctrl_c_while_a_script_imports(script, tmp_path):
    ended = interrupted(tmp_path, "torch", str(REPOSITORY / f"{script.replace('.', '/')}.py"), "--help")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stopped\n")


@pytest.mark.slow
@pytest.mark.parametrize("module", PROGRAMS)
def test_ctrl_c_while_a_module_imports(module, tmp_path):
    ended = interrupted(tmp_path, "common.command_line", "-m", module, "--help")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stopped\n")


@pytest.mark.slow
@pytest.mark.parametrize("module", ["numpy", "torch._C", "torch.nn", "common.models", "tfkd.build"])
def test_ctrl_c_at_many_moments_of_the_imports(module, tmp_path):
    ended = interrupted(tmp_path, module, str(REPOSITORY / "tfkd/main.py"), "--help")
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "stopped\n")


def test_ctrl_c_after_the_imports_is_an_exception_again():
    """Which training takes to save, and to say how to go on."""

    @cli_main
    def main() -> None:
        assert signal.getsignal(signal.SIGINT) is not leave_imports
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    try:
        stop_in_imports()
        assert signal.getsignal(signal.SIGINT) is leave_imports
        main()
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_that_is_ignored_stays_so():
    """As in a shell's background job."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        stop_in_imports()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
