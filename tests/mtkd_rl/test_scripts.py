"""The scripts, one after another as the README has them: their files, their records, resuming, bad input."""

import functools
import json
import re
import shutil
import signal
import xml.etree.ElementTree
from pathlib import Path

import pytest
import torch

from common.data.synthetic import write_generated
from common.models import create_model
from mtkd_rl import setting, train_baseline, train_student_rl
from mtkd_rl.student_flags import student_parser
from tests.golden import conformance
from tests.mtkd_rl.conftest import TEACHERS
from tests.processes import EXPERIMENTS, Process, before_call, differences, kill_self, metrics, record, snapshot

STUDENT = ("--arch", "resnet8", "--teacher-name-list", *TEACHERS, "-b", "32")
PUBLISHED_KEYS = {"epoch", "model", "optimizer"}


def only_run(checkpoints: Path) -> Path:
    (run,) = checkpoints.glob("resnet8_*")
    return run


def test_files_of_a_teacher(trained):
    directory = trained / "teachers/models/resnet8_cifar100_lr_0.05_decay_0.0005_trial_0"
    names = {"resnet8_best.pth", "resnet8_last.pth", "test_best_metrics.json", "log.txt", "events"}
    assert {p.name for p in directory.iterdir()} == {*names, "run.json", "metrics.jsonl", ".lock"}
    best = torch.load(directory / "resnet8_best.pth", weights_only=True)
    assert {*PUBLISHED_KEYS, "best_acc"} <= best.keys()
    create_model("resnet8", 100, family="mtkd_rl").load_state_dict(best["model"])
    figures = json.loads((directory / "test_best_metrics.json").read_text())
    (line,) = metrics(directory)
    assert figures == {
        "test_loss": line["test/loss"],
        "test_acc": line["test/accuracy"],
        "test_acc_top5": line["test/top5"],
        "epoch": 1,
    }
    assert record(directory)["experiment"] == "teacher resnet8"
    assert record(directory)["settings"]["lr_decay_epochs"] == [150 / 240, 180 / 240, 210 / 240]


@pytest.mark.parametrize("model", ["MobileNetV2", "ShuffleV1", "ShuffleV2", "ShuffleV2_0_5"])
def test_light_teachers_have_a_rate_of_their_own(model, run_script, small, tmp_path):
    flags = ["--model", model, "--epochs", "1", "--learning_rate", "0.2", "--batch_size", "2"]
    ended = run_script("train_baseline", *flags, "--checkpoint-dir", tmp_path, *small)
    assert ended.code == 0, ended.stderr
    rate = 0.2 if model == "ShuffleV2_0_5" else 0.01
    (run,) = (tmp_path / "teachers/models").iterdir()
    assert run.name == f"{model}_cifar100_lr_{rate}_decay_0.0005_trial_0"
    assert metrics(run)[0]["learning_rate"] == rate


@pytest.mark.slow
def test_a_student_by_reinforcement(run_script, checkpoints, small):
    ended = run_script("train_student_rl", *STUDENT, "--epochs", "2", "--dynamic", *small)
    assert ended.code == 0, ended.stderr
    for name in TEACHERS:
        assert re.search(rf"teacher {name} from \S+{name}_best.pth \(trained here .*\): test accuracy \d", ended.stdout)
    run = only_run(checkpoints)
    assert re.fullmatch(
        r"resnet8_cifar100_rl_1_2_resnet8_wrn_10_1\d\d-\d\d-\d{4}_\d\d-\d\d-\d\d_MTKD-RL_dynamic", run.name
    )
    names = {"resnet8.pth.tar", "resnet8_best.pth.tar", f"{run.name}.txt", "events"}
    names |= {"teacher_weights.json", "teacher_weights.svg", "teacher_agreement.svg"}
    assert {p.name for p in run.iterdir()} == {*names, "run.json", "metrics.jsonl", ".lock"}

    last = torch.load(run / "resnet8.pth.tar", weights_only=True)
    assert {*PUBLISHED_KEYS, "acc"} <= last.keys()
    assert last["arch"] == "resnet8"
    assert last["epoch"] == 2
    create_model("resnet8", 100, family="mtkd_rl").load_state_dict(last["model"])
    kept = {key.split(".")[0] for key in last["training"]["weights"]}
    assert kept == {"student", "transforms", "agent"}  # no teacher

    content = record(run)
    assert (content["paper"], content["experiment"]) == ("mtkd_rl", "resnet8 MTKD-RL --dynamic")
    published = {"published_epochs": 240, "published_batch_size": 64}
    assert content["budget"] == {"epochs": 2, **published, "batches": 3}
    assert content["settings"]["teachers"] == list(TEACHERS)
    assert content["settings"]["method"] == "MultiTeacherRL"
    assert [teacher["name"] for teacher in content["teachers"]] == list(TEACHERS)
    for line in metrics(run):
        assert line["train/loss"] == pytest.approx(sum(line[f"train/loss_{part}"] for part in ("cls", "kd", "feat")))
        assert line["train/reward"] == pytest.approx(-line["train/loss"])
        assert line["train/agent_loss"] > 0
        for kind in ("logit", "feature"):
            assert sum(line[f"train/{kind}_weight/{name}"] for name in TEACHERS) == pytest.approx(1)


