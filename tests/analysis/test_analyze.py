"""`python -m common.analyze`: any two checkpoints or runs, and one line for what cannot be compared."""

import json
import re
import shutil

import pytest
import torch

from common.analyze.sources import identify, student_weights
from common.data import DeviceLoader, load_dataset
from common.data.normalizations import CIFAR100
from common.models import create_model
from tests.processes import SELF_TAUGHT_CNN, Workspace, record

BASELINE = "base_experiments/base_cnn"


@pytest.fixture
def checkpoints(tmp_path):
    """Networks of several families and forms, with random weights: name -> file."""
    torch.manual_seed(0)
    files = {}
    for name, family, classes, wrap in (
        ("resnet8", "mdistiller", 100, lambda state: {"model": state}),
        ("resnet20", "mdistiller", 100, lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}}),
        ("wrn_10_1", "mtkd_rl", 100, lambda state: state),
        ("shufflenet_v2", "tfkd", 100, lambda state: {"state_dict": state}),
        ("resnet14", "mdistiller", 10, lambda state: {"model": state}),
        ("resnet32", "mdistiller", 100, lambda state: {"model": {f"student.{k}": v for k, v in state.items()}}),
    ):
        files[name] = tmp_path / f"{name}.pth"
        torch.save(wrap(create_model(name, classes, family=family).state_dict()), files[name])
    return {name: str(file) for name, file in files.items()}


@pytest.fixture
def analyze(call, workspace):
    where = ["--data-dir", str(workspace.data), "--no-download", "--device", "cpu"]
    return lambda *arguments: call([*map(str, arguments), *where], "common.analyze.__main__")


@pytest.mark.slow
def test_two_checkpoints_beside_a_teacher(analyze, checkpoints, workspace, tmp_path):
    file = tmp_path / "all.json"
    flags = ["--teacher", checkpoints["resnet20"], "--against", checkpoints["wrn_10_1"], "--train-images", "50"]
    ended = analyze(checkpoints["resnet8"], *flags, "--temperature", "4", "--json", file)
    assert (ended.code, ended.stderr) == (0, "")
    found = json.loads(file.read_text())
    assert found["images"] == 100
    data, logits = load_dataset("cifar100", workspace.data), {}
    for name, family in (("resnet8", "mdistiller"), ("resnet20", "mdistiller"), ("wrn_10_1", "mtkd_rl")):
        network = create_model(name, 100, family=family).eval()
        network.load_state_dict(dict(student_weights(tmp_path / f"{name}.pth")))
        (batch,) = DeviceLoader(data.test, 100, CIFAR100).epoch()
        with torch.no_grad():
            logits[name] = network(batch.images).argmax(1)
    targets = torch.from_numpy(data.test.targets)
    for student, name in zip(found["students"], ("resnet8", "wrn_10_1"), strict=True):
        (fidelity,) = student["test"]["fidelity"].values()
        assert fidelity["agreement"] == float((logits[name] == logits["resnet20"]).double().mean() * 100)
        assert fidelity["kl_at_temperature"] is not None
        assert student["test"]["accuracy"] == float((logits[name] == targets).double().mean() * 100)
        assert student["train"]["images"] == 50
    right = [(logits[name] == targets) for name in ("resnet8", "wrn_10_1")]
    assert found["comparison"]["only_a"] == int((right[0] & ~right[1]).sum())
    assert found["comparison"]["only_b"] == int((right[1] & ~right[0]).sum())
    assert "McNemar's exact test: p = " in ended.stdout
    assert "| teacher | resnet20 (resnet20.pth)" in ended.stdout


@pytest.mark.slow
def test_several_teachers_and_their_mean(analyze, checkpoints):
    flags = [f for name in ("resnet20", "shufflenet_v2") for f in ("--teacher", checkpoints[name])]
    ended = analyze(checkpoints["resnet8"], *flags, "--train-images", "0")
    assert (ended.code, ended.stderr) == (0, "")
    for name in ("resnet20", "shufflenet_v2", "mean"):
        assert f"| teacher | {name}" in ended.stdout


