"""The training script on small networks and the synthetic dataset: its files, teachers, resuming, bad input."""

import functools
import json
import signal
import sys

import pytest
import torch

from common.models import create_model
from edkd.engine.wandb_log import WandbLog
from tests.edkd.checks import SMALL
from tests.processes import Process, before_call, differences, kill_self, snapshot

KD = "configs/cifar100/kd.yaml"
VANILLA = "configs/cifar100/vanilla.yaml"
RUN = ("SOLVER.BATCH_SIZE", "50", "LOG.WANDB", "False")


@pytest.fixture
def where(generated_data, tmp_path) -> list[str]:
    """Flags and overrides that keep a run small and in this test's directory."""
    data = ["--data-dir", str(generated_data), "--no-download", "--device", "cpu", "--limit-eval-batches", "1"]
    return [*data, "LOG.PREFIX", str(tmp_path / "output"), *RUN]


@pytest.fixture
def teacher(tmp_path) -> list[str]:
    """A resnet14 with its initial weights, in one of the published wrappings, as the teacher of a resnet8."""
    file = tmp_path / "teacher.pth"
    torch.save({"model": create_model("resnet14", 100).state_dict()}, file)
    names = ["DISTILLER.TEACHER", "resnet14", "DISTILLER.STUDENT", "resnet8"]
    return [*names, "DISTILLER.TEACHER_CKPT", str(file)]


def only_run(output):
    (file,) = output.glob("**/run.json")
    return file.parent


@pytest.mark.slow
def test_files_of_a_run(run_script, where, teacher, tmp_path):
    ended = run_script("train", "--cfg", KD, *teacher, *where, "--epochs", "2", "LOG.SAVE_CHECKPOINT_FREQ", "1")
    assert ended.code == 0, ended.stderr
    assert "test accuracy: last epoch" in ended.stdout
    run = only_run(tmp_path / "output")
    assert run.parent == tmp_path / "output/cifar100_baselines"
    assert run.name.startswith("kd,res32x4,res8x4DISTILLER.TEACHER:resnet14,DISTILLER.STUDENT:resnet8,SOLVER.BATCH")
    names = {"latest", "best", "student_latest", "student_best", "worklog.txt", "train.events", "train.log"}
    kept = {"epoch_1", "epoch_2", "student_1", "student_2"}
    assert {p.name for p in run.iterdir()} == {*names, *kept, "run.json", "metrics.jsonl", ".lock"}

    latest = torch.load(run / "latest", weights_only=True)
    assert {"epoch", "model", "optimizer", "best_acc"} <= latest.keys()
    assert latest["epoch"] == 2
    assert not [key for key in latest["training"]["weights"] if "teacher" in key]
    student = torch.load(run / "student_latest", weights_only=True)
    create_model("resnet8", 100).load_state_dict(student["model"])
    assert not differences(student["model"], latest["model"])

    record = json.loads((run / "run.json").read_text())
    assert (record["paper"], record["status"]) == ("edkd", "done")
    assert record["experiment"] == "cifar100/kd DISTILLER.STUDENT resnet8 DISTILLER.TEACHER resnet14"
    published = {"published_epochs": 240, "published_batch_size": 64}
    assert record["budget"] == {"epochs": 2, **published, "batches": None}
    assert record["settings"]["KD.TEMPERATURE"] == 4.0
    blocks = (run / "worklog.txt").read_text().split("-" * 25 + "\n")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for block, line in zip(blocks[1::2], lines, strict=False):
        assert block.splitlines()[:3] == [
            f"epoch: {line['epoch'] + 1}",
            f"lr: {line['learning_rate']:.2f}",
            f"train_acc: {line['train/accuracy']:.2f}",
        ]
    assert blocks[-2] == f"best_acc: {record['accuracy']['best']:.2f}\n"
    assert {"train/loss_ce", "train/loss_kd", "test/top5"} <= lines[0].keys()
    assert record["analysis"]["temperature"] == 4.0
    assert record["analysis"]["test"]["last"]["fidelity"].keys() == {"resnet14"}


@pytest.mark.slow
def test_a_trial_never_sees_the_test_split(run_script, where, teacher, tmp_path):
    ended = run_script("train", "--cfg", KD, *teacher, *where, "--epochs", "1", "--val-fraction", "0.34", "--no-test")
    assert ended.code == 0, ended.stderr
    run = only_run(tmp_path / "output")
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["accuracy"], record["analysis"]) == ("done", None, None)
    assert f"test_acc: {record['validation']['last']:.2f}" in (run / "worklog.txt").read_text()


@pytest.fixture
def unused_checkout(tmp_path, monkeypatch):
    """In place of this checkout, which may have teachers that somebody trained, an empty one."""
    monkeypatch.setattr("edkd.engine.teachers.REPOSITORY", tmp_path / "empty")
    monkeypatch.setattr("edkd.engine.teachers.resolve_path", lambda path, paper: tmp_path / path)


