"""What a distiller keeps in Python, over a checkpoint and `--resume`."""

import collections
import copy
import io
import json
import sys

import pytest
import torch
from torch import nn

from common.models import create_model
from common.training.engine import Trainer
from edkd.distillers._base import Distiller, student_view, teacher_view
from edkd.engine import own_state
from edkd.engine.method import Distillation
from edkd.engine.own_state import OwnState, _fingerprint

BODY = """
import collections
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from ._base import Distiller


class Theirs(Distiller):
    def __init__(self, student, teacher, cfg):
        super(Theirs, self).__init__(student, teacher)
        self.critic = nn.Linear(64, 1)
        self.optimizers = [torch.optim.Adam(self.critic.parameters(), lr=0.05)]
        self.schedule = torch.optim.lr_scheduler.MultiStepLR(self.optimizers[0], [3, 5], 0.3)
        self.steps, self.average, self.center = 0, None, torch.zeros(64)
        self.memory = []
        self.queue = collections.deque(maxlen=2)

    def forward_train(self, image, target, **kwargs):
        logits, feature = self.student(image)
        pooled = feature["pooled_feat"]
        loss = (self.critic(pooled.detach()) - 1).pow(2).mean()
        self.optimizers[0].zero_grad()
        loss.backward()
        self.optimizers[0].step()
        self.schedule.step()
        self.steps += 1
        self.average = np.float64(loss.item()) if self.average is None else 0.9 * self.average + 0.1 * loss.item()
        self.center = 0.9 * self.center + 0.1 * pooled.detach().mean(0)
        self.memory.append(pooled.detach().mean())
        QUEUE
        pull = (pooled - self.center).pow(2).mean() + self.critic(pooled).mean() * self.average
        return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_kd": pull + 0.1 * self.steps * self.memory[0]}
"""


@pytest.fixture
def train(run_script, generated_data, tmp_path):
    """`train(source, project, *flags)`: two epochs of two steps."""
    torch.save({"model": create_model("resnet14", 100).state_dict()}, tmp_path / "teacher.pth")
    words = ["DISTILLER.TEACHER", "resnet14", "DISTILLER.TEACHER_CKPT", str(tmp_path / "teacher.pth")]
    words += ["DISTILLER.STUDENT", "resnet8", "SOLVER.EPOCHS", "2", "SOLVER.BATCH_SIZE", "20", "EXPERIMENT.TAG", "x"]
    words += ["LOG.WANDB", "False", "LOG.PREFIX", str(tmp_path / "output"), "--data-dir", str(generated_data)]
    words += ["--no-download", "--device", "cpu", "--limit-train-batches", "2", "--limit-eval-batches", "1"]

    def run(source: str, project: str, *flags: str):
        for name in [name for name in sys.modules if name.startswith("edkd.distillers.files_")]:
            del sys.modules[name]  # as in a process of its own
        return run_script("train", *words, "DISTILLER.TYPE", source, "EXPERIMENT.PROJECT", project, *flags)

    return run


