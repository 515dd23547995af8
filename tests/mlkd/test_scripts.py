"""The scripts on a synthetic dataset: files, figures, resuming, several processes, bad input."""

import json
import logging
import re
import signal
import socket
import subprocess
import sys

import pytest
import timm
import torch

from common.training.runtime import Runtime
from mlkd.calibrate import MEANINGLESS, MemberLogits
from mlkd.calibration import initial_weights
from mlkd.data import DataFlags, load_data, part_batches
from mlkd.exits import accuracies
from mlkd.student import EXITS, MultiResNetV2
from tests.mlkd.checks import SMALL, small_student
from tests.mlkd.conftest import TEACHER
from tests.processes import (
    REPOSITORY,
    Process,
    before_call,
    checkpoint,
    differences,
    kill_self,
    metrics,
    record,
    snapshot,
)


@pytest.mark.slow
def test_files_and_figures_of_a_run(run_script, where, ensemble, directory, pets):
    flags = [*where, "--ensemble", ensemble.name, "-n", "student", "-e", "3", "-s", "1"]
    ended = run_script("train", *flags)
    assert ended.code == 0, ended.stderr
    models = directory / "models"
    networks = {f"student{suffix}" for suffix in (".pth", "_e_1.pth", "_e_2.pth", "_e_3.pth", "_history.json")}
    remembered = {"a.pth.accuracy.json", "b.pth.accuracy.json"}
    assert {p.name for p in models.iterdir()} == {"a.pth", "b.pth", *remembered, "student", *networks}
    kept = {"run.json", "metrics.jsonl", "train.log", "tensorboard", "last.pth.tar", "best.pth", ".lock"}
    assert {p.name for p in (models / "student").iterdir()} == {*kept, "exits.json", "exits.svg"}

    history = json.loads((models / "student_history.json").read_text())["distil"]
    lines = metrics(models / "student")
    assert history["sd_loss"] == [sum(line[f"train/{name}"] for name in EXITS) for line in lines]
    assert history["valid_acc"] == [line["validation/accuracy"] / 100 for line in lines]
    assert not [key for line in lines for key in line if key.startswith("test/")]
    best = history["valid_loss"].index(min(history["valid_loss"]))
    assert not differences(checkpoint(models / "student.pth"), checkpoint(models / f"student_e_{best + 1}.pth"))
    assert all(isinstance(value, torch.Tensor) for value in checkpoint(models / "student.pth").values())

    run = record(models / "student")
    assert (run["paper"], run["status"]) == ("mlkd", "done")
    assert run["experiment"] == "oxford-iiit ensemble --image-size 64"
    assert run["settings"]["method"] == "MultiLevel"
    assert [(t["name"], t["weight"]) for t in run["settings"]["teachers"]] == [(TEACHER, 0.9), (TEACHER, 1.1)]
    assert [t["origin"] for t in run["teachers"]] == ["given", "given"]
    assert run["settings"]["global_batch_size"] == 6
    log = (models / "student/train.log").read_text()
    assert "config.json: timm's names are those in 'names', checkpoints those in 'models'" in log
    assert "global batch 6: 6 images in each of 1 process, gradients of 21 batches summed before an update" in log
    assert run["budget"] == {"epochs": 3, "published_epochs": 1000, "published_batch_size": 128, "batches": 2}
    assert run["accuracy"]["best_epoch"] == best
    assert run["validation"]["best_loss"] == min(history["valid_loss"])
    exits = run["details"]["exits"]
    assert exits == json.loads((models / "student/exits.json").read_text())
    assert measured(pets, checkpoint(models / "student/best.pth")) == {e["exit"]: e["best"] for e in exits}
    last = checkpoint(models / "student/last.pth.tar")["state_dict"]
    assert measured(pets, last) == {e["exit"]: e["last"] for e in exits}
    assert run["accuracy"]["best"] == exits[-1]["best"]

    analysis = run["analysis"]
    assert (analysis["temperature"], analysis["test"]["images"], analysis["train"]["images"]) == (10.0, 12, 12)
    for epoch in ("best", "last"):
        part = analysis["test"][epoch]
        assert {"exit_1", "exit_2", "exit_3"} == part["exits"].keys()
        for name, figures in {**part["exits"], "final": part}.items():
            assert figures["accuracy"] == pytest.approx(next(e[epoch] for e in exits if e["exit"] == name), abs=1e-3)
            assert figures["fidelity"].keys() == {f"{TEACHER} 1", f"{TEACHER} 2", "mean"}
    policy = analysis["early_exit"]
    assert policy[0]["accuracy"] == pytest.approx(exits[0]["best"], abs=1e-3), "all leave at the first exit"
    assert policy[0]["multiply_adds"] == pytest.approx(exits[0]["multiply_adds"], rel=1e-5)
    assert policy[-1]["accuracy"] == pytest.approx(exits[-1]["best"], abs=1e-3), "none leaves early"
    assert policy[-1]["multiply_adds"] > exits[-1]["multiply_adds"], "the early exits' heads were for nothing"
    assert "early exit by confidence" in (models / "student/exits.svg").read_text()