@pytest.mark.slow
@pytest.mark.usefixtures("unused_checkout")
def test_a_teacher_trained_here_is_found(run_script, where, tmp_path):
    """The error names the release and the command; the command's result is then found, the longest run first."""
    cfg = ["--cfg", KD, "DISTILLER.TEACHER", "resnet8", "DISTILLER.STUDENT", "resnet8", "--epochs", "1"]
    missing = run_script("train", *cfg, *where)
    assert missing.code == 2
    for part in ("cifar_teachers/resnet8_vanilla/ckpt_epoch_240.pth", "releases/tag/checkpoints"):
        assert part in missing.stderr
    command = "python tools/train.py --cfg configs/cifar100/vanilla.yaml DISTILLER.STUDENT resnet8"
    assert command in missing.stderr
    assert not (tmp_path / "output").exists()

    for epochs in ("2", "1"):
        training = [*command.split()[2:], *where, "--limit-train-batches", "1", "--epochs", epochs]
        assert run_script("train", *training).code == 0
    found = run_script("train", *cfg, *where, "--limit-train-batches", "1")
    assert found.code == 0
    assert "epochs:2/student_latest (trained here for 2 epochs" in found.stdout
    ended = run_script("eval", "-m", "resnet8", *where[:7])  # looked for below ./output, not here
    assert ended.code == 2
    assert ended.stderr.endswith("in edkd/, or give -c FILE\n"), "a flag that this script has"


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


@pytest.mark.usefixtures("unused_checkout")
def test_a_teacher_in_the_published_place(run_script, where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "download_ckpts/cifar_teachers/resnet8_vanilla"
    place.mkdir(parents=True)
    torch.save({"model": create_model("resnet8", 100).state_dict()}, place / "ckpt_epoch_240.pth")
    ended = run_script("eval", "-m", "resnet8", "-bs", "50", *where[:7])
    assert ended.code == 0, ended.stderr
    assert "in the place of mdistiller's released teachers" in ended.stdout
    assert "on 50 test images of cifar100 (synthetic dataset" in ended.stdout
    with monkeypatch.context() as patch:
        patch.setattr("edkd.tools.eval.evaluate", interrupted)
        stopped = run_script("eval", "-m", "resnet8", "-bs", "50", *where[:7])
    assert (stopped.code, stopped.stdout) == (130, ended.stdout[: ended.stdout.index("accuracy")]), "said before"
    # students of the synthetic dataset are not taught by a network that never saw it
    networks = ["DISTILLER.TEACHER", "resnet8", "DISTILLER.STUDENT", "resnet8"]
    refused = run_script("train", "--cfg", KD, *networks, *where)
    assert refused.code == 2
    assert "releases/tag/checkpoints, for the real data alone)" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "trainer"), [("EDKD", "base"), ("KD", "dot"), ("FITNET", "dot"), ("CRD", "crd_dot"), ("VID", "base")]
)
def test_killed_and_resumed_is_as_unbroken(method, trainer, where, teacher, tmp_path):
    """Own optimizer state, auxiliary modules and memories included: the same bits."""
    small = []
    for key, value in flat(SMALL.get(method, {})):
        small += [f"{method}.{key}", str(value)]
    extra = ["VID.LEARN_SCALES", "True"] if method == "VID" else []
    command = ["--cfg", KD, "DISTILLER.TYPE", method, "SOLVER.TRAINER", trainer, *small, *extra, *teacher, *where]
    command += ["--epochs", "3", "--limit-train-batches", "2"]

    def start(name: str, *flags: str, prepare=None):
        words = [word.replace("/output", f"/{name}") for word in command]
        return Process("edkd.tools.train", [*words, *flags], tmp_path, prepare=prepare).wait()

    assert start("whole").code == 0
    copies = "common.training.run_state:RunState.save_copies"
    killed = start("broken", prepare=functools.partial(before_call, copies, 2, kill_self))
    assert killed.code == -signal.SIGKILL
    assert start("broken", "--resume").code == 0
    whole, broken = (only_run(tmp_path / name) for name in ("whole", "broken"))
    for file in ("latest", "student_latest", "student_best"):
        a, b = (torch.load(run / file, weights_only=True) for run in (whole, broken))
        assert not differences(a, b)
    assert (whole / "worklog.txt").read_text() == (broken / "worklog.txt").read_text()


def flat(tree: dict, above: str = "") -> list[tuple[str, object]]:
    leaves = []
    for key, value in tree.items():
        leaves += flat(value, f"{above}{key}.") if isinstance(value, dict) else [(f"{above}{key}", value)]
    return leaves


