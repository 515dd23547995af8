"""The way to an environment: what needs none works without, and what goes wrong is one line with what to do."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SCRIPT = REPOSITORY / "scripts" / "environment.py"


@pytest.fixture
def manager():
    spec = importlib.util.spec_from_file_location("environment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """Surroundings in which the only Python has no packages and cannot install any."""
    no_packages = f'case "$*" in *create*) echo would install; exit 9;; esac\nexec {sys.executable} -S -E "$@"'
    for name in ("python", "python3"):
        executable(tmp_path / "bin" / name, no_packages)
    path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
    return {"PATH": path, "KD_ENVIRONMENT": str(tmp_path / "venv"), "HOME": str(tmp_path)}


def run_all(bare: dict[str, str], *flags: str) -> subprocess.CompletedProcess:
    command = [REPOSITORY / "run_all.sh", *flags]
    return subprocess.run(command, env=bare, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--help"], "--budget NAME"),
        (["-h"], "--budget NAME"),
        (["--version"], "kd-reference 0."),
        (["--quick", "--dry-run", "--papers", "tfkd"], "estimate of what remains"),
    ],
)
def test_what_needs_no_packages_works_without(bare, flags, said):
    ended = run_all(bare, *flags)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert said in ended.stdout
    assert not Path(bare["KD_ENVIRONMENT"]).exists()


def test_wrong_flags_are_said_before_anything_is_installed(bare):
    ended = run_all(bare, "--seeds", "a")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("error: argument --seeds: a is not a list of different seeds")


def test_it_is_called_as_it_was_typed(bare, tmp_path):
    """From another directory, through a link, and where `cd` prints because of CDPATH."""
    ended = run_all({**bare, "CDPATH": str(REPOSITORY.parent)}, "--seeds", "a")
    assert ended.stderr.endswith(f"(see {REPOSITORY}/run_all.sh --help)\n")
    (tmp_path / "link").symlink_to(REPOSITORY / "run_all.sh")
    command = [tmp_path / "link", "--version"]
    linked = subprocess.run(command, env=bare, capture_output=True, text=True)
    assert (linked.returncode, linked.stderr) == (0, "")
    command, surroundings = [f"{REPOSITORY.name}/run_all.sh", "--version"], {**bare, "CDPATH": str(REPOSITORY.parent)}
    ended = subprocess.run(["bash", *command], env=surroundings, cwd=REPOSITORY.parent, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", linked.stdout)


def test_other_runs_install_first(bare):
    ended = run_all(bare, "--quick")
    assert (ended.returncode, ended.stdout) == (9, "would install\n")


def test_versions_are_compared_with_their_bounds(manager, monkeypatch):
    monkeypatch.setattr(manager.importlib.metadata, "version", lambda name: "2.11.0+cpu")
    assert manager.is_met("torch>=2.11,<3")
    assert not manager.is_met("torch>=2.12,<3")
    assert not manager.is_met("torch>=1,<2.11")
    monkeypatch.undo()
    assert not manager.is_met("no-such-package>=0")


def test_all_bounds_of_the_requirements_are_understood(manager):
    assert len(manager.requirements()) == 10
    assert all(map(manager.is_met, manager.requirements()))  # the tests need them themselves


PIP_SAID = {
    "disk": ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
    "managed": ("error: externally-managed-environment\n\n× This environment is externally managed", "-m venv .venv"),
    "offline": (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(...)': /simple/torch/\n"
        "ERROR: Could not find a version that satisfies the requirement torch (from versions: none)\n"
        "ERROR: No matching distribution found for torch",
        "package index cannot be reached: go online",
    ),
    "silent": (
        "ERROR: Could not find a version that satisfies the requirement setuptools>=77 (from versions: none)\n"
        "ERROR: No matching distribution found for setuptools>=77",
        "the package index has nothing for setuptools>=77: it cannot be reached (go online",
    ),
    "certificate": ("Could not fetch URL: There was a problem confirming the ssl certificate: SSLError", "PIP_CERT"),
    "no build": ("ERROR: No matching distribution found for torch<3,>=2.11", "there is no build of torch"),
    "read-only": ("ERROR: Could not install packages due to an OSError: [Errno 30] Read-only file system", "writable"),
    "no pip": ("/usr/bin/python3: No module named pip", "apt install python3"),
    "unknown": ("ERROR: a flood\nmore", "installing failed: a flood (all of it: "),
}


@pytest.mark.parametrize("case", PIP_SAID)
def test_what_pip_says_becomes_one_line(case, manager, tmp_path, monkeypatch):
    said, expected = PIP_SAID[case]
    monkeypatch.setattr(manager.tempfile, "tempdir", str(tmp_path))  # of the file that keeps all of it
    (tmp_path / "said").write_text(said)
    python = executable(tmp_path / "python", f"cat {tmp_path / 'said'}; exit 1")
    with pytest.raises(SystemExit) as error:
        manager.install(str(python), ["torch"])
    assert expected in error.value.code
    assert error.value.code.startswith("error: ")
    assert "\n" not in error.value.code


def test_a_full_disk_is_noticed_before_anything_is_written(manager, monkeypatch, tmp_path):
    monkeypatch.setattr(manager.shutil, "disk_usage", lambda place: _Usage(2e9))
    monkeypatch.setattr(manager, "SPACE", 5.6)
    with pytest.raises(SystemExit, match=r"the disk is full: .* takes up to [\d.]+ GB, and 2\.0 GB are free there"):
        manager.create(tmp_path / "venv")
    assert not (tmp_path / "venv").exists()


class _Usage:
    def __init__(self, free: float) -> None:
        self.free = free


def test_a_python_without_venv_is_told_what_to_install(manager, monkeypatch, tmp_path):
    monkeypatch.setattr(manager.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"lacks the modules that make virtual environments: .*apt install python3"):
        manager.create(tmp_path / "venv")


def test_a_place_that_cannot_be_written(manager, monkeypatch, tmp_path):
    monkeypatch.setattr(manager.os, "access", lambda *_: False)
    with pytest.raises(SystemExit, match=r"cannot write .*venv: make it writable, or let KD_ENVIRONMENT"):
        manager.create(tmp_path / "venv")


def test_size_and_time_are_said_before_installing(manager, monkeypatch, tmp_path, capsys):
    """The environment is made for real; pip is not called."""
    asked = []
    monkeypatch.setattr(manager, "SPACE", 0.001)
    monkeypatch.setattr(manager, "install", lambda python, arguments: asked.append((python, arguments)))
    manager.subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    run = subprocess.run
    monkeypatch.setattr(manager.subprocess, "run", lambda c, **o: run([*c, "--without-pip"] if "venv" in c else c, **o))
    manager.create(tmp_path / "venv")
    assert "GB of disk" in capsys.readouterr().out
    ((python, arguments),) = asked
    assert python == str(tmp_path / "venv/bin/python")
    assert arguments == [*manager.requirements(), "-e", str(REPOSITORY)]


def test_a_directory_that_is_no_environment_keeps_its_files(manager, monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    commands = []
    monkeypatch.setattr(manager, "SPACE", 0.001)
    monkeypatch.setattr(manager, "install", lambda *_: None)
    made = subprocess.CompletedProcess([], 0, "")
    monkeypatch.setattr(manager.subprocess, "run", lambda c, **o: commands.append(c) or made)
    manager.create(tmp_path / "mine")
    assert all("--clear" not in command for command in commands)


def test_setup_py_says_that_nothing_is_left_to_do():
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    setup = [sys.executable, "setup.py"]
    options = {"cwd": REPOSITORY / "edkd", "env": environment, "capture_output": True, "text": True}
    ended = subprocess.run([*setup, "develop"], **options)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("nothing is left to do")
    ended = subprocess.run([*setup, "bdist"], **options)
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1
