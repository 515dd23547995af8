"""Input that cannot work ends with one line that says what is wrong, exit code 2, and nothing written or run."""

import dataclasses
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common.data import cifar, tiny_imagenet
from common.models import create_model
from tests.processes import CNN, PATIENCE, REPOSITORY, SELF_TAUGHT_CNN, checkpoint, snapshot

BASELINE = "base_experiments/base_cnn"  # the teacher of SELF_TAUGHT_CNN
BATCHES = "cifar-10-batches-py"


@pytest.fixture
def refused(call, tmp_path):
    """Calls a script that must refuse its arguments; gives the message."""

    def message(arguments: list[str], script: str = "tfkd.main") -> str:
        before = snapshot(tmp_path)
        ended = call(arguments, script)
        assert ended.code == 2, ended
        assert re.fullmatch(r"error: [^\n]+\n", ended.stderr), ended.stderr
        assert "Traceback" not in ended.stderr
        assert ended.stdout == ""
        assert snapshot(tmp_path) == before
        return ended.stderr

    return message


class RunsCode:
    """Its pickle asks to create a file while loading."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


# ------------------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--regularisation"], "unrecognized arguments: --regularisation"),
        (["surplus"], "unrecognized arguments: surplus"),
        (["--regularization", "--label_smoothing"], "--regularization and --label_smoothing are two methods"),
        (["--matched_scale"], "--matched_scale is a control for --regularization: give it with --label_smoothing"),
        (["--self_training"], "--self_training needs a teacher, and .*base_cnn_low_rate/params.json names none"),
        (["--pt_teacher"], "--pt_teacher needs a teacher, and .* names none"),
        (["--epochs", "0"], "argument --epochs: 0 is not a positive number"),
        (["--epochs", "9" * 5000], "argument --epochs: 9{40} is not a positive number up to 1000000"),
        (["--epochs", "many"], "argument --epochs: many is not a positive number"),
        (["-warm", "-1"], "argument -warm: -1 is not a number from 0"),
        (["--seed", "-1"], r"argument --seed: -1 is not a number from 0"),
        (["--seed", "18446744073709551616"], "argument --seed: 18446744073709551616 is not a number from 0"),
        (["--limit-train-batches", "0"], "argument --limit-train-batches: 0 is not a positive number"),
        (["--limit-eval-batches", "-3"], "argument --limit-eval-batches: -3 is not a positive number"),
        (["--num-threads", "0"], "argument --num-threads: 0 is not a number from 1 to 1024"),
        (["--num-threads", "100000"], "argument --num-threads: 100000 is not a number from 1 to 1024"),
        (["--image-size", "0"], "argument --image-size: 0 is not a positive number"),
        (["--image-size", "32"], "--image-size is for image folders"),
        (["--val-fraction", "1.5"], r"argument --val-fraction: 1\.5 is not a number from 0 to 1"),
        (["--val-fraction", "nan"], "argument --val-fraction: nan is not a number from 0 to 1"),
        (["--val-fraction", "0.001"], "no validation images are left"),
        (["--num_class", "9"], "--num_class 9 is too few: cifar10 has 10 classes"),
        (["--num_class", "-1"], "argument --num_class: -1 is not a positive number"),
        (["--loss_form", "printed"], "argument --loss_form: invalid choice: 'printed'"),
        (["--device", "nonsense"], "--device nonsense: no such kind of device; try cpu, cuda or mps"),
        (["--device", "cpu:7"], "--device cpu:7: there is only one, cpu"),
        (["--device", "meta"], "--device meta is not supported; use cpu, cuda or mps"),
        (["--device", "cuda:64"], "--device cuda:64: "),
        (["--amp", "fp16"], "--amp fp16 needs a GPU"),
        (["--tf32", "--device", "cpu"], "--tf32 needs an NVIDIA GPU of Ampere's generation or newer, which cpu is not"),
        (["--plain", "--compile"], "--plain leaves out .* give it without --compile"),
        (["--amp", "fp8"], "argument --amp: invalid choice: 'fp8'"),
        (["--restore_file", "best"], r"no checkpoint .*base_cnn_low_rate/best\.pth\.tar"),
        (["--double_training"], r"no trained teacher cnn: neither .* nor .*base_cnn/best\.pth\.tar exists; train one"),
        (["--double_training", "--regularization"], "--double_training trains .* give it without --regularization"),
        (["--double_training", "--label_smoothing"], "--double_training trains .* give it without --label_smoothing"),
        (["--double_training", "--self_training"], "--double_training trains .* give it without --self_training"),
        (["--double_training", "--method", "mine.py:M"], "--double_training trains .* give it without --method"),
        (["--method", "nowhere.py:Mine"], "--method nowhere.py:Mine: .* no file 'nowhere.py'"),
        (["--method", "params.json"], "--method params.json: give FILE.py:CLASS"),
        (["--method", "mine.py:Method", "--regularization"], "--method is a method of your own"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_flags(flags, message, refused, workspace):
    workspace.experiment(CNN)
    assert re.search(f"^error: {message}", refused(workspace.arguments(CNN, *flags)))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(refused, workspace):
    workspace.experiment(CNN)
    message = refused(workspace.arguments(CNN, "--device", "cuda"))
    assert "--device cuda: PyTorch sees no GPU here; use --device cpu" in message


@pytest.mark.parametrize("flag", ["--regularization", "--label_smoothing"])
def test_teacher_free_methods_take_no_teacher(flag, refused, workspace):
    workspace.experiment(SELF_TAUGHT_CNN)
    message = refused(workspace.arguments(SELF_TAUGHT_CNN, flag))
    assert f"{flag} takes no teacher, but " in message
    assert "names cnn: give a base_experiments directory" in message


def test_double_training_takes_no_teacher(refused, workspace):
    workspace.experiment(SELF_TAUGHT_CNN)
    message = refused(workspace.arguments(SELF_TAUGHT_CNN, "--double_training"))
    assert "--double_training takes no teacher, but " in message
    assert "names cnn: give a base_experiments directory" in message


def test_self_training_with_the_teacher_another_model(refused, workspace):
    workspace.experiment(SELF_TAUGHT_CNN, teacher="resnet18")
    message = refused(workspace.arguments(SELF_TAUGHT_CNN, "--self_training"))
    assert "cnn is taught by resnet18, not by itself" in message


def test_poor_teacher_that_is_not_defined(refused, workspace):
    workspace.experiment(SELF_TAUGHT_CNN)
    message = refused(workspace.arguments(SELF_TAUGHT_CNN, "--pt_teacher"))
    assert "--pt_teacher is defined for the teachers resnet18, resnet50, resnext29, not cnn" in message


@pytest.mark.parametrize("flags", [[], ["--self_training"]])
def test_no_trained_teacher(flags, refused, workspace):
    workspace.experiment(SELF_TAUGHT_CNN)
    message = refused(workspace.arguments(SELF_TAUGHT_CNN, *flags))
    tree = workspace.root / "experiments"
    assert f"{tree}/pretrained_teacher_models/base_cnn/best.pth.tar" in message
    assert f"{tree}/base_experiments/base_cnn/best.pth.tar" in message
    assert "python main.py --model_dir experiments/base_experiments/base_cnn/" in message


# ------------------------------------------------------------------------------------------------- params.json


@pytest.mark.parametrize("script", ["tfkd.main", "tfkd.evaluate"])
class TestModelDirectory:
    def test_missing(self, script, refused, workspace):
        assert "no directory experiments/nowhere here" in refused(workspace.arguments("nowhere"), script)

    def test_a_file(self, script, refused, workspace):
        workspace.experiment(CNN)
        message = refused(workspace.arguments(f"{CNN}/params.json"), script)
        assert f"no directory experiments/{CNN}/params.json here" in message

    def test_without_params(self, script, refused, workspace):
        (workspace.experiment(CNN) / "params.json").unlink()
        message = refused(workspace.arguments(CNN), script)
        assert (
            f"{CNN} has no params.json: --model_dir must hold params.json; did you mean 'experiments/{CNN}'?" in message
        )

    @pytest.mark.parametrize("content", [b"", b"{", b"model_version: cnn", b"\xff\xfe\x00", b"[" * 100_000])
    def test_not_json(self, content, script, refused, workspace):
        (workspace.experiment(CNN) / "params.json").write_bytes(content)
        assert "params.json is not valid JSON" in refused(workspace.arguments(CNN), script)

    @pytest.mark.parametrize("content", ["[]", "null", '"cnn"'])
    def test_not_an_object(self, content, script, refused, workspace):
        (workspace.experiment(CNN) / "params.json").write_text(content)
        assert re.search("holds a (list|NoneType|str), not an object", refused(workspace.arguments(CNN), script))


MANDATORY = [
    *("model_version", "subset_percent", "augmentation", "teacher", "learning_rate", "batch_size", "num_epochs"),
    "dataset",
]


@pytest.mark.parametrize("key", [*MANDATORY, "num_channels", "dropout_rate"])
def test_params_lack_a_key(key, refused, workspace):
    workspace.experiment(CNN, **{key: None})
    assert f"lacks the key '{key}'" in refused(workspace.arguments(CNN))


@pytest.mark.parametrize("key", ["reg_alpha", "reg_temperature", "multiplier"])
def test_params_lack_a_key_of_the_method(key, refused, workspace):
    workspace.experiment(CNN, **{key: None})
    message = refused(workspace.arguments(CNN, "--regularization"))
    assert f"lacks the key '{key}', which --regularization needs" in message


@pytest.mark.parametrize(("key", "flags"), [("alpha", []), ("temperature", []), ("multiplier", ["--self_training"])])
def test_params_lack_a_key_of_distillation(key, flags, refused, workspace):
    workspace.experiment(SELF_TAUGHT_CNN, **{key: None})
    assert f"lacks the key '{key}'" in refused(workspace.arguments(SELF_TAUGHT_CNN, *flags))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"learning_rat": 0.1}, "unknown key 'learning_rat': did you mean 'learning_rate'?"),
        ({"zzz": 1}, "unknown key 'zzz'"),
        ({"batch_size": "128"}, "'batch_size' is '128', not of type int"),
        ({"batch_size": 12.5}, "'batch_size' is 12.5, not of type int"),
        ({"num_epochs": True}, "'num_epochs' is True, not of type int"),
        ({"dataset": 100}, "'dataset' is 100, not of type str"),
        ({"learning_rate": [0.1]}, "'learning_rate' is [0.1], not of type float"),
        ({"learning_rate": float("inf")}, "Infinity is not a number of JSON"),
        ({"multiplier": float("nan")}, "NaN is not a number of JSON"),
        ({"batch_size": 1}, "'batch_size' is 1, but must be at least 2, because batch norm cannot train on one image"),
        ({"num_epochs": -1}, "'num_epochs' is -1, but must be at least 1"),
        ({"learning_rate": 0}, "'learning_rate' is 0, but must be positive"),
        ({"subset_percent": 0}, "'subset_percent' is 0, but must be above 0 and at most 1"),
        ({"subset_percent": 100.0}, "'subset_percent' is 100.0, but must be above 0 and at most 1"),
        ({"subset_percent": 0.0001}, "no train images are left"),
        ({"augmentation": "maybe"}, "'augmentation' is 'maybe', but must be \"yes\" or \"no\""),
        ({"reg_alpha": 1.1}, "'reg_alpha' is 1.1, but must be from 0 to 1"),
        ({"reg_temperature": 0}, "'reg_temperature' is 0, but must be positive"),
        ({"dropout_rate": 1}, "'dropout_rate' is 1, but must be at least 0 and below 1"),
        ({"multiplier": -1}, "'multiplier' is -1, but must be at least 0"),
        ({"num_channels": 10**7}, "'num_channels' is 10000000, but must be at most 1e+06"),
        ({"temperature": 1e300}, "'temperature' is 1e+300, but must be at most 1e+12"),
        ({"num_channels": 0}, "'num_channels' is 0, but must be at least 1"),
        ({"model_version": "resnet"}, "unknown model 'resnet' in family 'tfkd': did you mean 'resnet"),
        ({"model_version": ""}, "unknown model ''"),
        ({"dataset": "cifar1000"}, "unknown dataset 'cifar1000': give cifar10, cifar100, tiny_imagenet"),
        ({"teacher": "densenet"}, "unknown model 'densenet' in family 'tfkd': did you mean 'densenet121'?"),
    ],
    ids=str,
)
def test_params_with_a_wrong_value(changes, message, refused, workspace):
    workspace.experiment(CNN, **{"alpha": 0.5, "temperature": 2, **changes})
    assert message in refused(workspace.arguments(CNN, *([] if "teacher" in changes else ["--regularization"])))


# -------------------------------------------------------------------------------------------------------- data


@pytest.fixture
def batches(workspace, tmp_path) -> Path:
    """Folder of a copy of the CIFAR-10 set that a test may damage; the workspace uses it."""
    workspace.experiment(CNN)
    shutil.copytree(workspace.data / BATCHES, tmp_path / "data" / BATCHES)
    workspace.data = tmp_path / "data"
    return workspace.data / BATCHES


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "tiny_imagenet"])
class TestAbsentData:
    def test_that_may_not_be_downloaded(self, dataset, refused, workspace, tmp_path):
        workspace.experiment(CNN, dataset=dataset)
        workspace.data = tmp_path / "absent"
        message = refused(workspace.arguments(CNN))
        assert f"{dataset} is not in {tmp_path}/absent: place the published " in message
        assert "python -m common.data.synthetic DEST" in message

    def test_that_cannot_be_downloaded(self, dataset, refused, workspace, tmp_path, monkeypatch):
        nobody = "http://127.0.0.1:9/archive.tar.gz"
        if dataset == "tiny_imagenet":
            monkeypatch.setattr(tiny_imagenet, "URL", nobody)
        else:
            release = dataclasses.replace(cifar._RELEASES[dataset], url=nobody)
            monkeypatch.setitem(cifar._RELEASES, dataset, release)
        workspace.experiment(CNN, dataset=dataset)
        workspace.data = tmp_path / "absent"
        arguments = [flag for flag in workspace.arguments(CNN) if flag != "--no-download"]
        message = refused(arguments)
        assert f"could not be downloaded from {nobody} ([Errno 111] Connection refused)" in message
        assert "place the published " in message


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
class TestDamagedCifar:
    def test_missing_file(self, file, refused, workspace, batches):
        (batches / file).unlink()
        message = refused(workspace.arguments(CNN))
        assert f"cannot read {batches / file} (No such file or directory): delete {batches}" in message

    @pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
    def test_truncated_file(self, kept, file, refused, workspace, batches):
        content = (batches / file).read_bytes()
        end = int(kept * len(content)) if isinstance(kept, float) else kept
        (batches / file).write_bytes(content[:end])
        assert f"{batches / file} is truncated or not a CIFAR file" in refused(workspace.arguments(CNN))

    def test_text(self, file, refused, workspace, batches):
        (batches / file).write_text("<html>404: not found</html>\n" * 50)
        assert f"{batches / file} is truncated or not a CIFAR file" in refused(workspace.arguments(CNN))

    def test_pickle_that_runs_code(self, file, refused, workspace, batches, tmp_path):
        (batches / file).write_bytes(pickle.dumps({"data": RunsCode(tmp_path / "proof"), "labels": []}))
        message = refused(workspace.arguments(CNN))
        assert f"{batches / file} is truncated or not a CIFAR file (it refers to posix.system)" in message
        assert not (tmp_path / "proof").exists()


IMAGES = np.zeros((4, 3072), np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        [1, 2, 3],
        {"labels": [0] * 4},
        {"data": IMAGES},
        {"data": IMAGES, "labels": [0] * 3},
        {"data": IMAGES, "labels": ["cat"] * 4},
        {"data": IMAGES, "labels": [None] * 4},
        {"data": IMAGES[:, :-1], "labels": [0] * 4},
        {"data": IMAGES.astype(float), "labels": [0] * 4},
        {"data": "images", "labels": [0] * 4},
    ],
    ids=lambda content: re.sub(r"array\(.*?\)", "array", str(content), flags=re.DOTALL)[:40],
)
def test_pickle_that_is_not_cifar(content, refused, workspace, batches):
    (batches / "data_batch_1").write_bytes(pickle.dumps(content))
    assert f"{batches}/data_batch_1: not a CIFAR file" in refused(workspace.arguments(CNN))


@pytest.mark.parametrize("label", [10, -1])
def test_cifar_label_without_a_class(label, refused, workspace, batches):
    (batches / "data_batch_1").write_bytes(pickle.dumps({"data": IMAGES, "labels": [0, 1, 2, label]}))
    assert "a label outside the 10 classes that batches.meta names" in refused(workspace.arguments(CNN))


# ------------------------------------------------------------------------------------------------- checkpoints


def weights(name: str = "cnn", classes: int = 10, **options) -> dict[str, torch.Tensor]:
    if name == "cnn":
        options = {"num_channels": 4, **options}
    return create_model(name, classes, family="tfkd", **options).state_dict()


def truncated(file: Path, proof: Path) -> str:
    torch.save({"state_dict": weights()}, file)
    os.truncate(file, file.stat().st_size * 2 // 3)
    return "is truncated or not a checkpoint"


def without_its_last_byte(file: Path, proof: Path) -> str:
    torch.save({"state_dict": weights()}, file)
    os.truncate(file, file.stat().st_size - 1)
    return "is truncated or not a checkpoint"


def empty(file: Path, proof: Path) -> str:
    file.touch()
    return "is truncated or not a checkpoint"


def text(file: Path, proof: Path) -> str:
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    return "is truncated or not a checkpoint"


def directory(file: Path, proof: Path) -> str:
    file.mkdir()
    return "no checkpoint|no trained teacher"


def tensor(file: Path, proof: Path) -> str:
    torch.save(torch.zeros(3), file)
    return "holds a Tensor, not a checkpoint"


def no_weights(file: Path, proof: Path) -> str:
    torch.save({"epoch": 3, "best": 70.1}, file)
    return r"holds no weights \(keys: epoch, best\)"


def nothing(file: Path, proof: Path) -> str:
    torch.save({}, file)
    return r"holds no weights"


def numbered(file: Path, proof: Path) -> str:
    torch.save({"state_dict": dict(enumerate(weights().values()))}, file)
    return r"holds no weights"


def other_architecture(file: Path, proof: Path) -> str:
    torch.save({"state_dict": weights("alexnet")}, file)
    return r"does not fit cnn: it lacks '\S+' \(and \d+ more\) and has '\S+' \(and \d+ more\); is it of another archi"


def other_classes(file: Path, proof: Path) -> str:
    torch.save({"state_dict": weights(classes=100)}, file)
    return r"does not fit cnn: 'fc2.weight' is \[100, 16\] there and \[10, 16\] here"


def other_width(file: Path, proof: Path) -> str:
    torch.save({"state_dict": weights(num_channels=8)}, file)
    return r"does not fit cnn: 'conv1.weight' is \[8, 3, 3, 3\] there and \[4, 3, 3, 3\] here"


def whole_module(file: Path, proof: Path) -> str:
    torch.save(create_model("cnn", 10, family="tfkd"), file)
    return r"is not opened: it asks to run code while loading \(common\.models\.cifar_plain_cnn\.PlainCNN\)"


def malicious(file: Path, proof: Path) -> str:
    torch.save({"state_dict": {**weights(), "evil": RunsCode(proof)}}, file)
    return r"is not opened: it asks to run code while loading \(posix\.system\)"


def malicious_in_the_old_format(file: Path, proof: Path) -> str:
    torch.save({"state_dict": RunsCode(proof)}, file, _use_new_zipfile_serialization=False)
    return r"is not opened: it asks to run code while loading \(posix\.system\)"


def malicious_pickle(file: Path, proof: Path) -> str:
    file.write_bytes(pickle.dumps({"state_dict": RunsCode(proof)}, protocol=2))
    return r"is not opened: it asks to run code while loading \(posix\.system\)"


def malicious_pickle_of_today(file: Path, proof: Path) -> str:
    file.write_bytes(pickle.dumps({"state_dict": RunsCode(proof)}))
    return "is truncated or not a checkpoint"


BAD_CHECKPOINTS = [
    *(truncated, without_its_last_byte, empty, text, directory, tensor, no_weights, nothing, numbered),
    *(other_architecture, other_classes, other_width),
    *(whole_module, malicious, malicious_in_the_old_format, malicious_pickle, malicious_pickle_of_today),
]


@pytest.mark.parametrize("bad", BAD_CHECKPOINTS)
class TestBadCheckpoint:
    def test_as_teacher(self, bad, refused, workspace, tmp_path):
        baseline = workspace.experiment(BASELINE)
        workspace.experiment(SELF_TAUGHT_CNN)
        message = bad(baseline / "best.pth.tar", tmp_path / "proof")
        found = refused(workspace.arguments(SELF_TAUGHT_CNN))
        assert re.search(message, found)
        assert "python main.py --model_dir experiments/base_experiments/base_cnn/` in tfkd/" in found
        assert not (tmp_path / "proof").exists()

    def test_as_restore_file(self, bad, refused, workspace, tmp_path):
        message = bad(workspace.experiment(CNN) / "mine.pth.tar", tmp_path / "proof")
        assert re.search(message, refused(workspace.arguments(CNN, "--restore_file", "mine")))
        assert not (tmp_path / "proof").exists()

    def test_in_evaluation(self, bad, refused, workspace, tmp_path):
        message = bad(workspace.experiment(CNN) / "best.pth.tar", tmp_path / "proof")
        assert re.search(message, refused(workspace.arguments(CNN), "tfkd.evaluate"))
        assert not (tmp_path / "proof").exists()

    def test_in_resuming(self, bad, refused, workspace, tmp_path):
        if bad is directory:
            return  # there is nothing to resume
        message = bad(workspace.experiment(CNN) / "last.pth.tar", tmp_path / "proof")
        found = refused(workspace.arguments(CNN, "--resume"))
        assert re.search(message, found) or "was not written here and cannot be resumed exactly" in found
        assert not (tmp_path / "proof").exists()


def test_missing_checkpoint_in_evaluation(refused, workspace):
    workspace.experiment(CNN)
    assert "no checkpoint" in refused(workspace.arguments(CNN), "tfkd.evaluate")


@pytest.mark.parametrize("optimizer", [{}, {"optim_dict": None}, {"optim_dict": {"state": {}}}, {"optim_dict": "Adam"}])
def test_restored_checkpoint_without_optimizer(optimizer, refused, workspace):
    directory = workspace.experiment(CNN)
    torch.save({"state_dict": weights(), **optimizer}, directory / "bare.pth.tar")
    message = refused(workspace.arguments(CNN, "--restore_file", "bare"))
    assert "the restored checkpoint has no optimizer state that fits this model" in message


class TestResumingADamagedRun:
    """A run's own checkpoint, with something taken out or replaced."""

    @pytest.fixture
    def last(self, workspace) -> Path:
        directory = workspace.experiment(CNN, num_epochs=1)
        assert workspace.run(CNN).code == 0
        return directory / "last.pth.tar"

    @pytest.mark.slow
    @pytest.mark.parametrize("keys", ["training", "optim_dict", "epoch", "training settings", "training weights"])
    def test_incomplete(self, keys, last, refused, workspace):
        content = checkpoint(last)
        *path, key = keys.split()
        owner = content[path[0]] if path else content
        for broken in ({}, None, [1, 2], "text"):
            torch.save({**content, **({path[0]: {**owner, key: broken}} if path else {key: broken})}, last)
            if (keys, broken) == ("training weights", {}):
                continue
            message = refused(workspace.arguments(CNN, "--resume"))
            assert re.search("was not written here and cannot be resumed|belongs to a run with", message)

    @pytest.mark.slow
    def test_other_shapes(self, last, refused, workspace):
        content = checkpoint(last)
        content["training"]["weights"]["student.fc2.weight"] = torch.zeros(3, 3)
        torch.save(content, last)
        message = refused(workspace.arguments(CNN, "--resume"))
        assert "was not written here and cannot be resumed exactly" in message