def test_a_trial_never_sees_the_test_split(run_script, where, teachers, directory):
    ended = run_script("train", *where, *teachers, "-n", "student", "-e", "1", "--no-test")
    assert ended.code == 0, ended.stderr
    assert ended.stdout.startswith(f"loading oxford-iiit and teacher {TEACHER} from models/a.pth\n")
    run = record(directory / "models/student")
    assert (run["status"], run["accuracy"], run["analysis"]) == ("done", None, None)
    assert run["validation"]["last"] >= 0
    assert not (directory / "models/student/exits.json").exists()


def measured(pets, state: dict) -> dict[str, float]:
    """Accuracies of a student's exits on what the runs here test on: the first twelve test images."""
    flags = DataFlags(str(pets), True, False, dataset="oxford-iiit", batch_size=12, image_size=64, workers=0)
    student, runtime = MultiResNetV2(37, **SMALL), Runtime(torch.device("cpu"), limit_eval_batches=1)
    student.load_state_dict(state)
    return accuracies(student, part_batches(flags, load_data(flags).test, runtime), runtime)


@pytest.mark.slow
def test_a_teacher_made_here(run_script, where, directory):
    """`train_teacher.py` makes what `mlkd.py` reads; its own figures are those of the test set at the end."""
    network = "mobilenetv3_small_050"
    command = ["--model", network, "-n", "teacher", "--no-pretrained", *where, "-e", "2", "--lr", "0.01"]
    ended = run_script("train_teacher", *command)
    assert ended.code == 0, ended.stderr
    run = record(directory / "models/teacher")
    assert (run["status"], run["experiment"]) == ("done", f"oxford-iiit teacher {network}")
    timm.create_model(network, checkpoint_path=str(directory / "models/teacher.pth"), num_classes=37)
    student = ["--model", network, "--checkpoint", "models/teacher.pth", *where, "-e", "1"]
    ended = run_script("train", *student)
    assert ended.code == 0, ended.stderr
    assert f"timm normalizes images for {network} by mean (0.485" in ended.stdout
    assert (directory / "models/mlkd_student.pth").is_file()
    (teacher,) = record(directory / "models/mlkd_student")["teachers"]
    assert teacher["origin"] == f"trained here for 2 epochs, test accuracy {run['accuracy']['best']:.2f}"
    assert teacher["path"] == str((directory / "models/teacher.pth").resolve())


def test_pretrained_weights_that_cannot_be_had(run_script, where, directory, monkeypatch):
    create = timm.create_model
    level = logging.getLogger("huggingface_hub").level

    def offline(name: str, pretrained: bool = False, **options):
        if pretrained:
            raise RuntimeError("no route to host\nand more")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    ended = run_script("train_teacher", "--model", "resnet18", "-n", "teacher", *where)
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "could not be had from timm (no route to host): go online" in ended.stderr
    assert not list(directory.iterdir())
    assert logging.getLogger("huggingface_hub").level == level, "put back"


def test_calibration_writes_the_file(run_script, where, ensemble):
    """On the validation split: from the file's weights, a step of a thousandth for each update."""
    before = json.loads(ensemble.read_text())
    ended = run_script("calibrate", "--ensemble", ensemble.name, *where, "-e", "5", "--fit-on", "validation")
    assert ended.code == 0, ended.stderr
    after = json.loads(ensemble.read_text())
    assert {**after, "weights": before["weights"]} == before
    moved = [abs(a - b) for a, b in zip(after["weights"], before["weights"], strict=True)]
    assert all(0.001 <= distance <= 0.006 for distance in moved)  # five updates of a thousandth each
    first, second = re.findall(r"cross-entropy ([\d.]+)", ended.stdout)
    assert float(second) < float(first)