def test_resume_with_other_settings_is_refused(run_script, where, teacher, tmp_path):
    command = ["--cfg", KD, *teacher, *where, "EXPERIMENT.NAME", "x", "--limit-train-batches", "1"]
    assert run_script("train", *command, "--epochs", "1").code == 0
    run = only_run(tmp_path / "output")
    other = tmp_path / "other.pth"
    torch.save({"model": create_model("resnet14", 100).state_dict()}, other)
    before = snapshot(run)
    command[command.index("DISTILLER.TEACHER_CKPT") + 1] = str(other)
    ended = run_script("train", *command, "--epochs", "1", "--resume")
    assert ended.code == 2
    assert "belongs to a run with other teachers' weights" in ended.stderr
    assert snapshot(run) == before


BAD = {
    "no configuration": (["--cfg", "configs/none.yaml"], "no configuration configs/none.yaml"),
    "unknown key": (["--cfg", KD, "SOLVER.LRR", "1"], "did you mean 'SOLVER.LR'?"),
    "wrong type": (["--cfg", KD, "SOLVER.LR", "fast"], "not of type float"),
    "unknown distiller": (["--cfg", KD, "DISTILLER.TYPE", "KDD"], "unknown distiller 'KDD'"),
    "unknown teacher": (["--cfg", KD, "DISTILLER.TEACHER", "resnet50"], "did you mean 'ResNet50'?"),
    "unknown student": (["--cfg", KD, "DISTILLER.STUDENT", "resnet9"], "DISTILLER.STUDENT: no network 'resnet9'"),
    "no student": (["DISTILLER.TYPE", "NONE"], "DISTILLER.STUDENT is empty"),
    "unknown data": (["--cfg", KD, "DATASET.TYPE", "mnist"], "unknown dataset 'mnist'"),
    "no data": (["--cfg", KD, "--data-dir", "nowhere"], "cifar100 is not in"),
    "no imagenet": (["--cfg", "configs/imagenet/r34_r18/kd.yaml"], "ImageNet is not in"),
    "no teacher file": (["--cfg", KD, "DISTILLER.TEACHER_CKPT", "none.pth"], "no file none.pth"),
    "no GPU like that": (["--cfg", KD, "--device", "cuda:99"], "--device cuda:99"),
    "no epochs": (["--cfg", KD, "--epochs", "0"], "--epochs: 0 is not a positive number"),
    "two classes of flags": (["--cfg", KD, "--temperature", "3"], "unrecognized arguments: --temperature"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(name, run_script, where, tmp_path):
    words, message = BAD[name]
    ended = run_script("train", *where, *words)
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert message in ended.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["DISTILLER.TYPE", "CRD", "SOLVER.TRAINER", "crd"], "CRD does not fit resnet14 -> resnet8"),
        (["DISTILLER.TYPE", "REVIEWKD"], "REVIEWKD does not fit resnet14 -> resnet8"),
        (["DISTILLER.TYPE", "OFD", "DISTILLER.TEACHER", "ShuffleV1"], "OFD does not fit ShuffleV1 -> resnet8"),
        (["DISTILLER.TYPE", "FITNET", "FITNET.HINT_LAYER", "7"], "FITNET.HINT_LAYER is 7"),
        (["DISTILLER.TYPE", "EDKD", "EDKD.FORM", "paper"], "EDKD.FORM is 'paper'"),
        (["DISTILLER.TEACHER", "resnet20"], "does not fit resnet20"),
    ],
)
def test_a_method_that_does_not_fit_is_known_before_anything_is_written(
    words, message, run_script, where, teacher, tmp_path
):
    if "ShuffleV1" in words:
        torch.save(create_model("ShuffleV1", 100).state_dict(), tmp_path / "teacher.pth")
    ended = run_script("train", "--cfg", KD, *teacher, *where, *words)
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert message in ended.stderr
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("wrapping", ["bare", "model", "state_dict", "module", "distiller"])
def test_eval_reads_every_wrapping(wrapping, run_script, where, tmp_path):
    weights = create_model("resnet8", 100).state_dict()
    contents = {
        "bare": weights,
        "model": {"epoch": 3, "model": weights, "best_acc": torch.tensor(1.0)},
        "state_dict": {"state_dict": weights},
        "module": {"model": {f"module.{key}": value for key, value in weights.items()}},
        "distiller": {
            "model": {
                **{f"module.student.{key}": value for key, value in weights.items()},
                **{f"module.teacher.{key}": value for key, value in create_model("resnet14").state_dict().items()},
            }
        },
    }
    torch.save(contents[wrapping], tmp_path / "a.pth")
    ended = run_script("eval", "-m", "resnet8", "-c", tmp_path / "a.pth", "-d", "cifar100", "-bs", "50", *where[:7])
    assert ended.code == 0, ended.stderr
    assert "accuracy" in ended.stdout


