"""The README followed from nothing: what it shows is typed, and what the errors advise is done."""

import json
import re
import shlex
from pathlib import Path

import pytest

from common.command_line import REPOSITORY
from tests.mlkd.checks import CONFIG
from tests.processes import record

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


@pytest.mark.slow
def test_the_readmes_ensemble_runs_as_it_stands(run_script, pets, config, directory):
    """The README's command names what is missing; five small trainings by that advice, and it runs."""
    assert COMMAND in PAGE
    small = ["-b", "2", "-e", "1", "--limit-train-batches", "1", "--limit-eval-batches", "1"]
    small += ["--device", "cpu", "--workers", "0", "--no-download"]
    student = [*words(COMMAND), "--data-dir", str(pets), *small]

    ended = run_script("train", *student)
    assert ended.code == 2
    advice = re.findall(r"`(python3 train_teacher.py [^`]*)`", ended.stderr)
    assert [words(command)[1] for command in advice] == CONFIG["models"]
    for command in advice:
        ended = run_script("train_teacher", *words(command), *small, "--no-pretrained")
        assert ended.code == 0, ended.stderr
    assert {path.stem for path in (directory / "models").glob("*.pth")} == set(CONFIG["names"])

    ended = run_script("train", *student)
    assert ended.code == 0, ended.stderr
    teachers = record(directory / "models/student_model")["settings"]["teachers"]
    assert [teacher["name"] for teacher in teachers] == CONFIG["models"]
    assert [teacher["weight"] for teacher in teachers] == CONFIG["weights"]
    log = (directory / "models/student_model/train.log").read_text()
    assert "config.json: timm's names are those in 'models', checkpoints those in 'names'" in log
    for model, name in zip(CONFIG["models"], CONFIG["names"], strict=True):
        assert f"teacher {model} from {directory / 'models' / name}.pth" in log

    ended = run_script("calibrate", "--ensemble", "config.json", "-d", "oxford-iiit", "--data-dir", str(pets), *small)
    assert ended.code == 0, ended.stderr
    after = json.loads(config.read_text())
    assert {**after, "weights": None} == {**CONFIG, "weights": None}
    assert max(map(abs, after["weights"])) < 5**-0.5 + 0.002


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