def resumed_losses(train, monkeypatch, tmp_path, body: str) -> tuple[list[float], list[float], str]:
    """Losses of an uninterrupted run and of one that was stopped after its first epoch; and what the second said."""
    file = tmp_path / "Theirs.py"
    file.write_text(body)
    source = f"{file}:Theirs"
    assert train(source, "whole").code == 0
    run_epoch = Trainer._run_epoch

    def stop(self, epoch, *rest):
        if epoch == 1:
            raise KeyboardInterrupt
        run_epoch(self, epoch, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_run_epoch", stop)
        assert train(source, "broken").code != 0
    ended = train(source, "broken", "--resume")
    assert ended.code == 0, ended.stderr
    whole, broken = (
        [json.loads(line)["train/loss"] for line in next((tmp_path / "output" / name).glob("*/metrics.jsonl")).open()]
        for name in ("whole", "broken")
    )
    return whole, broken, ended.stdout


@pytest.mark.slow
def test_resumed_is_as_unbroken(train, monkeypatch, tmp_path):
    whole, broken, said = resumed_losses(train, monkeypatch, tmp_path, BODY.replace("QUEUE", "pass"))
    assert len(whole) == 2
    assert whole == broken
    assert "starts again" not in said


@pytest.mark.slow
def test_without_it_a_resumed_run_is_another(train, monkeypatch, tmp_path):
    monkeypatch.setattr(OwnState, "restore", lambda self, state: [])
    whole, broken, _ = resumed_losses(train, monkeypatch, tmp_path, BODY.replace("QUEUE", "pass"))
    assert whole[0] == broken[0]
    assert whole[1] != broken[1]


@pytest.mark.slow
def test_what_cannot_be_saved_is_said(train, monkeypatch, tmp_path):
    body = BODY.replace("QUEUE", "self.queue = iter([loss.item()])")
    *_, said = resumed_losses(train, monkeypatch, tmp_path, body)
    assert "Theirs.queue (list_iterator) is not part of checkpoints: it starts again" in said
    assert said.count("starts again") == 1


OF_OTHER_KINDS = """
        self.queue.append(loss.item())
        self.seen.update(target.tolist())
        self.confidence[target.numpy()] += 0.5
        self.by_class[int(target[0])].append(loss.item())
        self.counts.update(target.tolist())
        self.steps += sum(self.queue) + len(self.seen) + self.confidence.mean() + sum(map(len, self.by_class.values()))
        self.steps += self.counts.total() * (self.state.rand() + self.generator.random() + self.own_random.random())
        self.steps += torch.rand(1, generator=self.torch_generator).item()
"""


@pytest.mark.slow
def test_of_other_kinds(train, monkeypatch, tmp_path):
    """Queues, sets, arrays and generators of a distiller's own."""
    body = BODY.replace("        QUEUE\n", OF_OTHER_KINDS.lstrip("\n")).replace(
        "        self.memory = []\n",
        "        self.memory, self.seen, self.confidence = [], set(), np.zeros(100)\n"
        "        self.by_class, self.counts = collections.defaultdict(list), collections.Counter()\n"
        "        self.state, self.generator = np.random.RandomState(0), np.random.default_rng(1)\n"
        "        self.own_random, self.torch_generator = random.Random(2), torch.Generator().manual_seed(3)\n",
    )
    whole, broken, said = resumed_losses(train, monkeypatch, tmp_path, "import random\n" + body)
    assert whole == broken
    assert "starts again" not in said


SHARED = BODY.replace("QUEUE", "pass").replace(
    "class Theirs(Distiller):",
    "MEMORY, calls = {}, 0\n\n\nclass Theirs(Distiller):\n    steps_of_all, CENTERS = 0, []\n",
)
SHARED = SHARED.replace(
    "        pull =",
    """        global calls
        calls += 1
        Theirs.steps_of_all += 1
        self.CENTERS.append(pooled.detach().mean(0))
        MEMORY[calls] = loss.item()
        self.steps += calls + Theirs.steps_of_all + len(self.CENTERS) + MEMORY[1]
        pull =""",
)


@pytest.mark.slow
@pytest.mark.parametrize("saved", [True, False])
def test_what_modules_and_classes_keep_for_all(saved, train, monkeypatch, tmp_path):
    """It is saved like what the object itself keeps."""
    if not saved:
        monkeypatch.setattr(own_state, "shared_namespaces", lambda kind: {})
    whole, broken, said = resumed_losses(train, monkeypatch, tmp_path, SHARED)
    assert (whole == broken) == saved
    assert "starts again" not in said


@pytest.mark.slow
def test_the_try_out_leaves_it_alone(train, monkeypatch, tmp_path):
    (tmp_path / "Theirs.py").write_text(SHARED)
    assert train(f"{tmp_path / 'Theirs.py'}:Theirs", "whole").code == 0
    theirs = [module for name, module in sys.modules.items() if name.startswith("edkd.distillers.files_")]
    (module,) = (module for module in theirs if hasattr(module, "MEMORY"))
    assert (module.calls, module.Theirs.steps_of_all, list(module.MEMORY)) == (4, 4, [1, 2, 3, 4])
    assert len(module.Theirs.CENTERS) == 4


class Keeper(Distiller):
    """Attributes of all kinds."""

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__(student, teacher)
        self.head = nn.Linear(2, 2)
        self.parts = list(self.head.parameters())
        self.constant, self.counts, self.table = 3.0, [1, 2], {"a": torch.zeros(2)}
        self.other_name = self.table
        self.loss = lambda x: x


def keeper() -> Keeper:
    student, teacher = create_model("resnet8"), create_model("resnet8")
    return Keeper(student_view(student), teacher_view(teacher))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_tensor_elsewhere_in_memory_has_not_changed(dtype):
    value = {"a": torch.ones(3, dtype=dtype), "b": [torch.tensor(2).to(dtype)]}
    kept = [copy.deepcopy(value) for _ in range(3)]  # all alive: at different addresses
    assert len({_fingerprint(entry) for entry in kept}) == 1
    kept[0]["a"][1] = 0
    assert _fingerprint(kept[0]) != _fingerprint(kept[1])
    assert _fingerprint(torch.ones(2, 3)) != _fingerprint(torch.ones(3, 2))


def test_only_what_changed_is_saved_and_names_stay_together():
    first, second = keeper(), keeper()
    state = OwnState(first)
    assert state.capture() == {"objects": {}, "values": {}, "unsaved": {}}
    first.counts.append(5)
    first.table["a"] += 1
    first.parts.append(nn.Parameter(torch.ones(1)))
    first.seen = collections.OrderedDict(x=1)  # made in training: nothing says of what kind it will be
    saved = state.capture()
    assert sorted(saved["values"]) == ["counts", "other_name", "table"]
    assert saved["unsaved"] == {"seen": "OrderedDict"}
    messages = OwnState(second).restore(saved)
    assert second.counts == [1, 2, 5]
    assert second.other_name is second.table
    assert second.table["a"].tolist() == [1, 1]
    assert messages == ["Keeper.seen (OrderedDict) is not part of checkpoints: it starts again"]


def test_the_safe_loader_reads_it():
    method = Distillation(keeper())
    method.distiller.constant = 4
    data = io.BytesIO()
    torch.save(method.state_dict(), data)
    data.seek(0)
    other = Distillation(keeper())
    other.load_state_dict(torch.load(data, weights_only=True))
    assert other.distiller.constant == 4


class Ramp:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return self.calls


class Odd(Distiller):
    def __init__(self, student, teacher):
        super().__init__(student, teacher)
        self.register_buffer("average", torch.zeros(2), persistent=False)
        self.ramp, self.steps, self.code = Ramp(), (n for n in range(5)), [len, torch.relu]


def test_buffers_that_no_state_dict_has_are_saved_and_objects_that_are_called_are_named():
    def distiller() -> Odd:
        return Odd(student_view(create_model("resnet8")), teacher_view(create_model("resnet8")))

    first, again = distiller(), distiller()
    state = OwnState(first)
    assert state.capture() == {"objects": {}, "values": {}, "unsaved": {"steps": "generator"}}
    first.average += 3
    first.ramp()
    saved = state.capture()
    assert saved["unsaved"] == {"ramp": "Ramp", "steps": "generator"}
    said = OwnState(again).restore(saved)
    assert again.average.tolist() == [3, 3]
    assert [line.partition(" is ")[0] for line in said] == ["Odd.ramp (Ramp)", "Odd.steps (generator)"]


def test_what_python_changes_in_a_step_is_seen():
    distiller = Odd(student_view(create_model("resnet8")), teacher_view(create_model("resnet8")))
    distiller.counts = {"n": 0}
    state = OwnState(distiller)
    before = state.in_python()
    distiller.average += 1  # on the device
    assert state.in_python() == before
    distiller.counts["n"] += 1
    distiller.ramp()
    distiller.average = distiller.average + 1
    after = state.in_python()
    assert {path for path in after if after[path] != before[path]} == {"counts", "ramp", "average"}
