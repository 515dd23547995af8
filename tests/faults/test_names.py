"""What somebody calls a run is a name: no pattern, no format, and no path that leaves its root."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from common.command_line import is_inside, settings_from
from common.data import load_dataset
from common.errors import UserError
from common.run_record import SKIPPED
from common.training.runtime import Runtime
from mtkd_rl.setting import teacher_directory
from mtkd_rl.student import latest_run, run_directory
from mtkd_rl.student_flags import LATEST, StudentFlags, student_parser
from tests.processes import CNN, snapshot
from tests.run_records import make_record

# names that mean something to a shell, to glob, to str.format, to %, to regular expressions
PATTERNS = [
    "lr[0.05]",
    "*",
    "?",
    "a*",
    "[!x]",
    "**",
    "{0}",
    "{dataset}",
    "{x.__class__}",
    "%s",
    "%(x)s",
    "(",
    "a|b",
    "$HOME",
    "~",
]
ESCAPES = ["..", "/../..", "../x", "a/../../x", "/tmp/x", "a/b/../../../x"]

SETTINGS = {"a": [1, 2]}


def finished(directory: Path, started: str) -> None:
    directory.mkdir(parents=True)
    record = make_record(settings=SETTINGS, started=started)
    (directory / "run.json").write_text(json.dumps(record.to_json()))


@pytest.mark.parametrize("name", PATTERNS)
def test_a_run_is_found_again_by_its_name_alone(name, tmp_path):
    prefix = f"resnet8_cifar100_rl_{name}_1_vgg8"
    assert latest_run(tmp_path / "absent", prefix, SETTINGS) is None
    finished(tmp_path / f"{prefix}01-01-2026", "2026-01-01")
    finished(tmp_path / f"{prefix}02-01-2026", "2026-01-02")
    finished(tmp_path / "resnet8_cifar100_rl_lr0_1_vgg803-01-2026", "2026-01-03")  # which `lr[0.05]` would match
    (tmp_path / "a file").touch()
    assert latest_run(tmp_path, prefix, SETTINGS) == tmp_path / f"{prefix}02-01-2026"
    assert latest_run(tmp_path, prefix, {"a": [1]}) is None


def test_a_run_of_another_trial_is_not_found(tmp_path):
    """`--trial 1_1_vgg8` begins as `--trial 1` with the teacher vgg8 does."""
    finished(tmp_path / "resnet8_cifar100_rl_1_1_vgg8_1_vgg801-01-2026", "2026-01-01")
    assert latest_run(tmp_path, "resnet8_cifar100_rl_1_1_vgg8", SETTINGS) is None


@pytest.mark.parametrize("trial", ["1", "x" * 200, "é" * 100])
@pytest.mark.parametrize("teachers", [["vgg8"], [f"resnet{n}x4_double" for n in range(40)]])
def test_names_of_runs_with_many_teachers_are_made_and_found_again(trial, teachers, tmp_path):
    where = ["--trial", trial, "--checkpoint-dir", str(tmp_path), "--teacher-name-list"]
    args = student_parser("").parse_args(["--arch", "resnet8", *where, *teachers])
    flags = settings_from(StudentFlags, args)
    made = run_directory(flags, "MTKD-RL_" + "feat-weight_1_" * 20, SETTINGS, Runtime(torch.device("cpu")))
    (made / f"{made.name}.txt").touch()
    (made / "run.json").write_text(json.dumps(make_record(settings=SETTINGS).to_json()))
    again = dataclasses.replace(flags, resume=LATEST)
    assert run_directory(again, "MTKD-RL", SETTINGS, Runtime(torch.device("cpu"))) == made
    other = dataclasses.replace(again, teacher_name_list=["vgg13", *teachers])
    assert run_directory(other, "MTKD-RL", SETTINGS, Runtime(torch.device("cpu"))) != made


def test_names_of_teachers_have_room_for_every_trial(tmp_path):
    places = {teacher_directory("resnet8x4_double", "cub_200_2011", 0.05, 5e-4, "x" * 199 + end) for end in "ab"}
    for place in places:
        (tmp_path / place).mkdir(parents=True)
    assert len(places) == 2


# script, arguments around the name
FLAGS = {
    "trial of a teacher": ("mtkd_rl.train_baseline", ["--trial"]),
    "trial of a student": ("mtkd_rl.train_student_avg", ["--trial"]),
    "trial of another": ("mtkd_rl.train_student_rl", ["--trial"]),
    "name of a student": ("mlkd.train", ["-n"]),
    "name of a teacher": ("mlkd.train_teacher", ["--model", "resnet18", "-n"]),
    "restored file": ("tfkd.main", ["--restore_file"]),
    "evaluated file": ("tfkd.evaluate", ["--restore_file"]),
}


@pytest.mark.parametrize("name", [*ESCAPES, "", ".", "a\nb", "a\x00b"])
@pytest.mark.parametrize("flag", FLAGS)
def test_a_name_that_is_no_name(flag, name, call, workspace):
    workspace.experiment(CNN)
    script, arguments = FLAGS[flag]
    before = snapshot(workspace.root.parent)
    ended = call([*arguments, name], script)
    assert ended.code == 2
    assert re.fullmatch(r"error: argument [^\n]+ is not a plain name[^\n]+\n", ended.stderr), ended.stderr
    assert snapshot(workspace.root.parent) == before


@pytest.mark.parametrize("flag", FLAGS)
def test_a_name_that_no_file_can_have(flag, call, workspace):
    workspace.experiment(CNN)
    script, arguments = FLAGS[flag]
    for name in ("x" * 300, "é" * 150):
        ended = call([*arguments, name], script)
        assert (ended.code, "is longer than a file's name: 200 bytes at most" in ended.stderr) == (2, True), ended


@pytest.mark.parametrize("flag", [flag for flag in FLAGS if "file" not in flag])
def test_a_name_of_something_new_has_one_part(flag, call):
    script, arguments = FLAGS[flag]
    ended = call([*arguments, "a/b"], script)
    assert (ended.code, "is not a plain name" in ended.stderr) == (2, True)


KEYS = {
    **{
        f"project {name}": ("EXPERIMENT.PROJECT", name) for name in [*ESCAPES, "a\x00b", "a\nb", *SKIPPED, "a/sweeps/b"]
    },
    **{f"name {name!r}": ("EXPERIMENT.NAME", name) for name in ["..", ".", "a\x00b", "a\nb"]},
    **{f"tag {name!r}": ("EXPERIMENT.TAG", name) for name in ["..", "."]},
}


@pytest.mark.parametrize("case", KEYS)
@pytest.mark.parametrize("way", ["file", "command line"])
def test_a_place_outside_of_the_output(way, case, call, workspace):
    key, value = KEYS[case]
    arguments = [key, value]
    if way == "file":
        file = workspace.root / "mine.yaml"
        file.write_text(f"EXPERIMENT:\n  {key.partition('.')[2]}: {json.dumps(value)}\n")
        arguments = ["--cfg", str(file)]
    before = snapshot(workspace.root.parent)
    ended = call([*arguments, "DISTILLER.STUDENT", "resnet8", "--no-download"], "edkd.tools.train")
    assert ended.code == 2
    assert re.fullmatch(rf"error: {key} is [^\n]+, but must be the name of a directory[^\n]*\n", ended.stderr), ended
    assert snapshot(workspace.root.parent) == before


@pytest.mark.parametrize("name", ESCAPES)
def test_data_outside_of_their_directory(name, tmp_path):
    with pytest.raises(UserError, match=r"is not below .*: give its name, and its directory with --data-dir"):
        load_dataset(name, tmp_path, download=False)


@pytest.mark.parametrize("name", [*PATTERNS, "a/b", "...", "a..b", "é", "a b"])
def test_names_that_stay_inside(name):
    assert is_inside(name)
