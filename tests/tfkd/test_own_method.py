"""`--method FILE.py:CLASS`: a method of one's own belongs to the experiment, and its errors are told as such."""

import json
import math
import re

import pytest

from common.results.records import measure_all, read_runs
from common.training.method import load_method
from tests.processes import CNN
from tfkd.methods import Baseline

METHOD = """
import torch.nn.functional as F
from common.training.method import Method, StepOutput


class Mine(Method):
    def __init__(self, student):
        super().__init__()
        self.student = student

    def forward(self, images, targets, indices, epoch):
        logits = self.student(images)
        return StepOutput(logits, {"cross_entropy": WEIGHT * F.cross_entropy(logits, targets)})


WEIGHT = 1.0
"""


@pytest.fixture
def run(workspace, call):
    """Trains an epoch by a file with a method in it."""
    workspace.experiment(CNN)

    def train(text: str, *flags: str, name: str = "mine.py"):
        (workspace.root / name).write_text(text)
        limits = ["--epochs", "1", "--limit-train-batches", "2", "--limit-eval-batches", "1"]
        return call(workspace.arguments(CNN, *limits, "--method", f"{name}:Mine", *flags))

    return train


def test_two_versions_of_a_file_are_two_experiments(run, workspace):
    first = run(METHOD, name="a.py")
    assert first.code == 0, first.stderr
    place = workspace.root / "experiments" / CNN / "Mine"
    record = json.loads((place / "run.json").read_text())
    assert str(workspace.root / "a.py") in record["details"]["own_files"]

    changed = METHOD.replace("WEIGHT = 1.0", "WEIGHT = 2.0")
    refused = run(changed, name="b.py")
    assert refused.code == 2
    assert re.search(r"holds a finished run of .* with own_code = '\w{16}', not '\w{16}'", refused.stderr)
    assert run(METHOD, "--resume", name="a.py").code == 0
    assert run(changed, "--resume", name="a.py").code == 2

    assert run(changed, "--seed", "1", "--overwrite", name="c.py").code == 0
    ((_, experiments),) = measure_all(read_runs([workspace.root])[0]).items()
    ((_, group),) = experiments.items()
    assert len(group.runs) == 1  # the version set aside is in no mean


def test_versions_in_two_places_are_not_averaged(run, workspace):
    for seed, (text, name) in enumerate([(METHOD, "a.py"), (METHOD.replace("1.0", "2.0"), "b.py"), (METHOD, "c.py")]):
        assert run(text, "--seed", str(seed), name=name).code == 0
        directory = workspace.root / "experiments" / CNN / "Mine"
        directory.rename(workspace.root / f"kept_{seed}")
    ((_, experiments),) = measure_all(read_runs([workspace.root])[0]).items()
    ((_, group),) = experiments.items()
    assert [record.seed for record in group.runs] == [0, 2]
    assert group.superseded == 1


def test_a_method_without_a_student_is_told_what_to_set(run, workspace):
    ended = run(METHOD.replace("self.student = student", "self.network = student"))
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
    assert "its constructor must set self.student, the network that is trained" in ended.stderr
    assert not list(workspace.root.rglob("run.json"))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("WEIGHT = 1.0", "import nothing_like_this", 16, "ModuleNotFoundError"),
        ("WEIGHT = 1.0", "WEIGHT = ", 16, "SyntaxError"),
        ("(self, student)", "(self, student, alpha)", 6, "missing 1 required positional argument: 'alpha'"),
        ("super().__init__()\n", "super().__init__()\n        1 / 0\n", 9, "ZeroDivisionError"),
        ("super().__init__()\n", "super().__init__()\n        raise SystemExit\n", 9, "SystemExit"),
        ("WEIGHT = 1.0", "exec('WEIGHT = (')", 16, "SyntaxError"),
        (
            "WEIGHT = 1.0",
            "raise type('Odd', (ValueError,), {'__str__': lambda self: 1 / 0})",
            16,
            r"Odd: \(an error without a text",
        ),
    ],
)
def test_errors_before_the_run_name_file_and_line(old, new, line, message, run, workspace):
    ended = run(METHOD.replace(old, new))
    assert ended.code == 2
    assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*mine\.py:{line}[^\n]*\n", ended.stderr), ended.stderr
    assert not list(workspace.root.rglob("run.json"))


@pytest.mark.parametrize(
    ("weight", "message"),
    [("nothing", "NameError"), ("open('/nowhere/to/be/found')", "FileNotFoundError"), ("exit()", "SystemExit")],
)
def test_errors_in_training_name_file_and_line(weight, message, run, workspace):
    ended = run(METHOD.replace("WEIGHT * F", f"{weight} * F"))
    assert ended.code == 1
    assert re.fullmatch(rf"error: [^\n]*{message}[^\n]*mine\.py:13, in forward\) \(traceback in [^\n]*\n", ended.stderr)
    assert "Traceback (most recent call last)" in next(workspace.root.rglob("train.log")).read_text()
    assert json.loads(next(workspace.root.rglob("run.json")).read_text())["status"] == "failed"


def test_no_python_file(run, workspace, call):
    (workspace.root / "notes.txt").write_text(METHOD)
    ended = call(workspace.arguments(CNN, "--method", "notes.txt:Mine"))
    assert ended.code == 2
    assert "notes.txt is no Python file" in ended.stderr


DERIVED = """
from tfkd.methods import Baseline

class Ramp(Baseline):
    pass

class Steady(Baseline):
    graph_capturable, epoch_dependent_until = True, 0

class Steadier(Steady):
    pass
"""


def test_a_derived_class_makes_its_own_promises(tmp_path):
    """What it adds may depend on the epoch, or on the host, and a captured step would repeat the first."""
    (tmp_path / "derived.py").write_text(DERIVED)
    kinds = [load_method(f"{tmp_path / 'derived.py'}:{name}", "tfkd") for name in ("Ramp", "Steady", "Steadier")]
    assert [kind.graph_capturable for kind in kinds] == [False, True, True]
    assert [kind.epoch_dependent_until for kind in kinds] == [math.inf, 0, 0]
    assert Baseline.graph_capturable
    assert Baseline.epoch_dependent_until == 0
