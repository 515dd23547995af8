"""Two training steps on 224 x 224 images through the project's own loop, against the published figures."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from common.data import Batch
from common.training.checkpoints import CheckpointFiles
from common.training.engine import Loaders, Trainer
from common.training.runtime import Runtime
from common.training.schedules import step_decay
from common.training.training_step import Optimization
from mlkd import mixup_cutmix
from mlkd.methods import MultiLevel
from mlkd.mixup_cutmix import Mix, MixupCutmix
from mlkd.student import MultiResNetV2
from tests.golden import conformance, draw, golden_fill, summary

CASES = conformance("trajectories/mlkd.json")["cases"]
# ours -> the figures'
HEADS = {f"exit_{i}": f"middle_logits_{i}" for i in (1, 2, 3)} | {"final": "student_logits"}


class Table(nn.Module):
    """A teacher that answers the case's logits, a step's after the other's."""

    def __init__(self, case: dict) -> None:
        super().__init__()
        self.case, self.step = case, -1

    def forward(self, images: Tensor) -> Tensor:
        self.step += 1
        return draw(self.case["data"]["teacher_logits"], self.step)


class FixedMixing(MixupCutmix):
    """Mixup by a case's share."""

    def __init__(self, case: dict) -> None:
        super().__init__(case["classes"], 1.0, 1.0)
        self.share = case["mixing"]["lam"]

    def draw(self, height: int, width: int) -> Mix:
        return Mix(self.share, self.share)


class FixedBatches:
    """The case's batches in place of a dataset."""

    def __init__(self, case: dict) -> None:
        self.case = case

    def __len__(self) -> int:
        return len(self.case["steps"])

    def epoch(self, epoch: int) -> Iterator[Batch]:
        for step in range(len(self)):
            images, targets = (draw(self.case["data"][key], step) for key in ("x", "y"))
            yield Batch(images, targets, torch.arange(len(targets)), len(targets))


@pytest.fixture
def in_double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def filled() -> MultiResNetV2:
    """The student with the figures' weights."""
    (classes,) = {case["classes"] for case in CASES}
    return golden_fill(MultiResNetV2(classes))


@pytest.mark.slow
@pytest.mark.usefixtures("in_double_precision")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_trajectory(case, filled, monkeypatch, tmp_path):
    student = copy.deepcopy(filled)
    mixing = MixupCutmix(case["classes"], 0.0, 0.0)
    if case["mixing"]:
        monkeypatch.setattr(mixup_cutmix, "SMOOTHING", case["mixing"]["smoothing"])
        mixing = FixedMixing(case)
    optimizer = {key: value for key, value in case["optimizer"].items() if key != "type"}
    batches = FixedBatches(case)
    optimization = Optimization(
        lambda parameters: torch.optim.AdamW(parameters, **optimizer),
        step_decay(optimizer["lr"], (), 1.0),
        epochs=1,
        accumulation_steps=max(1, 128 // case["loader_batch_size"]),
    )
    assert optimization.accumulation_steps == case["accumulation_steps"]
    trainer = Trainer(
        MultiLevel(student, Table(case), mixing, **case["hyper"]),
        optimization,
        Loaders(batches, validation=batches),
        Runtime(torch.device("cpu")),
        CheckpointFiles(tmp_path / "last", None),
        settings={},
    )
    seen = []

    def watch(epoch, iteration, output):
        seen.append({HEADS[name]: loss.item() for name, loss in output.losses.items()})

    trainer.on_step = watch
    means = trainer.train_epoch(0, show_progress=False)

    assert len(seen) == len(case["steps"])
    for losses, expected in zip(seen, case["steps"], strict=True):
        assert sum(losses.values()) == pytest.approx(expected["total"], rel=1e-6)
        for name, value in losses.items():
            assert value == pytest.approx(expected[name], rel=1e-6)
    assert means["loss"] == pytest.approx(case["epoch_loss_reported"], rel=1e-6)
    final, state = case["final"], student.state_dict()
    for key, norm in final["student_l2"].items():
        assert state[key].norm().item() == pytest.approx(norm, rel=1e-6)
    assert sum_of(student.parameters()) == pytest.approx(final["student_sum_of_all_parameters"], rel=1e-6)
    assert sum_of(student.buffers()) == pytest.approx(final["student_sum_of_all_buffers"], rel=1e-6)
    with torch.no_grad():
        heads = student.eval().heads(draw(case["data"]["x"], 0))
    for ours, theirs in HEADS.items():
        got, want = summary(heads[ours]), final["eval_outputs_on_first_batch"][theirs]
        assert got["l2"] == pytest.approx(want["l2"], rel=1e-6)
        assert got["sum"] == pytest.approx(want["sum"], rel=1e-6, abs=1e-6 * want["l2"])
        assert got["first4"] == pytest.approx(want["first4"], rel=1e-6, abs=1e-6 * want["l2"])


def sum_of(tensors) -> float:
    return sum(t.sum().item() for t in tensors if t.is_floating_point())
