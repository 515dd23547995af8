"""`main.py` and `evaluate.py` as published: flags, parameter files, teachers, and the files that a run leaves."""

import json
import re
import shlex
import shutil
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from common.command_line import resolve_path, settings_from
from common.data import Dataset, DeviceLoader, ImageArrays, load_dataset
from common.errors import UserError
from common.models import create_model
from common.training.teachers import TeacherCheckpoint
from tests.golden import conformance
from tests.processes import CNN, EXPERIMENTS, REPOSITORY, SELF_TAUGHT_CNN, checkpoint, metrics, record
from tfkd import evaluate, main
from tfkd.build import build_method, require_method
from tfkd.experiment import open_experiment, transforms_for
from tfkd.flags import Flags
from tfkd.losses import label_smoothing_loss, regularization_loss
from tfkd.teachers import find_teacher

PUBLISHED = conformance("params.json")
ALIASES = PUBLISHED["tfkd_readme_directories"]["aliases"]
BASELINE = "base_experiments/base_cnn"  # the teacher of SELF_TAUGHT_CNN
ONE = ["--epochs", "1"]


def parse(module: types.ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str):
    monkeypatch.setattr("sys.argv", [f"{module.__name__.rpartition('.')[2]}.py", *arguments])
    return module.parse_arguments()


# ------------------------------------------------------------------------------------------- flags and parameters


@pytest.mark.parametrize(
    ("module", "flag"),
    [(m, f) for m in (main, evaluate) for f in PUBLISHED["flags"][f"tfkd/{m.__name__.rpartition('.')[2]}.py"]],
    ids=lambda value: value["dest"] if isinstance(value, dict) else value.__name__,
)
def test_published_flags(module, flag, monkeypatch):
    assert getattr(parse(module, monkeypatch), flag["dest"]) == flag["default"]
    examples = {"int": ("150", 150), "str": ("x", "x"), "flag": (None, True)}
    text, value = examples[flag["type"]]
    for name in flag["flags"]:
        arguments = [name] if text is None else [name, text]
        assert getattr(parse(module, monkeypatch, *arguments), flag["dest"]) == value


@pytest.mark.parametrize("path", PUBLISHED["tfkd_params"])
def test_parameter_files_are_the_published_ones(path):
    published = PUBLISHED["tfkd_params"][path]
    names = [path, *(path.replace(tree, written) for written, tree in ALIASES.items() if tree in path)]
    for name in names:
        ours = json.loads((REPOSITORY / name).read_text())
        assert ours == published
        assert {k: type(v) for k, v in ours.items()} == {k: type(v) for k, v in published.items()}


@pytest.mark.parametrize("path", PUBLISHED["tfkd_readme_directories"]["commands"])
def test_directories_of_the_published_readme_exist(path):
    in_tree = PUBLISHED["tfkd_readme_directories"]["commands"][path]["directory_in_tree"]
    assert (REPOSITORY / path / "params.json").samefile(REPOSITORY / in_tree / "params.json")


@pytest.fixture
def tree(tmp_path) -> Path:
    """The parameter files, and an empty file for every checkpoint that the published script may read."""

    def others(directory: str, names: list[str]) -> set[str]:
        return {name for name in names if name != "params.json" and not Path(directory, name).is_dir()}

    for part in ("base_experiments", "kd_experiments"):
        shutil.copytree(EXPERIMENTS / part, tmp_path / "experiments" / part, ignore=others)
    teachers = PUBLISHED["tfkd_teacher_checkpoints"]
    for name in teachers["teachers"]:
        path = tmp_path / teachers["pattern"].replace("<teacher>", name)
        path.parent.mkdir(parents=True)
        path.touch()
    for name, file in teachers["poorly_trained"].items():
        (tmp_path / f"experiments/pretrained_teacher_models/base_{name}" / file).touch()
    return tmp_path


def build(directory: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path | None]:
    """The method that a command builds, by name, and the file that its teacher would be read from."""
    read = []
    monkeypatch.setattr(TeacherCheckpoint, "load_into", lambda self, network: read.append(self.path))
    args = parse(main, monkeypatch, "--model_dir", str(directory), *flags)
    model_dir, params = open_experiment(args.model_dir)
    images = ImageArrays(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1, np.int64))
    data = Dataset("cifar100", images, images, tuple(map(str, range(100))), "", "")
    with torch.device("meta"):  # networks without memory or initialization
        asked = settings_from(Flags, args)
        keys = require_method(asked, model_dir / "params.json", params)
        method, _ = build_method(asked, model_dir, params, keys, data)
    return type(method).__name__, read[0] if read else None


