"""Absurd numbers in flags, and an environment that is half set: one line, exit 2, nothing written."""

import errno
import importlib
import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.checkout import git
from common.command_line import REPOSITORY, ArgumentParser, cli_main, resolve_path
from common.errors import UserError
from common.training.runtime import add_runtime_flags, resolve_device, runtime_from
from mtkd_rl.train_baseline import CHOSEN, choose_gpus, visible_gpus
from tests.training.test_engine import run_directory

RUNTIME = ("--seed", "--limit-train-batches", "--limit-eval-batches", "--num-threads")
COUNTS = {
    "tfkd.main": (*RUNTIME, "--epochs", "-warm", "--num_class", "--image-size"),
    "tfkd.evaluate": ("--limit-eval-batches", "--num-threads", "--num_class", "--image-size"),
    "mtkd_rl.train_baseline": (*RUNTIME, "--epochs", "--batch_size", "--num_workers", "--lr_decay_epochs"),
    "mtkd_rl.train_student_avg": (*RUNTIME, "--epochs", "-b", "--kd-T", "-j", "--milestones", "--gpu", "--rank"),
    "mtkd_rl.train_student_rl": ("--agent-step", "--world-size"),
    "mlkd.train": (*RUNTIME, "-e", "-b", "-s", "--world-size", "--workers", "--image-size"),
    "mlkd.train_teacher": ("-e", "-b", "-s", "--world-size"),
    "mlkd.calibrate": ("-e", "-b"),
    "edkd.tools.train": (*RUNTIME, "--epochs"),
    "edkd.tools.eval": ("-bs", "--limit-eval-batches"),
    "common.plan.__main__": ("--seeds", "--jobs", "--cpus-per-run"),
    "common.data.synthetic.__main__": ("--train-per-class", "--test-per-class", "--classes", "--seed"),
}
REALS = {
    "tfkd.main": ("--val-fraction",),
    "mtkd_rl.train_baseline": ("--learning_rate", "--lr_decay_rate", "--weight_decay", "--momentum", "--val-fraction"),
    "mtkd_rl.train_student_avg": ("--init-lr", "--wd", "--feat-weight"),
    "mlkd.train": ("--mixup-alpha", "--cutmix-alpha", "--alpha", "--temperature"),
    "mlkd.train_teacher": ("--lr", "--mixup-alpha", "--cutmix-alpha"),
    "common.plan.__main__": ("--gpus-per-run",),
}
NO_COUNTS = ["-7", "9" * 5000, "1000000000000000000000", "nan", "inf", "1e3", "0x10", "1_0", "2.5", "", " ", "three"]
NO_REALS = ["-1", "9" * 5000, "1e999", "nan", "inf", "-inf", "0x10", "", "three"]


@pytest.mark.parametrize(
    ("script", "flag", "value"),
    [
        *((script, flag, value) for script, flags in COUNTS.items() for flag in flags for value in NO_COUNTS),
        *((script, flag, value) for script, flags in REALS.items() for flag in flags for value in NO_REALS),
    ],
)
def test_absurd_numbers_are_one_line(script, flag, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"{flag}={value}"] if flag.startswith("--") else [flag, value]
    monkeypatch.setattr(sys, "argv", ["script", *words])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(script).main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    errors = capsys.readouterr().err
    assert ended.value.code == 2
    assert (errors.count("error: "), len(errors.splitlines()) <= 3, len(errors) < 1500) == (1, True, True)
    assert "Traceback" not in errors
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["mlkd.train", "mlkd.train_teacher"])
def test_processes_are_no_more_than_a_machine_has(script, call):
    ended = call(["--model", "resnet18", "-n", "x", "--checkpoint", "x", "--world-size", "100000"], script)
    assert (ended.code, "--world-size: 100000 is not a number from 1 to 1024" in ended.stderr) == (2, True)


# values that are numbers, but none of their kind
NONE_OF_THEIR_KIND = {
    "mtkd_rl.train_baseline": ["--learning_rate 0", "--momentum 1", "--lr_decay_rate 0", "--lr_decay_rate 1.5"],
    "mtkd_rl.train_student_avg": ["--init-lr 0", "--init-lr 1e-300"],
    "mlkd.train": ["--temperature 1e-300", "--alpha 1.01", "--mixup-alpha 1e-300"],
    "mlkd.train_teacher": ["--lr 1e-300"],
    "common.analyze.__main__": ["--temperature 1e-300", "--temperature nan", "--temperature inf"],
    "common.training.offered_weights": ["--accuracy nan", "--accuracy 101"],
    "benchmarks.loader": ["--batch-size 0", "--workers -1", "--rounds 0", "--threads 0"],
    "benchmarks.pairs": ["--batch-size 0", "--workers -1", "--rounds 0", "--threads 0"],
    "benchmarks.startup": ["--rounds 0"],
    "benchmarks.layouts": ["--seconds nan", "--minutes -1"],
    "benchmarks.gpu_first_run": ["--minutes nan", "--minutes -1"],
}