# ------------------------------------------------------------------------------------------------------ places


def test_a_file_where_results_should_go(refused, workspace):
    directory = workspace.experiment(CNN)
    (directory / "Tf-KD_regularization").touch()
    message = refused(workspace.arguments(CNN, "--regularization"))
    assert f"cannot write to {directory}/Tf-KD_regularization (it is no directory)" in message


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="there is no /proc, which not even root can write to")
def test_a_place_that_cannot_be_written(refused, workspace):
    directory = workspace.experiment(CNN)
    (directory / "Tf-KD_regularization").symlink_to("/proc/self/task")
    message = refused(workspace.arguments(CNN, "--regularization"))
    assert re.search(r"cannot write to \S+/Tf-KD_regularization/.lock \(.+\)", message)


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "train.log", "last.pth.tar", "eval_last_results.json"])
def test_a_directory_where_a_file_should_go(name, workspace, call):
    directory = workspace.experiment(CNN, num_epochs=1)
    (directory / name).mkdir()
    ended = call(workspace.arguments(CNN))
    assert ended.code == 2
    assert re.fullmatch(rf"error: cannot write (to )?{directory}/{name} \(Is a directory\).*\n", ended.stderr)


def test_evaluation_that_cannot_write_its_result(workspace, call):
    directory = workspace.experiment(CNN)
    torch.save({"state_dict": weights()}, directory / "best.pth.tar")
    (directory / "metrics_test_best.json").mkdir()
    ended = call(workspace.arguments(CNN), "tfkd.evaluate")
    assert ended.code == 2
    assert re.fullmatch(r"error: cannot write \S+/metrics_test_best.json \(Is a directory\); .*\n", ended.stderr)
    assert re.fullmatch(r"cnn from \S+/best.pth.tar\non the 100 test images of .*:\n", ended.stdout), "said before"