USES = [
    (directory, mode, use)
    for directory, modes in PUBLISHED["tfkd_params_file_use"].items()
    for mode, use in modes.items()
]


@pytest.mark.parametrize(("directory", "mode", "use"), USES, ids=[f"{d[12:]} {m}" for d, m, _ in USES])
def test_every_parameter_file_runs_or_stops_as_published(directory, mode, use, tree, monkeypatch):
    flags = [] if mode == "plain" else [mode]
    if use["runs"]:
        method, teacher = build(tree / directory, flags, monkeypatch)
        expected = {"--regularization": "Regularization", "--self_training": "Distillation"}
        assert method == expected.get(mode, "Distillation" if "kd_experiments" in directory else "Baseline")
        assert (teacher and str(teacher.relative_to(tree))) == use.get("teacher_checkpoint")
        return
    with pytest.raises(UserError) as stopped:
        build(tree / directory, flags, monkeypatch)
    if key := re.search("no attribute '(.*)'", use["stops_with"]):
        assert f"params.json lacks the key '{key[1]}'" in str(stopped.value)
    elif "densenet121_teacher" in directory:
        assert "params.json lacks the key 'dataset'" in str(stopped.value)
    else:
        assert "unknown model 'resnext101'" in str(stopped.value)


README_COMMANDS = [
    tuple(shlex.split(line)[2:])
    for line in (REPOSITORY / "tfkd" / "README.md").read_text().splitlines()
    if line.startswith("python main.py --model_dir experiments/") and "--method" not in line
]


@pytest.mark.parametrize("command", sorted(set(README_COMMANDS)), ids=" ".join)
def test_every_command_of_our_readme_builds_its_method(command, tree, monkeypatch):
    _, directory, *flags = command
    assert re.match("experiments/(base|kd)_experiments/", directory)
    method, teacher = build(tree / directory, flags, monkeypatch)
    if "--pt_teacher" in flags:
        assert teacher.name in ("0.pth.tar", "50.pth.tar")
    assert (teacher is None) == (method != "Distillation")


# ----------------------------------------------------------------------------------------------- files that are left

NO_TEACHER = PUBLISHED["artifacts"]["tfkd/main.py, no teacher"]
TEACHER = PUBLISHED["artifacts"]["tfkd/main.py, teacher path"]
OURS = {"run.json", "metrics.jsonl", ".lock"}


def written(directory: Path) -> set[str]:
    return {f.name for f in directory.iterdir() if not f.name.startswith("events.")} - {"params.json"}


def assert_published_files(directory: Path, artifacts: dict) -> None:
    """The published names, in the published structure."""
    for name, keys in artifacts["files"].items():
        if name in ("train.log", "tensorboard/"):
            continue
        file = directory / name
        if name.endswith(".json"):
            assert list(json.loads(file.read_text())) == [key.partition(" ")[0] for key in keys]
        else:
            content = checkpoint(file)
            assert {"epoch", "state_dict", "optim_dict"} <= set(content)
            assert content["epoch"] == 1  # finished epochs
    assert (
        json.loads(next(directory.glob("eval_last*")).read_text())["accuracy"]
        == metrics(directory)[-1]["test/accuracy"]
    )


@pytest.mark.slow
def test_baseline(workspace):
    directory = workspace.experiment(CNN)
    ended = workspace.run(CNN, *ONE)
    assert (ended.code, ended.stderr) == (0, "")
    assert_published_files(directory, NO_TEACHER)
    assert written(directory) == {*NO_TEACHER["files"], *OURS, "0.pth.tar", "50.pth.tar", "base_train"}
    assert len(list((directory / "base_train").glob("events.*"))) == 1
    assert "epoch 1/1: " in (directory / "train.log").read_text()
    for name in ("0.pth.tar", "50.pth.tar"):
        assert set(checkpoint(directory / name)) == {"epoch", "state_dict"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "place"), [("--regularization", "Tf-KD_regularization"), ("--label_smoothing", "label_smoothing")]
)
def test_teacher_free_variants(flag, place, workspace):
    directory = workspace.experiment(CNN)
    ended = workspace.run(CNN, *ONE, flag)
    assert (ended.code, ended.stderr) == (0, "")
    assert written(directory) == {place, "train.log"}
    assert_published_files(directory / place, NO_TEACHER)
    assert written(directory / place) == {*NO_TEACHER["files"], *OURS} - {"train.log"}
    assert len(list((directory / place).glob("events.*"))) == 1
    assert record(directory / place)["experiment"] == f"{CNN} {flag}"
    assert ("soft" in record_of_losses(directory / place)) == (flag == "--regularization")


