"""The README followed from nothing: what it shows is typed, and what the errors advise is done."""

import re
import shlex
from pathlib import Path

import pytest

from common.command_line import REPOSITORY
from tests.mlkd.checks import CONFIG
from tests.pages import commands

PAGE = (REPOSITORY / "mlkd/README.md").read_text()
COMMAND = "python3 mlkd.py -b 128 -d oxford-iiit -n student_model --ensemble config.json"


@pytest.fixture
def config(directory) -> Path:
    """The page's own file."""
    (content,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    path = directory / "config.json"
    path.write_text(content)
    return path


def words(command: str) -> list[str]:
    """Of a command for `run_script`: what follows the script."""
    return shlex.split(command)[2:]


def test_the_error_advises_the_readmes_own_commands(run_script, pets, config, directory):
    """Which tests/docs/test_readmes.py types ahead of this one."""
    assert COMMAND in PAGE
    ended = run_script("train", *words(COMMAND), "--data-dir", str(pets), "--device", "cpu", "--no-download")
    assert ended.code == 2
    advice = re.findall(r"`(python3 train_teacher.py [^`]*)`", ended.stderr)
    assert [words(command)[1] for command in advice] == CONFIG["models"]
    typed = [command.text for command in commands("mlkd/README.md")]
    assert {command.replace(f" --data-dir {pets}", "") for command in advice} <= set(typed)
    assert [path.name for path in directory.iterdir()] == ["config.json"]


def test_the_readmes_teachers_are_those_of_its_ensemble():
    commands = [
        line.partition("#")[0].split() for line in PAGE.splitlines() if line.startswith("python3 train_teacher")
    ]
    made = {command[command.index("-n") + 1]: command[command.index("--model") + 1] for command in commands}
    assert {name: made.get(name) for name in CONFIG["names"]} == dict(
        zip(CONFIG["names"], CONFIG["models"], strict=True)
    )


def test_one_member_is_missing(run_script, pets, config, directory):
    """A file made by hand is not what is asked for: the advice is about the others alone, until those are there."""
    (directory / "models").mkdir()
    for name in CONFIG["names"][1:]:
        (directory / f"models/{name}.pth").touch()
    ended = run_script("train", *words(COMMAND), "--data-dir", str(pets), "--no-download")
    assert (ended.code, len(ended.stderr.splitlines())) == (2, 1)
    assert "no checkpoint models/oxford_deit.pth of deit_small_distilled_patch16_224 here" in ended.stderr
    assert ended.stderr.count("train_teacher.py") == 1