def test_calibration_as_published(run_script, where, ensemble, monkeypatch):
    """On training images, in a new order and augmented again each epoch, from a linear layer's weights."""
    seen = []
    logits = MemberLogits._logits

    def watch(self, images):
        seen.append(images)
        return logits(self, images)

    monkeypatch.setattr(MemberLogits, "_logits", watch)
    ended = run_script("calibrate", "--ensemble", ensemble.name, *where, "-e", "3", "--seed", "5")
    assert ended.code == 0, ended.stderr
    weights = json.loads(ensemble.read_text())["weights"]
    # 2 batches of 6 and -b 6: gradients of 21 batches would be summed, so that each epoch has one update
    assert weights == pytest.approx((initial_weights(2, 5)).tolist(), abs=0.0035)
    assert weights != pytest.approx((initial_weights(2, 5)).tolist(), abs=0.0005)
    assert "config.json: timm's names are those in 'names'" in ended.stdout
    assert "fitting on 12 augmented training images, 3 updates from [" in ended.stdout
    assert [len(images) for images in seen] == [6] + [1] + [6] * 6  # seven validation images, then three epochs
    assert not torch.equal(seen[2], seen[4])
    assert not torch.equal(seen[4], seen[6])


@pytest.mark.parametrize("fit_on", ["train", "validation"])
def test_calibration_of_a_member_that_overflows_leaves_the_file(fit_on, run_script, where, ensemble, directory):
    weights = checkpoint(directory / "models/b.pth")
    torch.save({**weights, "fc.weight": 3e38 * weights["fc.weight"].sign()}, directory / "models/b.pth")
    before = snapshot(directory)
    ended = run_script("calibrate", "--ensemble", ensemble.name, *where, "-e", "1", "--fit-on", fit_on)
    assert (ended.code, ended.stderr.count("\n")) == (1, 1)
    assert "the weights are not finite after fitting" in ended.stderr
    assert snapshot(directory) == before


@pytest.mark.parametrize("flag", MEANINGLESS)
def test_calibration_has_no_flags_without_meaning(flag, run_script, where):
    ended = run_script("calibrate", "--ensemble", "config.json", *where, flag)
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert f"unrecognized arguments: {flag}" in ended.stderr


@pytest.mark.slow
def test_killed_and_resumed_is_as_unbroken(where, teachers, directory):
    """The same bits, wherever the kill comes: networks, history, records."""
    command = [*teachers, *where, "-n", "student", "-e", "3", "-s", "2", "--cutmix-alpha", "0.5"]

    def start(name: str, *flags: str, prepare=small_student):
        (directory / name / "models").mkdir(parents=True, exist_ok=True)
        (directory / name / "models/a.pth").write_bytes((directory / "models/a.pth").read_bytes())
        return Process("mlkd.train", [*command, *flags], directory / name, prepare=prepare).wait()

    assert start("whole").code == 0
    for kill in (killed_in_the_second_epoch, killed_before_measuring):
        assert start("broken", "--resume", prepare=kill).code == -signal.SIGKILL
        assert record(directory / "broken/models/student")["status"] == "running"
    assert start("broken", "--resume").code == 0
    whole, broken = (directory / name / "models" for name in ("whole", "broken"))
    assert {p.name for p in whole.rglob("*") if p.suffix in (".pth", ".json", ".tar", ".svg")} == {
        p.name for p in broken.rglob("*") if p.suffix in (".pth", ".json", ".tar", ".svg")
    }
    for file in ("student.pth", "student_e_2.pth", "student/best.pth", "student/last.pth.tar"):
        assert not differences(checkpoint(whole / file), checkpoint(broken / file)), file
    for file in ("student_history.json", "student/exits.json", "student/exits.svg"):
        assert (whole / file).read_text() == (broken / file).read_text()
    records = [record(each / "student") for each in (whole, broken)]
    for content in records:
        del content["analysis"]["seconds"]
    for key in ("status", "accuracy", "validation", "settings", "details", "analysis"):
        assert records[0][key] == records[1][key]
    assert start("broken", "--resume", "--alpha", "0.5").code == 2


def killed_in_the_second_epoch() -> None:
    small_student()
    before_call("common.training.training_step.TrainingStep.__call__", 4, kill_self)


def killed_before_measuring() -> None:
    small_student()
    before_call("mlkd.train.accuracies", 1, kill_self)