@pytest.mark.slow
def test_the_table_of_weights(run_script, checkpoints, small):
    assert run_script("train_student_rl", *STUDENT, "--epochs", "1", *small).code == 0
    run = only_run(checkpoints)
    table = json.loads((run / "teacher_weights.json").read_text())
    assert table["teachers"] == list(TEACHERS)
    assert 30 < len(table["classes"]) < 100  # 96 samples of 100 classes
    for row in table["classes"].values():
        for kind in ("logits", "features"):
            assert sum(row[kind].values()) == pytest.approx(1)
    (line,) = metrics(run)
    values = [row["logits"]["resnet8"] for row in table["classes"].values()]
    assert min(values) < line["train/logit_weight/resnet8"] < max(values)
    picture = xml.etree.ElementTree.parse(run / "teacher_weights.svg").getroot()
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {*TEACHERS, *table["classes"]} <= set(texts)
    assert f"{values[0]:.3f}" in texts


def test_a_trial_never_sees_the_test_split(run_script, checkpoints, small):
    flags = ["--epochs", "1", "--val-fraction", "0.34", "--no-test"]
    ended = run_script("train_student_rl", *STUDENT, *flags, *small)
    assert ended.code == 0, ended.stderr
    content = record(only_run(checkpoints))
    assert (content["status"], content["accuracy"], content["analysis"]) == ("done", None, None)
    assert content["validation"]["last"] >= 0
    assert content["teachers"][0]["accuracy_on"] == "validation"


@pytest.mark.slow
def test_agreement_with_each_teacher_beside_its_weight(run_script, checkpoints, small):
    assert run_script("train_student_rl", *STUDENT, "--epochs", "1", *small).code == 0
    run = only_run(checkpoints)
    table, analysis = json.loads((run / "teacher_weights.json").read_text()), record(run)["analysis"]
    assert analysis["test"]["last"]["fidelity"].keys() == {*TEACHERS, "mean"}
    by_class = analysis["teachers_by_class"]
    assert len(by_class) == 100
    for label, row in by_class.items():
        number = list(by_class).index(label)
        for name in TEACHERS:
            shares = analysis["test"]["last"]["fidelity"][name]["agreement_by_class"]
            assert row[name]["agreement"] == shares[number]
            weight = table["classes"][label]["logits"][name] if label in table["classes"] else None
            assert row[name]["logit_weight"] == (weight if weight is None else pytest.approx(weight, rel=1e-5))
    picture = xml.etree.ElementTree.parse(run / "teacher_agreement.svg").getroot()
    texts = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {*TEACHERS, *by_class, "agreement, %"} <= set(texts)