@pytest.mark.parametrize(
    ("script", "words"), [(script, words) for script, cases in NONE_OF_THEIR_KIND.items() for words in cases]
)
def test_numbers_that_are_none_of_their_kind(script, words, call):
    ended = call(words.split(), script)
    assert ended.code == 2
    flag = words.split()[0]
    assert re.fullmatch(rf"error: argument (-\w/)?{flag}: [^\n]+ is not a [^\n]+\n", ended.stderr), ended


# flags with words and paths, whose variable nobody has set
EMPTY = {
    "tfkd.main": ["--model_dir", "--method", "--data-dir", "--device"],
    "mtkd_rl.train_baseline": ["--checkpoint-dir", "--data-folder"],
    "mtkd_rl.train_student_rl": ["--checkpoint-dir", "--resume", "--data"],
    "mlkd.train": ["--ensemble", "--checkpoint", "--model"],
    "edkd.tools.train": ["--cfg"],
    "common.plan.__main__": ["--papers", "--tables", "--cells", "--budget", "--output", "--metrics", "--cluster"],
    "common.analyze.__main__": ["--json", "--against"],
    "common.results.__main__": ["--html"],
}


@pytest.mark.parametrize("way", ["two words", "one word"])
@pytest.mark.parametrize(("script", "flag"), [(script, flag) for script, flags in EMPTY.items() for flag in flags])
def test_empty_words_are_one_line(script, flag, way, call, workspace):
    ended = call([flag, ""] if way == "two words" else [f"{flag}="], script)
    assert ended.code == 2
    assert re.fullmatch(rf"error: argument {flag}: its value is empty [^\n]+\n", ended.stderr), ended
    assert not list(workspace.root.iterdir())


OUTPUTS = {
    "common.analyze.__main__": ["x", "--json"],
    "common.results.__main__": [".", "--html"],
    "common.results.demonstration": [".", "--svg"],
    "benchmarks.layouts": ["--output"],
}


@pytest.mark.parametrize("script", OUTPUTS)
def test_files_that_cannot_be_written_are_said_before_any_work(script, call, workspace):
    (workspace.root / "directory").mkdir()
    os.mkfifo(workspace.root / "pipe")
    (workspace.root / "device").symlink_to("/dev/null")
    said = {place: f"{place} is a {place}: give a file" for place in ("directory", "pipe", "device")}
    for place, words in {**said, "none/x": "no directory none"}.items():
        ended = call([*OUTPUTS[script], place], script)
        assert (ended.code, words in ended.stderr, ended.stderr.count("\n")) == (2, True, 1), ended
    assert len(list(workspace.root.iterdir())) == 3


OTHER_FILES = {
    "run.json": b'{\n  "version": 2,\n',
    "best.pth": b"PK\x03\x04",
    "notes.md": b"# mine",
    "x.jpg": b"\xff\xd8",
}


@pytest.mark.parametrize("name", OTHER_FILES)
@pytest.mark.parametrize("script", OUTPUTS)
def test_files_of_other_kinds_are_not_overwritten(script, name, call, workspace):
    (workspace.root / name).write_bytes(OTHER_FILES[name])
    (workspace.root / "link").symlink_to(name)
    for place in (name, "link"):
        ended = call([*OUTPUTS[script], place], script)
        assert (ended.code, ended.stderr.count("\n")) == (2, 1)
        assert f"{place} is another kind of file, which would be lost: give a new name" in ended.stderr
    assert (workspace.root / name).read_bytes() == OTHER_FILES[name]


TAUGHT = "DISTILLER.TYPE KD DISTILLER.STUDENT vgg8 DISTILLER.TEACHER vgg13"


def test_an_earlier_file_of_its_kind_is_overwritten(call, workspace):
    for _ in range(2):
        assert call([".", "--html", "page.html"], "common.results.__main__").code == 0