def test_label_smoothing_at_the_scale_of_regularization(workspace):
    """The first epoch of one batch is reported before any step: the same loss, scaled."""
    directory = workspace.experiment(CNN, reg_alpha=0.9, multiplier=2.0, dropout_rate=0.0)
    losses = []
    for flags, name in (([], "--label_smoothing"), (["--matched_scale"], "--label_smoothing --matched_scale")):
        ended = workspace.run(CNN, *ONE, "--limit-train-batches", "1", "--label_smoothing", *flags)
        assert (ended.code, ended.stderr) == (0, "")
        place = directory / name.replace("--", "").replace(" ", "_")
        assert record(place)["experiment"] == f"{CNN} {name}"
        losses.append(metrics(place)[0]["train/loss"])
    assert losses[1] == pytest.approx((0.1 + 0.9 * 2 / 10) * losses[0])


def record_of_losses(directory: Path) -> set[str]:
    return {key.removeprefix("train/") for key in metrics(directory)[0] if key.startswith("train/")}


@pytest.mark.parametrize("flags", [[], ["--self_training"]], ids=" ".join)
def test_distillation(flags, workspace):
    baseline, directory = workspace.experiment(BASELINE), workspace.experiment(SELF_TAUGHT_CNN)
    assert workspace.run(BASELINE, *ONE).code == 0
    before = checkpoint(baseline / "best.pth.tar")["state_dict"]
    ended = workspace.run(SELF_TAUGHT_CNN, *ONE, *flags)
    assert (ended.code, ended.stderr) == (0, "")
    assert f"teacher cnn from {baseline}/best.pth.tar" in ended.stdout
    assert_published_files(directory, TEACHER)
    assert written(directory) == {*(name.rstrip("/") for name in TEACHER["files"]), *OURS}
    assert len(list((directory / "tensorboard").glob("events.*"))) == 1
    assert record_of_losses(directory) == {"loss", "cross_entropy", "soft", "accuracy"}
    student = checkpoint(directory / "last.pth.tar")
    assert student["state_dict"].keys() == before.keys()
    assert not any("teacher" in key for key in student["training"]["weights"])


@pytest.mark.slow
def test_poorly_trained_teacher_comes_from_a_baseline(workspace):
    student = "kd_experiments/mobilenet_v2_distill/resnet18_teacher"
    brief = ["--limit-train-batches", "1", "--limit-eval-batches", "1"]
    baseline = workspace.experiment("base_experiments/base_resnet18", batch_size=4)
    workspace.experiment(student, batch_size=4)
    assert workspace.run("base_experiments/base_resnet18", *ONE, *brief).code == 0
    ended = workspace.run(student, *ONE, *brief, "--pt_teacher")
    assert (ended.code, ended.stderr) == (0, "")
    assert f"teacher resnet18 from {baseline}/0.pth.tar" in ended.stdout


def test_placed_teachers_come_first(workspace):
    baseline = workspace.experiment(BASELINE)
    directory = workspace.experiment(SELF_TAUGHT_CNN)
    placed = workspace.root / "experiments/pretrained_teacher_models/base_cnn"
    for place in (baseline, placed):
        place.mkdir(parents=True, exist_ok=True)
        (place / "best.pth.tar").touch()
    assert find_teacher("cnn", directory).path == placed / "best.pth.tar"
    (placed / "best.pth.tar").unlink()
    found = find_teacher("cnn", directory)
    assert (found.path, found.origin) == (baseline / "best.pth.tar", "given")
    assert found.command == "`python main.py --model_dir experiments/base_experiments/base_cnn/` in tfkd/"


