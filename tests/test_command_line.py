"""What all command lines share: help, nearest names, and what is said when somebody stops them."""

import importlib
import re
import subprocess
import sys

import pytest

from common.command_line import ArgumentParser, cli_main, nearest, resolve_path
from tests.processes import REPOSITORY

SCRIPTS = {
    "tfkd": ["main", "evaluate"],
    "edkd": ["tools.train", "tools.eval"],
    "mtkd_rl": ["train_baseline", "train_student_avg", "train_student_rl"],
    "mlkd": ["train", "calibrate", "train_teacher"],
}


@pytest.mark.parametrize("script", [f"{paper}.{name}" for paper, names in SCRIPTS.items() for name in names])
def test_help_names_each_default_once(script, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit):
        importlib.import_module(script).main()
    text = " ".join(capsys.readouterr().out.split())
    assert "usage:" in text
    assert not re.search(r"\(default: (None|False|\[.*)?\)|\(default: [^)]*\) \(default", text)


def test_help_names_defaults_that_say_something():
    parser = ArgumentParser()
    parser.add_argument("--seed", type=int, default=0, help="of chance")
    parser.add_argument("--names", nargs="*", default=["a", "b"], help="of all")
    assert "of chance (default: 0)" in parser.format_help()
    assert "of all (default: a b)" in parser.format_help()


# flags of the training scripts that mean nothing in others
MEANINGLESS = {
    "tfkd.evaluate": [
        "--resume",
        "--seed 1",
        "--limit-train-batches 1",
        "--compile",
        "--no-graphs",
        "--val-fraction 0",
    ],
    "edkd.tools.eval": ["--resume", "--seed 1", "--limit-train-batches 1", "--compile", "--image-size 32"],
    "mlkd.calibrate": ["--resume", "--compile", "--plain", "--no-graphs"],
}


@pytest.mark.parametrize(("script", "flag"), [(script, flag) for script in MEANINGLESS for flag in MEANINGLESS[script]])
def test_flags_that_would_do_nothing_are_refused(script, flag, monkeypatch, capsys):
    needed = ["--ensemble", "config.json"] if script == "mlkd.calibrate" else []
    monkeypatch.setattr(sys, "argv", [script, *needed, *flag.split()])
    with pytest.raises(SystemExit) as end:
        importlib.import_module(script).parse_arguments()
    assert end.value.code == 2
    assert f"unrecognized arguments: {flag.split()[0]}" in capsys.readouterr().err


def test_no_words_at_all():
    parser = ArgumentParser()
    parser.add_argument("--budget", default="paper")
    assert parser.parse_args([]).budget == "paper"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--bugdet=quick"], "unrecognized arguments: --bugdet=quick: did you mean '--budget'?"),
        (["--frobnicate"], "unrecognized arguments: --frobnicate (see"),
        (["quick"], "unrecognized arguments: quick (see"),
    ],
)
def test_misspelled_flags(given, said, capsys):
    parser = ArgumentParser(prog="plan")
    parser.add_argument("--budget")
    with pytest.raises(SystemExit):
        parser.parse_args(given)
    assert said in capsys.readouterr().err


NO_DATA = ["--no-download", "--data-dir", "nowhere"]
EDKD = ["tools/train.py", "--cfg", "configs/cifar100/kd/res32x4_res8x4.yaml"]
RL = ["train_student_rl.py", "--arch", "resnet8", "--teacher-name-list"]
WRONG_NAMES = {
    "edkd student": ("edkd", [*EDKD, *NO_DATA, "DISTILLER.STUDENT", "resnet8x5"], "resnet8x4"),
    "edkd teacher": ("edkd", [*EDKD, *NO_DATA, "DISTILLER.TEACHER", "resnet32x5"], "resnet32x4"),
    "edkd evaluation": ("edkd", ["tools/eval.py", "-m", "ResNet20", *NO_DATA], "resnet20"),
    "mtkd_rl teacher": ("mtkd_rl", ["train_baseline.py", "--model", "resnet32x5", *NO_DATA], "resnet32x4"),
    "mtkd_rl teachers": ("mtkd_rl", [*RL, "wrn_28_5", "resnet8", *NO_DATA], "wrn_28_4"),
    "mlkd teacher": ("mlkd", ["mlkd.py", "--model", "resnet19", "--checkpoint", "x", *NO_DATA], "resnet18"),
    "mlkd teacher's training": ("mlkd", ["train_teacher.py", "--model", "resnt18", "-n", "x", *NO_DATA], "resnet18"),
    "tfkd experiment": ("tfkd", ["main.py", "--model_dir", "experiments/base_resnet19", *NO_DATA], "base_resnet18"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG_NAMES)
def test_wrong_names_are_said_before_data_are_read(case, tmp_path):
    paper, (script, *arguments), meant = WRONG_NAMES[case]
    command = [sys.executable, REPOSITORY / paper / script, *arguments]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 2
    assert re.fullmatch(rf"error: [^\n]* did you mean '\S*{meant}'\?[^\n]* lists all\)\n", ended.stderr)
    assert not list(tmp_path.iterdir())


def test_nearest_names():
    names = ["resnet20", "resnet32", "vgg8"]
    assert nearest("ResNet20", names, "ls").startswith("did you mean 'resnet20'?")
    assert nearest("resnet22", names, "ls").endswith("`ls` lists all)")
    assert nearest("transformer", names, "ls") == "`ls` lists all"
    directories = ["resnet101_teacher", "resnet18_teacher", "resnet50_teacher_inferred"]
    assert nearest("resnet50_teacher", directories, "ls").startswith("did you mean 'resnet50_teacher_inferred'?")


def test_a_link_to_nowhere_is_not_passed_over(tmp_path, monkeypatch):
    """In the repository lies another one of that name, which nobody meant."""
    monkeypatch.chdir(tmp_path)
    assert resolve_path("experiments", "tfkd") == REPOSITORY / "experiments"
    (tmp_path / "experiments").symlink_to("nowhere")
    assert resolve_path("experiments", "tfkd") == tmp_path / "experiments"


def test_paths_that_no_file_can_have(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("x" * 5000, "a\0b"):
        assert resolve_path(path, "tfkd") == tmp_path / path


@pytest.mark.parametrize(
    ("advice", "said"), [((), "stopped\n"), (("the same command with --resume goes on",), None)], ids=["none", "some"]
)
def test_stopping_advises_only_what_helps(advice, said, capsys):
    def stopped() -> None:
        raise KeyboardInterrupt(*advice)

    with pytest.raises(SystemExit) as end:
        cli_main(stopped)()
    assert end.value.code == 130
    assert capsys.readouterr().err == (said or f"stopped; {advice[0]}\n")


@pytest.mark.slow
def test_networks_can_be_listed():
    command = [sys.executable, "-m", "common.models"]
    ended = subprocess.run([*command, "mtkd_rl"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert "RegNetX_200MF" in ended.stdout.split()
    ended = subprocess.run([*command, "nobody"], cwd=REPOSITORY, capture_output=True, text=True)
    assert ended.returncode == 2