@pytest.mark.parametrize(
    ("script", "words", "said"),
    [
        ("common.plan.__main__", "--dry-run --output file", "argument --output: file is no directory"),
        ("common.plan.__main__", "--dry-run --cpus-per-run 2", "are for a cluster: give --cluster"),
        ("common.plan.__main__", "--dry-run --gpus-per-run 0.5", "are for a cluster: give --cluster"),
        ("common.results.__main__", "file", "file is neither a directory nor a run.json"),
        ("common.results.__main__", ". --across-budgets", "--across-budgets is for --compare"),
        (
            "edkd.tools.train",
            "DISTILLER.STUDENT vgg8 DISTILLER.TEACHER_CKPT x",
            "TYPE NONE takes no teacher: leave the",
        ),
        ("edkd.tools.train", f"{TAUGHT} DISTILLER.TEACHER_CKPT a,b", "names 2 for 1 in DISTILLER.TEACHER (vgg13)"),
        ("benchmarks.teacher_cache", "--pairs resnet8", "resnet8 is not TEACHER,STUDENT"),
        ("benchmarks.teacher_cache", "--pairs resnet8,resnet9", "resnet8,resnet9 is not TEACHER,STUDENT"),
    ],
)
def test_what_a_flag_cannot_be_used_for(script, words, said, call, workspace):
    (workspace.root / "file").touch()
    ended = call(words.split(), script)
    assert (ended.code, said in ended.stderr, ended.stderr.count("\n")) == (2, True, 1), ended


@pytest.mark.parametrize("script", ["common.results.__main__", "common.results.demonstration"])
def test_an_empty_path_is_not_the_working_directory(script, call):
    ended = call([""], script)
    assert (ended.code, ended.stderr.startswith("error: a path is empty (see ")) == (2, True), ended


def test_logits_of_teachers_where_there_are_no_data(call):
    for action in (["list"], ["verify"], ["delete", "--all"]):
        ended = call([*action, "--data-dir", "nowhere"], "common.teacher_cache.__main__")
        assert (ended.code, ended.stderr) == (2, "error: no directory nowhere: --data-dir is that of the datasets\n")


@pytest.mark.parametrize(("errno_", "code"), [(errno.ENAMETOOLONG, 2), (errno.EROFS, 2), (errno.ENOSPC, 1)])
def test_paths_that_lead_nowhere_are_bad_input_and_full_disks_are_not(errno_, code, monkeypatch):
    def main() -> None:
        raise OSError(errno_, os.strerror(errno_), "x")

    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli_main(main)()
    assert ended.value.code == code


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--rank 3", "--rank 3 must be from 0 to 0"),
        ("--world-size 2 --rank 2 --dist-url tcp://127.0.0.1:1", "--rank 2 must be from 0 to 1"),
        ("--world-size 2 --dist-url tcp://127.0.0.1:70000", "must be tcp://HOST:PORT"),
        ("--world-size 2 --dist-url tcp://nobody.invalid:23456", "no such machine"),
    ],
)
def test_machines_that_cannot_meet(words, said, call):
    arguments = ["--arch", "resnet8", "--teacher-name-list", "resnet14", *words.split()]
    ended = call(arguments, "mtkd_rl.train_student_avg")
    assert (ended.code, said in ended.stderr, ended.stderr.count("\n")) == (2, True, 1), ended