@pytest.mark.slow
def test_a_student_by_averaging(run_script, checkpoints, small):
    flags = ["--feat-kd", "kl", "--feature-transforms", "independent", "--lr-type", "cosine", "--trial", "7"]
    ended = run_script("train_student_avg", *STUDENT, "--epochs", "2", *flags, *small)
    assert ended.code == 0, ended.stderr
    run = only_run(checkpoints)
    assert run.name.startswith("resnet8_cifar100_rl_7_2_")
    assert not (run / "teacher_weights.json").exists()
    suffix = "--feat-kd kl --feature-transforms independent --lr-type cosine"
    assert record(run)["experiment"] == f"resnet8 AVER {suffix}"
    assert [line["learning_rate"] for line in metrics(run)] == pytest.approx([0.05, 0.025])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "name"),
    [
        ([], "resnet8 MTKD-RL"),
        (["--agent-loss", "policy-gradient"], "resnet8 MTKD-RL --agent-loss policy-gradient"),
        (["--equal-weights", "--seed", "3", "--batch-size", "31"], "resnet8 MTKD-RL --equal-weights"),
    ],
)
def test_options_name_the_experiment(flags, name, run_script, checkpoints, small):
    assert run_script("train_student_rl", *STUDENT, "--epochs", "1", *flags, *small).code == 0
    assert record(only_run(checkpoints))["experiment"] == name


@pytest.mark.slow
def test_milestones_move_with_the_epochs_unless_they_are_given(run_script, checkpoints, small):
    flags = [*STUDENT, *small, "--limit-train-batches", "1", "--epochs", "8", "--init-lr", "1e-3"]
    assert run_script("train_student_avg", *flags).code == 0
    assert run_script("train_student_avg", *flags, "--milestones", "2", "--trial", "2").code == 0
    rates = [[line["learning_rate"] for line in metrics(run)] for run in sorted(checkpoints.glob("resnet8_*"))]
    assert rates[0] == pytest.approx([1e-3] * 5 + [1e-4] + [1e-5] + [1e-6])
    assert rates[1] == pytest.approx([1e-3] * 2 + [1e-4] * 6)


def interrupted(*args, **kwargs):
    raise KeyboardInterrupt


def test_evaluate(run_script, checkpoints, small, monkeypatch):
    assert run_script("train_student_avg", *STUDENT, "--epochs", "1", *small).code == 0
    run = only_run(checkpoints)
    before = snapshot(run)
    ended = run_script("train_student_rl", *STUDENT, "-e", "--resume", run / "resnet8_best.pth.tar", *small)
    assert ended.code == 0, ended.stderr
    (line,) = metrics(run)
    assert "resnet8 on 32 test images of cifar100 (synthetic dataset" in ended.stdout
    assert f"accuracy {line['test/accuracy']:.4f}, top-5 {line['test/top5']:.4f}" in ended.stdout
    assert snapshot(run) == before
    monkeypatch.setattr("mtkd_rl.student.evaluate", interrupted)
    stopped = run_script("train_student_rl", *STUDENT, "-e", "--resume", run / "resnet8_best.pth.tar", *small)
    assert (stopped.code, stopped.stdout) == (130, ended.stdout[: ended.stdout.index("accuracy")]), "said before"