@pytest.mark.slow
def test_a_run_says_of_itself_what_its_record_has(analyze, workspace):
    workspace.experiment(BASELINE)
    directory = workspace.experiment(SELF_TAUGHT_CNN)
    assert workspace.run(BASELINE, "--epochs", "1").code == 0
    flags = ["--epochs", "2", "--self_training", "--val-fraction", "0.2"]
    assert workspace.run(SELF_TAUGHT_CNN, *flags).code == 0
    teacher = workspace.root / "experiments" / BASELINE
    analysis = record(directory)["analysis"]
    for epoch in ("last", "best"):
        file = workspace.root / "found.json"
        ended = analyze(directory, "--teacher", teacher, "--epoch", epoch, "--json", file)
        assert (ended.code, ended.stderr) == (0, "")
        (student,) = json.loads(file.read_text())["students"]
        known = analysis["test"][epoch]
        for key in ("accuracy", "nll", "ece", "optimal_temperature", "ece_at_optimal_temperature"):
            assert student["test"][key] == (known[key] and pytest.approx(known[key], rel=1e-4)), key
        (fidelity,) = student["test"]["fidelity"].values()
        if epoch == "last" or record(teacher)["accuracy"]["best_epoch"] == 0:
            assert fidelity["agreement"] == pytest.approx(known["fidelity"]["cnn"]["agreement"])
            assert fidelity["kl_at_temperature"] == pytest.approx(
                known["fidelity"]["cnn"]["kl_at_temperature"], rel=1e-3
            )
        assert student["train"]["accuracy"] == pytest.approx(analysis["train"][epoch]["accuracy"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{resnet8}"], "agreement needs a teacher, and"),
        (["nowhere"], "no checkpoint and no run nowhere"),
        (["{resnet8}", "--teacher", "nowhere"], "no checkpoint and no run nowhere"),
        (["{resnet8}", "--teacher", "x" * 400], "no checkpoint and no run xxx"),
        (["x" * 400, "--teacher", "{resnet8}"], "no checkpoint and no run xxx"),
        (["{resnet8}", "--teacher", "{resnet14}"], "holds resnet14 for 10 classes; the dataset has 100"),
        (["{resnet8}", "--teacher", "{resnet8}", "--dataset", "cifar10"], "holds resnet8 for 100 classes"),
        (["{run}", "--dataset", "cifar100", "--teacher", "{resnet8}"], "was trained on cifar10, not on cifar100"),
        (["{resnet8}", "--teacher", "{other}"], "holds weights of no network of the families"),
        (["mdistiller/resnet21:{resnet8}", "--teacher", "{resnet8}"], "unknown model 'resnet21'"),
        (["mdistiller/resnet20:{resnet8}", "--teacher", "{resnet8}"], "does not fit resnet20 with 100 classes"),
        (["{resnet8}", "--teacher", "{resnet20}", "--teacher", "{resnet20}"], "is given twice"),
        (["{resnet8}", "--teacher", "{resnet20}", "--temperature", "0"], "--temperature: 0 is not a number from 1e-12"),
        (["{resnet8}", "--teacher", "{empty}"], "holds no record of a run"),
    ],
)
def test_bad_input_is_one_line(arguments, words, analyze, checkpoints, tmp_path, workspace):
    files = {**checkpoints, "run": workspace.experiment(BASELINE), "other": tmp_path / "o.pth", "empty": tmp_path / "e"}
    files["empty"].mkdir()
    torch.save({"weight": torch.zeros(3)}, files["other"])
    if "{run}" in arguments:
        assert workspace.run(BASELINE, "--epochs", "1").code == 0
    ended = analyze(*(argument.format(**files) for argument in arguments))
    assert (ended.code, ended.stdout) == (2, "")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert "Traceback" not in ended.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory, generated_data):
    """The directory of a finished run of `cnn`."""
    workspace = Workspace(tmp_path_factory.mktemp("finished") / "workspace", generated_data)
    directory = workspace.experiment(BASELINE)
    assert workspace.run(BASELINE, "--epochs", "1").code == 0
    return directory


ODD = [
    *(("settings", "num_channels", value) for value in ("x", -4, None, True, 2.5, [4], 10**6, 10**9)),
    *(("settings", "dropout_rate", value) for value in ("x", 7, -1, None)),
    *(("settings", "val_fraction", value) for value in ("x", None, True, -1, 1, 0.999, 1e-9, [0.1])),
    *(("analysis", "temperature", value) for value in ("x", 0, -1e300, 1e300, True, [4])),
]


@pytest.mark.parametrize(("part", "key", "value"), ODD)
def test_odd_records_are_one_line(part, key, value, finished, analyze, tmp_path):
    directory = shutil.copytree(finished, tmp_path / "odd")
    content = record(directory)
    content[part][key] = value
    (directory / "run.json").write_text(json.dumps(content))
    ended = analyze(directory, "--teacher", finished, "--train-images", "0")
    assert (ended.code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1), ended
    assert re.search(key.replace("_", "[-_]"), ended.stderr)


@pytest.mark.slow
def test_networks_are_known_by_their_weights(checkpoints, tmp_path):
    expected = {
        "resnet8": ("mdistiller", "resnet8"),
        "resnet20": ("mdistiller", "resnet20"),
        "wrn_10_1": ("mtkd_rl", "wrn_10_1"),
        "shufflenet_v2": ("tfkd", "shufflenet_v2"),
        "resnet32": ("mdistiller", "resnet32"),
    }
    for name, known in expected.items():
        path = tmp_path / f"{name}.pth"
        assert identify(student_weights(path), 100, path) == known