HALF_SET = {
    "a rank alone": {"RANK": "0"},
    "a number of ranks alone": {"WORLD_SIZE": "2"},
    "no number": {"RANK": "first", "WORLD_SIZE": "2"},
    "below zero": {"RANK": "-1", "WORLD_SIZE": "2"},
    "beyond the number of ranks": {"RANK": "2", "WORLD_SIZE": "2"},
    "no place to meet": {"RANK": "0", "WORLD_SIZE": "2"},
    "no port": {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"},
    "a port that is none": {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "http"},
    "a local rank that is none": {"LOCAL_RANK": "x"},
    "thousands of digits": {"RANK": "9" * 5000, "WORLD_SIZE": "2"},
}


@pytest.mark.parametrize("case", HALF_SET)
def test_variables_of_processes_that_are_half_set(case, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in HALF_SET[case].items():
        monkeypatch.setenv(name, value)
    parser = ArgumentParser()
    add_runtime_flags(parser)
    with pytest.raises(UserError) as caught, runtime_from(parser.parse_args(["--device", "cpu"])):
        pass
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 500


def test_a_lone_process_with_a_rank_says_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "_exit", sys.exit)

    @cli_main
    def main() -> None:
        raise UserError("what is wrong")

    with pytest.raises(SystemExit, match="2"):
        main()
    assert capsys.readouterr().err == "error: what is wrong\n"


@pytest.mark.parametrize(
    ("chosen", "visible", "left"),
    [
        ("1", None, "1"),
        ("1", "4,6", "6"),
        ("0,1", "4,6", "4,6"),
        ("0", "GPU-1a2b", "GPU-1a2b"),
        ("1", "2,3,7", "3"),
        ("0", "2,-1,3", "2"),
    ],
)
def test_gpus_are_chosen_among_those_that_a_scheduler_left(chosen, visible, left):
    assert visible_gpus(chosen, visible) == left


@pytest.mark.parametrize(
    ("chosen", "visible"),
    [
        *(("2", "4,6"), ("0", ""), ("x", None), ("-1", "4"), ("9" * 50, "4"), ("2", "2,-1,3"), ("1", "2,-1,3")),
        *(("0,0", "4,6"), ("1,01", None), ("\u0661", None), ("1,", None), ("1", "NoDevFiles")),
    ],
)
def test_gpus_are_never_more_than_a_scheduler_left(chosen, visible):
    with pytest.raises(UserError, match="--gpu_id"):
        visible_gpus(chosen, visible)


def test_processes_that_a_script_starts_see_the_gpus_that_it_chose(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    monkeypatch.setenv(CHOSEN, "")
    for _ in range(2):  # the first process, and one that it starts
        choose_gpus("1,2")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"


def test_home_after_an_equals_sign(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    parser = ArgumentParser()
    parser.add_argument("--data-dir")
    parser.add_argument("--trial")
    args = parser.parse_args(["--data-dir=~/data", "--trial", "~"])
    assert (args.data_dir, args.trial) == (str(tmp_path / "data"), "~"), "as shells do with words of their own"
    assert resolve_path("~/data", "tfkd") == tmp_path / "data"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_terminals_that_are_not_utf8(encoding, monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", output)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    cli_main(lambda: print("12.50 ± 0.10 † ≈ \udcff"))()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    output.flush()
    assert output.buffer.getvalue().startswith(b"12.50 ")


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("no network \x1b[2Jx", "no network \\x1b[2Jx"),
        ("no file a\0b\r\n c", "no file a\\x00b c"),
        ("no class caf\u00e9 \udcff", "no class caf\u00e9 \\udcff"),
        (f"no {'x' * 100_000}: give another", f"no {'x' * 990} ... {'x' * 986}: give another"),
    ],
)
def test_errors_are_a_line_for_a_terminal_whatever_names_stand_in_them(message, line, monkeypatch, capsys):
    def main() -> None:
        raise UserError(message)

    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit, match="2"):
        cli_main(main)()
    assert capsys.readouterr().err == f"error: {line}\n"


@pytest.mark.parametrize("text", ["12.50 ± 0.10", "do\udcff", "\U0001f600"])
def test_logs_take_every_character(text, tmp_path, monkeypatch):
    opened = open
    # a locale with ASCII alone
    monkeypatch.setattr(
        "builtins.open",
        lambda file, mode="r", buffering=-1, encoding="ascii", *more, **options: opened(
            file, mode, buffering, None if "b" in mode else encoding, *more, **options
        ),
    )
    run = run_directory(tmp_path)
    run.log(text)
    run.close("stopped")
    assert text.encode("utf-8", "backslashreplace") in (tmp_path / "log").read_bytes()


def test_apples_gpus_are_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match="--device mps: PyTorch sees no GPU of Apple's here"):
        resolve_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert resolve_device("mps") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")


def repository(place: Path) -> str:
    """One with a commit of its own, which is returned."""
    place.mkdir()
    somebody = ["-c", "user.name=x", "-c", "user.email=x"]
    for words in (["init", "-q"], [*somebody, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", "-C", place, *words], check=True)
    return git(place, "rev-parse", "HEAD").strip()


@pytest.mark.parametrize("variable", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"])
def test_the_environments_repository_says_nothing_about_a_checkout(variable, tmp_path, monkeypatch):
    commit = repository(tmp_path / "checkout")
    repository(tmp_path / "other")
    monkeypatch.setenv(variable, str(tmp_path / "other/.git"))
    assert git(tmp_path / "checkout", "rev-parse", "HEAD").strip() == commit


def test_a_repository_around_an_archive_says_nothing_about_it(tmp_path):
    repository(tmp_path / "other")
    (tmp_path / "other/archive").mkdir()
    with pytest.raises(subprocess.SubprocessError):
        git(tmp_path / "other/archive", "describe", "--always")


@pytest.mark.skipif(not (REPOSITORY / ".git").exists() or os.getuid() != 0, reason="needs a checkout, and to be root")
def test_another_users_checkout_has_its_commit(tmp_path: Path):
    place = tmp_path / "checkout"
    git(REPOSITORY, "clone", "--quiet", "--bare", str(REPOSITORY), str(place))
    for path in (place, *place.rglob("*")):
        os.chown(path, 12345, 12345)
    assert git(place, "describe", "--always").strip()