@pytest.mark.slow
def test_two_processes(where, teachers, directory):
    """Each takes a batch of its own; the final exit, which knows no batch norm, sees what one process would of both."""
    command = [*teachers, *where, "-e", "1", "--limit-train-batches", "1", "--mixup-alpha", "0", "--cutmix-alpha", "0"]
    one = Process("mlkd.train", [*command, "-n", "one", "-b", "12"], directory, prepare=small_student).wait()
    assert one.code == 0, one.stderr
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    both = [
        Process(
            "mlkd.train",
            [*command, "-n", "two", "--world-size", "2"],
            directory,
            environment={**shared, "RANK": rank, "LOCAL_RANK": rank},
            prepare=small_student,
        )
        for rank in "01"
    ]
    assert [process.wait().code for process in both] == [0, 0]
    (line_one,), (line_two,) = (metrics(directory / "models" / name) for name in ("one", "two"))
    assert line_two["train/final"] == pytest.approx(line_one["train/final"], rel=1e-4)
    assert line_two["train/exit_1"] != line_one["train/exit_1"]
    run = record(directory / "models/two")
    assert (run["status"], run["segments"][-1]["runtime"]["world_size"], len(run["details"]["exits"])) == ("done", 2, 4)
    assert run["experiment"].endswith(" --world-size 2")
    assert (run["settings"]["batch_size"], run["settings"]["global_batch_size"]) == (6, 12)
    log = (directory / "models/two/train.log").read_text()
    assert "global batch 12: 6 images in each of 2 processes" in log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words", "message"),
    [
        ("mlkd.py", ["-m", TEACHER, "-c", "none.pth", "--world-size", "2"], "no checkpoint none.pth"),
        ("calibrate.py", ["--ensemble", "none.json"], "cannot read"),
        ("train_teacher.py", ["-m", "resnet19", "-n", "x"], "did you mean 'resnet"),
    ],
)
def test_from_inside_the_papers_directory(script, words, message, where):
    """Where `import mlkd` finds the script `mlkd.py`."""
    command = [sys.executable, script, *words, *where]
    ended = subprocess.run(command, cwd=REPOSITORY / "mlkd", capture_output=True, text=True, check=False)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (2, 1), ended.stderr
    assert message in ended.stderr


@pytest.mark.parametrize("dataset", ["cifar-10", "oxfird-iiit"])
def test_other_data_sets(dataset, run_script, where, teachers, generated_data, directory):
    if dataset == "cifar-10":
        torch.save(timm.create_model(TEACHER, num_classes=10).state_dict(), directory / "models/a.pth")
        where[1] = str(generated_data)
    ended = run_script("train", *teachers, *where, "-d", dataset, "-e", "1", "--limit-train-batches", "1")
    assert ended.code == 0, ended.stderr
    name = dataset.replace("oxfird", "oxford")
    assert record(directory / "models/mlkd_student")["experiment"] == f"{name} {TEACHER} --image-size 64"