class TestResume:
    FLAGS = (*STUDENT, "--epochs", "3", "--dynamic")

    @pytest.mark.slow
    def test_killed_and_resumed_is_as_unbroken(self, checkpoints, small, tmp_path):
        """The same bits: student, transforms, agent, records and the table of weights."""

        def start(name: str, *flags: str, prepare=None):
            arguments = [*self.FLAGS, *small, "--trial", name, *flags]
            return Process("mtkd_rl.train_student_rl", arguments, tmp_path, prepare=prepare).wait()

        assert start("whole").code == 0
        save = "common.training.run_state:RunState.save"
        killed = start("broken", prepare=functools.partial(before_call, save, 3, kill_self))
        assert killed.code == -signal.SIGKILL
        ended = start("broken", "--resume")
        assert ended.code == 0, ended.stderr
        assert "resuming after epoch 2/3" in ended.stdout
        (whole,), (broken,) = (list(checkpoints.glob(f"resnet8_cifar100_rl_{name}_*")) for name in ("whole", "broken"))
        for file in ("resnet8.pth.tar", "resnet8_best.pth.tar"):
            a, b = (torch.load(run / file, weights_only=True) for run in (whole, broken))
            assert any("agent.policy" in key for key in a["training"]["weights"])
            assert not differences(a, b)
        assert metrics(whole) == metrics(broken)
        assert (whole / "teacher_weights.json").read_text() == (broken / "teacher_weights.json").read_text()

    @pytest.mark.slow
    def test_which_run_is_meant(self, run_script, checkpoints, small):
        """Without a path, the latest of the same settings; a done one is left as it is; another starts again."""
        flags = [*STUDENT, "--epochs", "1", *small]
        assert run_script("train_student_rl", *flags, "--resume").code == 0  # there is none yet
        first = only_run(checkpoints)
        before = snapshot(first)
        assert run_script("train_student_rl", *flags, "--resume").code == 0
        assert only_run(checkpoints) == first
        assert snapshot(first) == before
        assert run_script("train_student_rl", *flags, "--resume", first / "resnet8.pth.tar").code == 0
        assert snapshot(first) == before
        first.rename(first.with_name(first.name[:-1] + "x"))  # as if it were older than a second
        assert run_script("train_student_rl", *flags, "--resume", "--dynamic").code == 0
        assert len(list(checkpoints.glob("resnet8_*"))) == 2

    @pytest.mark.slow
    def test_another_teacher_under_the_same_name_is_refused(self, run_script, checkpoints, small):
        flags = [*STUDENT, "--epochs", "1", *small]
        assert run_script("train_student_rl", *flags).code == 0
        run = only_run(checkpoints)
        (file,) = checkpoints.glob("teachers/models/resnet8_*/resnet8_best.pth")
        torch.save(create_model("resnet8", 100, family="mtkd_rl").state_dict(), file)
        before = snapshot(run)
        ended = run_script("train_student_rl", *flags, "--resume", run)
        assert ended.code == 2
        assert "belongs to a run with other teachers' weights" in ended.stderr
        assert snapshot(run) == before