def test_a_message_tells_of_a_teacher_of_other_data(workspace):
    workspace.experiment(BASELINE, dataset="cifar100")
    workspace.experiment(SELF_TAUGHT_CNN)
    assert workspace.run(BASELINE, *ONE, "--num_class", "150").code == 0
    ended = workspace.run(SELF_TAUGHT_CNN, *ONE, "--num_class", "150")
    assert "warning: teacher cnn was trained on other data (cifar100, synthetic dataset" in ended.stdout


def test_double_training_starts_from_the_trained_baseline(workspace):
    """And leaves the snapshots of the first training, which is the poor one, alone."""
    directory = workspace.experiment(BASELINE, learning_rate=0.02)
    assert workspace.run(BASELINE, "--epochs", "5").code == 0
    before = {name: checkpoint(directory / name)["state_dict"] for name in ("0.pth.tar", "best.pth.tar")}
    assert not torch.equal(before["0.pth.tar"]["fc2.weight"], before["best.pth.tar"]["fc2.weight"])
    workspace.experiment(BASELINE, learning_rate=1e-12)
    ended = workspace.run(BASELINE, *ONE, "--double_training")
    assert (ended.code, ended.stderr) == (0, "")
    after = {name: checkpoint(directory / name)["state_dict"] for name in ("0.pth.tar", "best.pth.tar")}
    for name in before:
        assert torch.equal(after[name]["fc2.weight"], before[name]["fc2.weight"]), name
    own = checkpoint(directory / "double_training/best.pth.tar")["state_dict"]
    assert torch.equal(own["fc2.weight"], before["best.pth.tar"]["fc2.weight"])
    assert record(directory)["experiment"] == BASELINE
    assert record(directory / "double_training")["experiment"] == f"{BASELINE} --double_training"


def test_restored_run_starts_again_with_weights_and_optimizer(workspace):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, "--epochs", "2").code == 0
    before = checkpoint(directory / "last.pth.tar")
    shutil.copy(directory / "last.pth.tar", directory / "mine.pth.tar")
    workspace.experiment(CNN, learning_rate=1e-12)
    ended = workspace.run(CNN, *ONE, "--restore_file", "mine", "--overwrite")
    assert (ended.code, ended.stderr) == (0, "")
    after = checkpoint(directory / "last.pth.tar")
    assert [line["epoch"] for line in metrics(directory)] == [0]
    assert torch.equal(after["state_dict"]["fc2.weight"], before["state_dict"]["fc2.weight"])
    steps = [content["optim_dict"]["state"][0]["step"].item() for content in (before, after)]
    assert steps == [12, 18]  # six an epoch: the optimizer goes on from where it was


@pytest.mark.parametrize(
    ("flag", "place"), [("--regularization", "Tf-KD_regularization"), ("--label_smoothing", "label_smoothing")]
)
def test_teacher_free_variants_restore_from_the_model_directory(flag, place, workspace):
    """As published: not from the directory that they write to."""
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *ONE).code == 0
    before = checkpoint(directory / "best.pth.tar")["state_dict"]
    workspace.experiment(CNN, learning_rate=1e-12)
    assert workspace.run(CNN, *ONE, flag).code == 0  # a best.pth.tar of its own, from other weights
    own = checkpoint(directory / place / "best.pth.tar")["state_dict"]
    assert not torch.equal(own["fc2.weight"], before["fc2.weight"])
    ended = workspace.run(CNN, *ONE, flag, "--restore_file", "best", "--overwrite")
    assert (ended.code, ended.stderr) == (0, "")
    after = checkpoint(directory / place / "last.pth.tar")["state_dict"]
    assert torch.equal(after["fc2.weight"], before["fc2.weight"])


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        ([], ""),
        (["--regularization"], "Tf-KD_regularization"),
        (["--label_smoothing"], "label_smoothing"),
        (["--label_smoothing", "--matched_scale"], "label_smoothing_matched_scale"),
    ],
    ids=" ".join,
)
def test_evaluation_is_by_the_method_s_own_loss(flags, place, workspace):
    """As in the published script: in `eval_*_results.json` and in the record of the epochs."""
    directory = workspace.experiment(CNN, learning_rate=0.02, reg_alpha=0.9, reg_temperature=2, multiplier=3.0)
    assert workspace.run(CNN, *ONE, *flags).code == 0
    loss = json.loads((directory / place / "eval_last_results.json").read_text())["loss"]
    assert loss == metrics(directory / place)[-1]["test/loss"]
    logits, targets = on_the_test_set(directory / place / "last.pth.tar", workspace)
    cross_entropy, smoothed = F.cross_entropy(logits, targets), label_smoothing_loss(logits, targets)["cross_entropy"]
    regularized = regularization_loss(logits, targets, alpha=0.9, temperature=2, multiplier=3.0)
    expected = {
        "": cross_entropy,
        "--regularization": sum(regularized.values()),
        "--label_smoothing": smoothed,
        "--label_smoothing --matched_scale": (0.1 + 0.9 * 3 / 10) * smoothed,
    }[" ".join(flags)]
    assert loss == pytest.approx(expected.item(), rel=1e-4)
    assert (loss == pytest.approx(cross_entropy.item(), rel=1e-4)) == (not flags)