# --------------------------------------------------------------------------------------------------- processes


@pytest.mark.slow
@pytest.mark.parametrize("script", ["main.py", "evaluate.py"])
def test_from_a_shell(script, workspace, tmp_path):
    """Exit code and standard error as a shell sees them; from the paper's directory, as in the README."""
    file = workspace.experiment(CNN) / "best.pth.tar"
    malicious(file, tmp_path / "proof")
    before = snapshot(tmp_path)
    arguments = workspace.arguments(CNN, "--restore_file", "best")
    arguments[1] = str(workspace.root / arguments[1])
    command = [sys.executable, script, *arguments]
    ended = subprocess.run(command, cwd=REPOSITORY / "tfkd", capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(r"error: \S+/best.pth.tar is not opened: it asks to run code [^\n]+\n", ended.stderr)
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full to stand for a full disk")
def test_a_full_disk(workspace):
    directory = workspace.experiment(CNN)
    (directory / "train.log").symlink_to("/dev/full")
    ended = workspace.run(CNN)
    assert (ended.code, ended.stderr) == (1, "error: [Errno 28] No space left on device\n")
    assert json.loads((directory / "run.json").read_text())["status"] == "failed"


def test_no_room_for_a_checkpoint(workspace):
    """A checkpoint that cannot be written ends the run; the one before it stays whole."""
    directory = workspace.experiment(CNN, num_channels=16)
    assert workspace.run(CNN, "--epochs", "1").code == 0
    before = json.loads((directory / "run.json").read_text())["accuracy"]
    ended = workspace.run(CNN, "--epochs", "1", prepare=no_room)
    assert ended.code == 1
    expected = f"error: cannot write {directory}/last.pth.tar (File too large); what was there before is untouched\n"
    assert ended.stderr == expected
    (kept,) = (directory / "set_aside").iterdir()
    assert checkpoint(kept / "last.pth.tar")["training"]["accuracies"]["best"] == before["best"]
    assert json.loads((directory / "run.json").read_text())["status"] == "failed"
    assert not list(directory.glob(".*.tmp"))


def no_room() -> None:
    """Files of this process cannot grow beyond 20 kB."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