class TestTeachers:
    @pytest.mark.slow
    def test_a_missing_one_is_named_with_the_command_that_trains_it(self, run_script, checkpoints, small):
        flags = ["--arch", "resnet8", "--teacher-name-list", "resnet8", "resnet20", *small]
        ended = run_script("train_student_rl", *flags)
        assert ended.code == 2
        assert "no trained teacher resnet20" in ended.stderr
        command = "python train_baseline.py --model resnet20"
        assert f"`{command}`" in ended.stderr
        assert not list(checkpoints.glob("resnet8_*"))
        assert run_script("train_baseline", *command.split()[2:], *small, "--epochs", "1").code == 0
        assert run_script("train_student_rl", *flags, "--epochs", "1", "-b", "32").code == 0

    @pytest.mark.parametrize(
        ("network", "reason"),
        [(("resnet14", 100), "is it of another architecture?"), (("resnet8", 10), "number of classes")],
    )
    def test_one_that_does_not_fit(self, network, reason, run_script, checkpoints, small):
        (file,) = checkpoints.glob("teachers/models/resnet8_*/resnet8_best.pth")
        torch.save(create_model(*network, family="mtkd_rl").state_dict(), file)
        ended = run_script("train_student_rl", *STUDENT, *small)
        assert ended.code == 2
        assert len(ended.stderr.splitlines()) == 1
        assert reason in ended.stderr
        assert "`python train_baseline.py --model resnet8`" in ended.stderr

    def test_setting_can_be_edited(self, run_script, checkpoints, small, tmp_path, monkeypatch):
        torch.save({"model": create_model("resnet20", family="mtkd_rl").state_dict()}, tmp_path / "mine.pth")
        monkeypatch.setitem(setting.teacher_model_path_dict, "resnet20", str(tmp_path / "mine.pth"))
        flags = ["--arch", "resnet8", "--teacher-name-list", "resnet20", "--epochs", "1", "-b", "32", *small]
        ended = run_script("train_student_avg", *flags)  # by one teacher, too
        assert ended.code == 0, ended.stderr
        assert f"teacher resnet20 from {tmp_path}/mine.pth" in ended.stdout

    def test_one_that_was_trained_on_other_data(self, run_script, checkpoints, small):
        (file,) = checkpoints.glob("teachers/models/resnet8_*/run.json")
        content = json.loads(file.read_text())
        content["data"]["fingerprint"] = "other"
        file.write_text(json.dumps(content))
        ended = run_script("train_student_avg", *STUDENT, "--epochs", "1", *small)
        assert ended.code == 0
        assert ended.stdout.count("warning:") == 1
        words = "cifar100, synthetic dataset (common.data.synthetic), not the real data, fingerprint other"
        assert f"warning: teacher resnet8 was trained on other data ({words})" in ended.stdout

    def test_a_checkpoint_directory_of_ones_own(self, run_script, trained, small, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        own = shutil.copytree(trained, tmp_path / "own")
        flags = [*STUDENT, "--epochs", "1", *small, "--checkpoint-dir", own]
        ended = run_script("train_student_avg", *flags, "--trial", "own")
        assert ended.code == 0, ended.stderr


@pytest.mark.parametrize("dataset", ["tinyimagenet", "imagenet", "cub_200_2011"])
def test_other_data_sets(dataset, run_script, small, tmp_path, monkeypatch):
    """From a teacher to a student on every kind of layout, as wide as the data have classes."""
    monkeypatch.chdir(tmp_path)
    layout = "tiny-imagenet-200" if dataset == "tinyimagenet" else "imagenet"
    write_generated(tmp_path, layout, classes=3, train_per_class=4, test_per_class=2)
    flags = ["--dataset", dataset, "--epochs", "1", *small]
    if layout == "imagenet":
        (tmp_path / "imagenet").rename(tmp_path / dataset)
        flags += ["--image-size", "32"]
    ended = run_script("train_baseline", "--model", "resnet8", "--num_workers", "0", "--data-folder", tmp_path, *flags)
    assert ended.code == 0, ended.stderr
    student = ["--arch", "resnet14", "--teacher-name-list", "resnet8", "--data", tmp_path, "-j", "0", *flags]
    ended = run_script("train_student_avg", *student)
    assert ended.code == 0, ended.stderr
    (run,) = (tmp_path / "checkpoint").glob("resnet14_*")
    content = record(run)
    assert content["experiment"] == f"resnet14 AVER --dataset {dataset}"
    assert content["data"]["classes"] == 3
    weights = torch.load(run / "resnet14.pth.tar", weights_only=True)["model"]
    assert weights["fc.weight"].shape[0] == 3


BAD = {
    "unknown student": (["--arch", "resnet9"], "--arch: unknown model 'resnet9'"),
    "published default student": (["--arch", "resnet18_imagenet"], "--arch is needed: its published default"),
    "unknown teacher": (["--teacher-name-list", "resnet8", "wrn_9"], "--teacher-name-list: unknown model 'wrn_9'"),
    "teacher twice": (["--teacher-name-list", "resnet8", "resnet8"], "names a teacher twice"),
    "one teacher": (["--teacher-name-list", "resnet8"], "name at least two"),
    "unknown schedule": (["--lr-type", "linear"], "invalid choice: 'linear'"),
    "unknown feature loss": (["--feat-kd", "l1"], "invalid choice: 'l1'"),
    "negative rate": (["--init-lr", "-1"], "-1 is not a number from 1e-12"),
    "no rate": (["--init-lr", "nan"], "nan is not a number from 1e-12"),
    "no temperature": (["--kd-T", "0"], "0 is not a positive number"),
    "no steps": (["--agent-step", "0"], "0 is not a positive number"),
    "unknown data": (["--dataset", "mnist"], "invalid choice: 'mnist'"),
    "no data": (["--data", "nowhere"], "cifar100 is not in"),
    "no images": (["--dataset", "mit67"], "mit67 is not in"),
    "size of CIFAR": (["--image-size", "64"], "cifar100 has a size of its own"),
    "no GPU like that": (["--gpu", "99"], "--device cuda:99"),
    "no checkpoint to resume": (["--resume", "none/x.pth.tar"], "there is no"),
    "nothing to evaluate": (["--evaluate"], "--evaluate needs --resume PATH"),
    "several machines without address": (
        ["--world-size", "2", "--rank", "0"],
        "--world-size beyond 1 needs --dist-url",
    ),
    "rank beyond": (["--world-size", "2", "--rank", "2", "--dist-url", "tcp://a:1"], "must be from 0 to 1"),
    "no address": (["--world-size", "2", "--rank", "0", "--dist-url", "file:///x"], "must be tcp://HOST:PORT"),
    "abbreviated": (["--agent", "3"], "unrecognized arguments: --agent"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_writes_nothing(name, run_script, checkpoints, small):
    words, message = BAD[name]
    before = snapshot(checkpoints)
    ended = run_script("train_student_rl", *STUDENT, *small, *words)
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert message in ended.stderr
    assert snapshot(checkpoints) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "resnet9"], "--model: unknown model 'resnet9'"),
        (["--lr_decay_epochs", "1;2"], "1;2 is not a list like 150,180,210"),
        (["--data-folder", "nowhere"], "cifar100 is not in"),
    ],
)
def test_bad_input_of_the_teachers_script(words, message, run_script, small, tmp_path):
    ended = run_script("train_baseline", *small, "--checkpoint-dir", tmp_path / "c", *words)
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert message in ended.stderr
    assert not (tmp_path / "c").exists()