def on_the_test_set(file: Path, workspace) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a trained `cnn`, and the labels."""
    network = create_model("cnn", 10, family="tfkd", num_channels=4, dropout_rate=0.5).eval()
    network.load_state_dict(checkpoint(file)["state_dict"])
    images = load_dataset("cifar10", workspace.data, download=False).test
    (batch,) = DeviceLoader(images, len(images), transforms_for("cifar10")[0], torch.device("cpu")).epoch()
    with torch.inference_mode():
        return network(batch.images), batch.targets


# ----------------------------------------------------------------------------------------------------------- records


def test_record_of_a_run(workspace):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, "--epochs", "2", "--seed", "7", "--limit-train-batches", "5").code == 0
    run, lines = record(directory), metrics(directory)
    assert (run["paper"], run["experiment"], run["status"], run["error"]) == ("tfkd", CNN, "done", None)
    assert run["settings"]["seed"] == 7
    assert run["settings"]["learning_rate"] == 0.001
    assert run["settings"]["method"] == "Baseline"
    published = {"published_epochs": 200, "published_batch_size": 128}
    assert run["budget"] == {"epochs": 2, **published, "batches": 5}
    assert (run["method"], run["student"], run["batch_size"], run["teachers"]) == ("Baseline", "cnn", 50, [])
    assert run["data"]["name"] == "cifar10"
    assert run["data"]["content"].startswith("synthetic dataset")
    assert (run["data"]["classes"], run["data"]["train_images"], run["data"]["test_images"]) == (10, 300, 100)
    switches = {"compile": False, "plain": False, "tf32": False, "graphs": True, "teacher_cache": "auto"}
    (segment,) = run["segments"]
    assert (segment["first_epoch"], segment["epochs"]) == (0, 2)
    assert segment["runtime"] == {"device": "cpu", "amp": "off", **switches, "world_size": 1}
    how = {"layout": "channels_last", "precision": "fp32", "step": "eager: no GPU", "evaluation": "eager: no GPU"}
    assert segment["execution"] == {**how, "peak_memory_mib": None}
    assert run["command"][0] == "main.py"
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|unknown", segment["commit"])
    assert segment["versions"]["torch"] == torch.__version__
    assert segment["hardware"]["threads"] >= 1
    assert run["epochs_done"] == 2
    assert run["started"] <= run["finished"]
    assert run["seconds"] > 0

    assert [line["epoch"] for line in lines] == [0, 1]
    assert set(lines[0]) == {
        *("epoch", "learning_rate", "train/loss", "train/cross_entropy", "train/accuracy"),
        *("test/loss", "test/accuracy", "test/top5"),
    }
    best = max(line["test/accuracy"] for line in lines)
    assert run["accuracy"]["best"] == best
    assert run["accuracy"]["best_epoch"] == max(line["epoch"] for line in lines if line["test/accuracy"] == best)
    assert run["accuracy"]["last"] == lines[-1]["test/accuracy"]
    assert run["accuracy"]["selected_by_validation"] is None


@pytest.mark.slow
def test_three_accuracies_with_a_validation_part(workspace):
    directory = workspace.experiment(CNN, learning_rate=0.02)
    ended = workspace.run(CNN, "--epochs", "6", "--val-fraction", "0.2")
    lines, run = metrics(directory), record(directory)
    validation = [line["validation/accuracy"] for line in lines]
    chosen = max(epoch for epoch, accuracy in enumerate(validation) if accuracy == max(validation))
    test = [line["test/accuracy"] for line in lines]
    assert len(set(test)) > 2
    accuracies = {"last": test[-1], "best": max(test), "selected_by_validation": test[chosen]}
    assert {key: run["accuracy"][key] for key in accuracies} == accuracies
    assert f"chosen by validation {test[chosen]:.2f}" in ended.stdout
    assert run["data"]["train_images"] == 300


@pytest.mark.slow
@pytest.mark.parametrize("restored", ["best", "last"])
def test_evaluation_repeats_what_the_run_recorded(restored, workspace):
    directory = workspace.experiment(CNN, learning_rate=0.02)
    assert workspace.run(CNN, "--epochs", "3").code == 0
    ended = workspace.run(CNN, "--restore_file", restored, script="tfkd.evaluate")
    assert (ended.code, ended.stderr) == (0, "")
    figures = json.loads((directory / f"metrics_test_{restored}.json").read_text())
    assert figures["accuracy"] == record(directory)["accuracy"][restored]
    epoch = record(directory)["accuracy"]["best_epoch"] if restored == "best" else 2
    assert figures == {key: metrics(directory)[epoch][f"test/{key}"] for key in ("accuracy", "top5", "loss")}
    assert f"accuracy {figures['accuracy']:.2f}" in ended.stdout


def test_evaluation_of_a_teacher_free_variant(workspace):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *ONE, "--regularization").code == 0
    ended = workspace.run(CNN, "--restore_file", "Tf-KD_regularization/best", script="tfkd.evaluate")
    assert (ended.code, ended.stderr) == (0, "")
    figures = json.loads((directory / "Tf-KD_regularization/metrics_test_best.json").read_text())
    assert figures["accuracy"] == record(directory / "Tf-KD_regularization")["accuracy"]["best"]


# -------------------------------------------------------------------------------------------------- data and schedule


@pytest.mark.parametrize(("dataset", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_as_many_outputs_as_the_data_have_classes(dataset, classes, workspace):
    directory = workspace.experiment(CNN, dataset=dataset)
    assert workspace.run(CNN, *ONE).code == 0
    assert checkpoint(directory / "last.pth.tar")["state_dict"]["fc2.weight"].shape == (classes, 16)
    assert workspace.run(CNN, script="tfkd.evaluate").code == 0


def test_num_class_may_be_larger(workspace):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, *ONE, "--num_class", "17").code == 0
    assert checkpoint(directory / "last.pth.tar")["state_dict"]["fc2.weight"].shape == (17, 16)


def test_subset_percent_takes_that_part_of_each_class(workspace):
    directory = workspace.experiment(CNN, subset_percent=0.5)
    assert workspace.run(CNN, *ONE).code == 0
    assert checkpoint(directory / "last.pth.tar")["optim_dict"]["state"][0]["step"].item() == 3  # 150 images
    assert record(directory)["settings"]["subset_percent"] == 0.5


@pytest.mark.slow
def test_fewer_epochs_shrink_the_schedule(workspace):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, "--epochs", "10", "--limit-train-batches", "2", "-warm", "2").code == 0
    base_lr = 0.001 * 50 / 128
    rates = [base_lr / 2] + [base_lr] * 2 + [base_lr * 0.2] * 3 + [base_lr * 0.04] * 2 + [base_lr * 0.008] * 2
    assert [line["learning_rate"] for line in metrics(directory)] == pytest.approx(rates)
    assert checkpoint(directory / "0.pth.tar")["epoch"] == 1
    assert checkpoint(directory / "50.pth.tar")["epoch"] == 2  # a quarter of the epochs


def test_paths_are_found_from_several_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    published = "experiments/base_experiments/base_cnn"
    assert resolve_path(published, "tfkd") == REPOSITORY / published
    assert resolve_path("main.py", "tfkd") == REPOSITORY / "tfkd" / "main.py"
    assert resolve_path("nowhere", "tfkd") == tmp_path / "nowhere"
    (tmp_path / published).mkdir(parents=True)
    assert resolve_path(published, "tfkd") == tmp_path / published
    assert resolve_path(tmp_path / published, "tfkd") == tmp_path / published
