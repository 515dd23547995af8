"""The one way to make a run: directories that hold another, resuming, segments, teachers; through Tf-KD's script."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch

from common.run_record import Segment, read_record
from common.training.run_training import segments_until
from tests.processes import CNN, SELF_TAUGHT_CNN, checkpoint, metrics, record, snapshot
from tests.training.test_resume import in_training

ONE, TWO = ["--epochs", "1"], ["--epochs", "2"]
TINY = ["--limit-train-batches", "1", "--limit-eval-batches", "1"]
BASELINE = "base_experiments/base_cnn"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "holds this run, finished (test accuracy: last epoch"),
        (["--seed", "1"], "of 'base_experiments/base_cnn_low_rate' with seed = 0, not 1"),
        (["--val-fraction", "0.1"], "with val_fraction = 0.0, not 0.1"),
    ],
    ids=["the same", "another seed", "another flag"],
)
def test_a_finished_run_is_not_overwritten(workspace, flags, words):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *ONE).code == 0
    before = snapshot(directory)
    ended = workspace.run(CNN, *ONE, *flags, overwrite=False)
    assert (ended.code, ended.stdout) == (2, "")
    assert words in ended.stderr
    assert ("--resume" in ended.stderr, "--overwrite" in ended.stderr, ended.stderr.count("\n")) == (True, True, 1)
    assert snapshot(directory) == before
    assert workspace.run(CNN, *ONE, *flags, "--overwrite").code == 0
    (kept,) = (directory / "set_aside").iterdir()
    for name in ("run.json", "metrics.jsonl", "best.pth.tar", "last.pth.tar", "0.pth.tar", "eval_best_results.json"):
        assert (kept / name).read_bytes() == before[name], "set aside, not deleted"
    assert record(directory)["settings"]["seed"] == (1 if "--seed" in flags else 0)


@pytest.mark.slow
def test_an_interrupted_run_that_starts_again_is_set_aside_first(workspace):
    """Killed at once and resumed, it would otherwise go on with the old run's epochs."""
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *TWO, prepare=in_training).code == -signal.SIGKILL
    old = checkpoint(directory / "last.pth.tar")
    assert old["epoch"] == 1
    assert workspace.run(CNN, *TWO, overwrite=False, prepare=in_the_beginning).code == -signal.SIGKILL
    assert not (directory / "last.pth.tar").exists()
    assert record(directory)["epochs_done"] == 0
    (kept,) = (directory / "set_aside").iterdir()
    assert checkpoint(kept / "last.pth.tar")["epoch"] == 1
    ended = workspace.run(CNN, *TWO, "--resume")
    assert (ended.code, ended.stderr) == (0, "")
    assert "resuming" not in ended.stdout
    assert [line["epoch"] for line in metrics(directory)] == [0, 1]


def in_the_beginning() -> None:
    from tests.processes import before_call, kill_self

    before_call("common.training.training_step.TrainingStep.__call__", 1, kill_self)


def test_segments_say_what_each_start_computed(workspace):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *TWO, "--plain", prepare=in_training).code == -signal.SIGKILL
    assert workspace.run(CNN, *TWO, "--resume").code == 0
    run = record(directory)
    first, second = run["segments"]
    assert [(s["first_epoch"], s["epochs"], s["runtime"]["plain"]) for s in (first, second)] == [
        (0, 1, True),
        (1, 1, False),
    ]
    assert first["execution"]["layout"] == "contiguous"
    assert second["execution"]["layout"] == "channels_last"
    assert run["started"] == first["started"] <= second["started"]
    ended = workspace.run(CNN, *TWO, "--resume")
    assert ended.code == 0
    assert "is finished: test accuracy: last epoch" in ended.stdout
    assert record(directory) == run, "nothing was computed, nothing is said"


@pytest.mark.parametrize(
    ("segments", "epochs", "kept"),
    [
        ([(0, 2)], 2, [(0, 2)]),
        ([(0, 1)], 2, [(0, 2)]),  # killed between checkpoint and record
        ([(0, 2), (2, 0)], 2, [(0, 2)]),  # killed before its first epoch
        ([(0, 2), (2, 0), (2, 3)], 5, [(0, 2), (2, 3)]),
        ([(0, 5)], 3, [(0, 3)]),  # an older checkpoint was put back
        ([(0, 2), (2, 3)], 1, [(0, 1)]),
        ([], 2, []),  # the record is lost
    ],
)
def test_segments_are_those_of_the_checkpoint_s_epochs(segments, epochs, kept):
    class Before:
        pass

    before = Before()
    before.segments = [Segment(first, count, "", "", {}, {}, {}) for first, count in segments]
    assert [(s.first_epoch, s.epochs) for s in segments_until(before, epochs)] == kept


@pytest.mark.parametrize("left", [None, b"", b"junk"], ids=["nothing", "an empty file", "junk"])
def test_a_run_whose_record_is_lost_goes_on_with_more_epochs(workspace, call, left):
    directory = workspace.experiment(CNN)
    assert call(workspace.arguments(CNN, *ONE, *TINY)).code == 0
    (directory / "run.json").unlink()
    if left is not None:
        (directory / "run.json").write_bytes(left)
    ended = call(workspace.arguments(CNN, *TWO, *TINY, "--resume"))
    assert (ended.code, ended.stderr) == (0, "")
    assert record(directory)["epochs_done"] == 2
    assert [line["epoch"] for line in metrics(directory)] == [0, 1]