def test_a_teacher_whose_map_is_not_what_it_embeds(run_script, small, tmp_path, monkeypatch):
    """MobileNetV2's last map has other channels than its embedding: AVER can use it, the agent cannot."""
    monkeypatch.chdir(tmp_path)
    for name in ("MobileNetV2", "resnet8"):
        file = Path("checkpoint", setting.teacher_model_path_dict[name].replace("{dataset}", "cifar100"))
        file.parent.mkdir(parents=True)
        torch.save(create_model(name, family="mtkd_rl").state_dict(), file)
    flags = ["--arch", "resnet8", "--teacher-name-list", "MobileNetV2", "resnet8", "-b", "8", "--epochs", "1", *small]
    assert run_script("train_student_avg", *flags, "--limit-train-batches", "1").code == 0
    ended = run_script("train_student_rl", *flags)
    assert ended.code == 2
    assert "MobileNetV2 cannot teach by MTKD-RL" in ended.stderr


# Published defaults that are left aside, with the reason
OTHER_DEFAULTS = {
    "seed": "a run is always seeded, so that it can be resumed",
    "checkpoint_dir": "a directory of the authors' in the teacher script",
}


def published(script: str) -> list[dict]:
    return conformance("params.json")["flags"][f"mtkd_rl/{script}.py"]


@pytest.mark.parametrize("script", ["train_baseline", "train_student_rl", "train_student_avg"])
def test_every_published_flag_is_there_with_its_default(script, monkeypatch):
    monkeypatch.setattr("sys.argv", [script])
    if script == "train_student_avg":
        args = student_parser("").parse_args([])
    else:
        args = {"train_baseline": train_baseline, "train_student_rl": train_student_rl}[script].parse_arguments()
    for flag in published(script):
        dest, default = flag["dest"], flag["default"]
        if dest == "lr_decay_epochs":
            default = [float(n) for n in default.split(",")]
        if dest not in OTHER_DEFAULTS:
            assert getattr(args, dest) == default, dest


@pytest.mark.parametrize("script", ["train_baseline", "train_student_rl", "train_student_avg"])
def test_every_published_spelling_is_taken(script, run_script):
    help_text = run_script(script, "--help").stdout
    for flag in published(script):
        for spelling in flag["flags"]:
            assert re.search(rf"(?<![\w-]){re.escape(spelling)}(?![\w-])", help_text), spelling


def test_pinned_hyperparameters_are_the_scripts_defaults(monkeypatch):
    """`experiments/mtkd_rl/*.json` say what the README's commands train by."""
    files = sorted((EXPERIMENTS / "mtkd_rl").glob("*.json"))
    assert {file.stem for file in files} == {"teacher", "aver", "mtkd_rl"}
    for file in files:
        pinned = json.loads(file.read_text())
        script, *arguments = pinned["command"].split()[1:]
        monkeypatch.setattr("sys.argv", [script, *arguments])
        parsers = {
            "train_baseline.py": train_baseline.parse_arguments,
            "train_student_avg.py": lambda arguments=arguments: student_parser("").parse_args(arguments),
            "train_student_rl.py": train_student_rl.parse_arguments,
        }
        args = parsers[script]()
        for key, value in pinned["hyperparameters"].items():
            assert getattr(args, key) == value, (file, key)