BAD = {
    "no teacher": ([], "give --model and --checkpoint"),
    "half a teacher": (["--model", "resnet18"], "give --model and --checkpoint"),
    "two kinds of teacher": (["-m", TEACHER, "-c", "models/a.pth", "--ensemble", "x.json"], "give --model"),
    "no ensemble": (["--ensemble", "none.json"], "cannot read"),
    "no checkpoint": (["-m", TEACHER, "-c", "none.pth"], "` in mlkd/ makes models/none.pth"),
    "no checkpoint elsewhere": (["-m", TEACHER, "-c", "a/b.pth"], "makes models/b.pth, which is to be given then"),
    "members missing": (["--ensemble", "absent.json"], "no checkpoints models/c.pth, models/d.pth here"),
    "unknown model": (["-m", "resnet19", "-c", "models/a.pth"], "has no model 'resnet19': did you mean 'resnet"),
    "another architecture": (["-m", "test_efficientnet", "-c", "models/a.pth"], "does not fit test_efficientnet"),
    "a fixed input size": (
        ["-m", "vit_tiny_patch16_224", "-c", "models/a.pth"],
        "vit_tiny_patch16_224 does not take images of 64 x 64",
    ),
    "other classes": (["-m", TEACHER, "-c", "models/ten.pth"], "does not fit test_resnet with 37 classes"),
    "not a checkpoint": (["-m", TEACHER, "-c", "config.json"], "truncated or not a checkpoint"),
    "a path for a name": (["-n", "a/b"], "is not a plain name"),
    "the teacher's name": (["-m", TEACHER, "-c", "models/a.pth", "-n", "a"], "is a teacher's"),
    "unknown dataset": (["-d", "mnist"], "invalid choice: 'mnist'"),
    "no data": (["-m", TEACHER, "-c", "models/a.pth", "--data-dir", "nowhere"], "Oxford-IIIT Pet (images) is not in"),
    "no dogs": (["-m", TEACHER, "-c", "models/a.pth", "-d", "dogs"], "no images in"),
    "alpha": (["-m", TEACHER, "-c", "models/a.pth", "--alpha", "2"], "--alpha: 2 is not a number from 0 to 1"),
    "mixing": (["-m", TEACHER, "-c", "models/a.pth", "--mixup-alpha", "-1"], "-1 is not a number from 0"),
    "no weights": (["--ensemble", "zero.json"], "all 'weights' are 0, which leaves no teacher"),
    "image size": (["--image-size", "100"], "100 is not a multiple of 32 from 64"),
    "no GPU like that": (["-m", TEACHER, "-c", "models/a.pth", "--device", "cuda:99"], "--device cuda:99"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(name, run_script, where, ensemble, directory):
    torch.save(timm.create_model(TEACHER, num_classes=10).state_dict(), directory / "models/ten.pth")
    (directory / "absent.json").write_text(json.dumps({"models": [TEACHER] * 3, "names": ["a", "c", "d"]}))
    (directory / "zero.json").write_text(json.dumps({"models": [TEACHER], "names": ["ten"], "weights": [0]}))
    words, message = BAD[name]
    before = snapshot(directory)
    ended = run_script("train", *where, *words)
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert message in ended.stderr
    assert snapshot(directory) == before


def test_bad_input_of_the_other_scripts(run_script, where, directory):
    for script, words, message in (
        ("train_teacher", ["-m", "resnet18"], "required: -n/--name"),
        ("train_teacher", ["-m", "resnet18", "-n", "x", "--lr", "0"], "--lr: 0 is not a number from 1e-12"),
        (
            "train_teacher",
            ["-m", "vit_tiny_patch16_224", "-n", "x", "--no-pretrained"],
            "does not take images of 64 x 64",
        ),
        ("calibrate", [], "required: --ensemble"),
    ):
        ended = run_script(script, *where, *words)
        assert (ended.code, len(ended.stderr.splitlines())) == (2, 1)
        assert message in ended.stderr
    assert not list(directory.iterdir())


FINE_TUNING = ["--model", "mobilenetv3_small_050", "--no-pretrained", "-e", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_snapshot_never_takes_the_place_of_another_run_s_network(overwrite, run_script, where, directory):
    assert run_script("train_teacher", *FINE_TUNING, *where, "-n", "res_e_1").code == 0
    before = snapshot(directory)
    ended = run_script("train_teacher", *FINE_TUNING, *where, "-n", "res", "-s", "1", *overwrite)
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert "res_e_1.pth, the network of the run res_e_1; give another name" in ended.stderr
    assert snapshot(directory) == before
    assert run_script("train_teacher", *FINE_TUNING, *where, "-n", "res").code == 0
    after = snapshot(directory)
    assert {name: after[name] for name in before} == before, "with other snapshots it is nobody's"


@pytest.mark.slow
def test_a_network_never_takes_the_place_of_another_run_s_snapshot(run_script, where, directory):
    assert run_script("train_teacher", *FINE_TUNING, *where, "-n", "res", "-s", "1").code == 0
    (directory / "models/res_e_2 (copy).pth").write_bytes(b"mine")
    before = snapshot(directory)
    ended = run_script("train_teacher", *FINE_TUNING, *where, "-n", "res_e_1", "--overwrite")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert "res_e_1.pth is the name of a snapshot of the run res; give another name" in ended.stderr
    assert snapshot(directory) == before
    assert run_script("train_teacher", *FINE_TUNING, *where, "-n", "res", "-s", "1", "--overwrite").code == 0
    (kept,) = (directory / "models/res/set_aside").iterdir()
    assert (kept / "res_e_1.pth").read_bytes() == before["models/res_e_1.pth"]
    assert (directory / "models/res_e_2 (copy).pth").read_bytes() == b"mine"


def test_a_file_where_networks_should_go(run_script, where, directory):
    (directory / "models").write_text("mine")
    ended = run_script("train_teacher", "--model", "test_resnet", "--no-pretrained", "-n", "a", *where, "-e", "1")
    place = directory / "models"
    assert (ended.code, ended.stderr) == (
        2,
        f"error: cannot write to {place}/a ({place} is no directory): move it away\n",
    )
    assert [each.read_text() for each in directory.iterdir()] == ["mine"]