def test_a_directory_whose_name_is_not_utf8_is_refused(workspace, call):
    directory = workspace.experiment(CNN)
    odd = Path(os.fsdecode(os.fsencode(directory) + b"_\xff"))
    directory.rename(odd)
    before = snapshot(odd)
    arguments = [str(odd) if word.endswith(CNN) else word for word in workspace.arguments(CNN, *ONE, *TINY)]
    ended = call(arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert re.fullmatch(r"error: cannot write to .*_\\xff: its name is not UTF-8\n", ended.stderr)
    assert snapshot(odd) == before


FILES = ("last.pth.tar", "50.pth.tar", "run.json", "metrics.jsonl", "train.log", ".lock", "eval_last_results.json")
BLOCKS = {
    **{f"{name} is a directory": (name, Path.mkdir, r"\(Is a directory\): move") for name in FILES},
    **{f"{name} is a pipe": (name, os.mkfifo, r"\(Is a pipe\): move") for name in FILES},
    "events are a file": ("base_train", Path.touch, r"\(it is no directory\): move"),
}


@pytest.mark.parametrize("case", BLOCKS)
def test_places_that_are_blocked_are_said_before_training(workspace, call, case):
    name, block, words = BLOCKS[case]
    directory = workspace.experiment(CNN)
    block(directory / name)
    before = sorted(directory.iterdir())
    ended = call(workspace.arguments(CNN, *ONE, *TINY))
    assert ended.code == 2
    assert re.fullmatch(rf"error: cannot write [^\n]*/{name} {words} it away\n", ended.stderr), ended
    assert sorted(directory.iterdir()) == before


def test_what_is_trained_is_said_before_its_teacher_is_evaluated(workspace):
    workspace.experiment(BASELINE)
    directory = workspace.experiment(SELF_TAUGHT_CNN)
    assert workspace.run(BASELINE, *ONE, *TINY).code == 0
    teacher = workspace.root / "experiments" / BASELINE / "best.pth.tar"
    ended = workspace.run(SELF_TAUGHT_CNN, *ONE, *TINY, "--self_training")
    assert ended.code == 0, ended
    words = [
        "SYNTHETIC DATA",
        "cnn on cifar10",
        "evaluating teacher cnn on 50 test images",
        f"teacher cnn from {teacher}",
    ]
    places = [ended.stdout.index(each) for each in words]
    assert places == sorted(places)
    (described,) = record(directory)["teachers"]
    assert f"{described['accuracy']:.2f}" in ended.stdout.splitlines()[3]


def test_another_teacher_is_refused_and_recorded(workspace):
    workspace.experiment(BASELINE)
    directory = workspace.experiment(SELF_TAUGHT_CNN)
    assert workspace.run(BASELINE, *ONE).code == 0
    teacher = workspace.root / "experiments" / BASELINE / "best.pth.tar"
    assert workspace.run(SELF_TAUGHT_CNN, *TWO, "--self_training", prepare=in_training).code == -signal.SIGKILL
    (described,) = record(directory)["teachers"]
    assert (described["name"], described["path"]) == ("cnn", str(teacher))
    assert described["origin"].startswith("trained here for 1 epochs, test accuracy ")
    assert described["trained_on"] == record(directory)["data"]["fingerprint"]
    content = checkpoint(teacher)
    content["state_dict"]["fc2.bias"] += 1
    torch.save(content, teacher)
    ended = workspace.run(SELF_TAUGHT_CNN, *TWO, "--self_training", "--resume")
    assert ended.code == 2
    assert "belongs to a run with other teachers' weights" in ended.stderr


@pytest.mark.slow
def test_a_checkpoint_of_before_teachers_were_recorded_is_resumed_with_a_warning(workspace):
    workspace.experiment(BASELINE)
    directory = workspace.experiment(SELF_TAUGHT_CNN)
    assert workspace.run(BASELINE, *ONE).code == 0
    assert workspace.run(SELF_TAUGHT_CNN, *TWO, "--self_training", prepare=in_training).code == -signal.SIGKILL
    content = checkpoint(directory / "last.pth.tar")
    del content["training"]["settings"]["teacher_files"]
    torch.save(content, directory / "last.pth.tar")
    ended = workspace.run(SELF_TAUGHT_CNN, *TWO, "--self_training", "--resume")
    assert (ended.code, ended.stderr) == (0, "")
    assert "warning: the checkpoint does not say by which teacher's weights it was taught" in ended.stdout


def test_another_batch_size_than_the_published_is_none_as_published(workspace):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *ONE).code == 0
    run = read_record(directory)
    assert (run.batch_size, run.budget["published_batch_size"]) == (50, 128)


@pytest.mark.slow
def test_variants_have_directories_of_their_own(workspace):
    directory = workspace.experiment(CNN)
    experiments = {}
    for flags in ([], ["--loss_form", "paper"], ["--label_smoothing"], ["--label_smoothing", "--matched_scale"]):
        if "--matched_scale" in flags:
            workspace.experiment(CNN, reg_alpha=0.9, multiplier=2.0)
        assert workspace.run(CNN, *ONE, *flags, overwrite=False).code == 0, flags
        experiments[" ".join(flags)] = json.loads(
            max(directory.rglob("run.json"), key=lambda f: f.stat().st_mtime_ns).read_text()
        )
    assert len({content["experiment"] for content in experiments.values()}) == len(experiments) == 4
    assert len(list(directory.rglob("run.json"))) == 4