@pytest.mark.slow
def test_eval_refuses_a_namespace_and_says_how_to_convert_it(run_script, where, tmp_path, monkeypatch):
    import argparse
    import re
    import subprocess
    import sys

    torch.save({"opt": argparse.Namespace(lr=1), "model": create_model("resnet8").state_dict()}, tmp_path / "a.pth")
    ended = run_script("eval", "-m", "resnet8", "-c", tmp_path / "a.pth", *where[:7])
    assert ended.code == 2
    assert "asks to run code" in ended.stderr
    program = re.search(r"`python (-m common.convert_checkpoint .*?)`", ended.stderr)[1]
    subprocess.run([sys.executable, *program.split()], cwd=tmp_path, check=True)
    assert "model" in torch.load(tmp_path / "a_plain.pth", weights_only=True)


class FakeWandb:
    """As much of W&B as is used; `broken` fails when a run begins, `exits` ends the process before."""

    def __init__(
        self, broken: bool = False, exits: bool = False, api_key: str | None = "key", mode: str = "online"
    ) -> None:
        self.lines, self.finished, self.broken, self.keys = [], False, broken, []
        self.api_key, self.mode, self.exits = api_key, mode, exits

    def setup(self):
        if self.exits:
            raise SystemExit(3)
        return type("Setup", (), {"settings": type("Settings", (), {"mode": self.mode})})

    def login(self, prompt):
        assert not prompt
        return self.api_key is not None

    def init(self, **options):
        if self.broken:
            raise RuntimeError("no network\nat all")
        if not all(1 <= len(tag) <= 64 for tag in options["tags"]) or len(options["name"]) > 128:
            raise ValueError("Invalid tag or name")
        self.keys.append((options["id"], options["resume"]))
        return self

    def log(self, figures, step):
        self.lines.append(figures)
        assert step == len(self.lines) - 1, "counts on where a run is resumed"

    def finish(self):
        self.finished = True


class OldWandb:
    """Whose import fails, and not by an `ImportError`."""

    def find_spec(self, name, path=None, target=None):
        if name == "wandb":
            raise AttributeError("module 'numpy' has no attribute 'float_'")


def test_a_broken_installation_of_wandb_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "meta_path", [OldWandb(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    said = []
    log = WandbLog(True, "project", "name", [], "key", {}, tmp_path, said.append)
    log.log({"loss": 1.0}, 0)
    log.finish()
    assert len(said) == 1
    assert "LOG.WANDB is on, but it failed (AttributeError: module 'numpy' has no attribute 'float_')" in said[0]


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (FakeWandb(exits=True), "it failed (SystemExit: 3)"),
        (None, "wandb is not installed"),
        (FakeWandb(api_key=None), "no account is logged in"),
        (FakeWandb(broken=True), "no network"),
        (FakeWandb(), None),
        (FakeWandb(api_key=None, mode="offline"), None),
    ],
    ids=["exits", "not installed", "no account", "fails", "works", "offline"],
)
def test_wandb_is_optional(module, reason, run_script, where, teacher, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", module)
    where[where.index("LOG.WANDB") + 1] = "True"
    ended = run_script("train", "--cfg", KD, *teacher, *where, "--epochs", "2", "--limit-train-batches", "1")
    assert ended.code == 0, ended.stderr
    assert ended.stdout.count("warning: LOG.WANDB is on") == (reason is not None)
    if reason is None:
        assert [set(line) for line in module.lines] == [
            {"lr", "train_acc", "train_loss", "test_acc", "test_acc_top5", "test_loss"}
        ] * 2
        assert module.finished
    else:
        assert reason in ended.stdout
    assert list((only_run(tmp_path / "output") / "train.events").iterdir())


@pytest.mark.slow
def test_wandb_takes_odd_overrides_and_goes_on_with_a_resumed_run(run_script, where, teacher, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(__import__("sys").modules, "wandb", wandb)
    where[where.index("LOG.WANDB") + 1] = "True"
    odd = ["EXPERIMENT.NAME", "n" * 300, "EXPERIMENT.TAG", f"{'t' * 100},,a, a"]
    command = ["train", "--cfg", KD, *teacher, *where, *odd, "--limit-train-batches", "1", "--epochs", "1"]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("edkd.engine.outputs.Outputs.finish", stop)
        assert run_script(*command).code == 130
    ended = run_script(*command, "--resume")
    assert (ended.code, "warning: LOG.WANDB" in ended.stdout) == (0, False)
    assert [key == wandb.keys[0] for key in wandb.keys] == [True, True], "one run there"
    assert wandb.keys[0][1] == "allow"
    wandb.lines.clear()
    assert run_script(*command, "--seed", "2").code == 0
    assert wandb.keys[2] != wandb.keys[0]
