"""Six training steps of each method, through the project's own loop, against the published implementation's figures."""

import pytest
import torch

from common.data import Batch
from common.models import create_model
from common.training.schedules import step_decay
from tests.golden import conformance, draw, golden_fill
from tests.trajectories import WAYS, watched_steps
from tfkd.main import GAMMA, LR_BATCH_SIZE, MILESTONES, make_optimizer
from tfkd.methods import Baseline, Distillation, LabelSmoothing, Regularization
from tfkd.params import Params

CASES = conformance("trajectories/tfkd.json")["cases"]


class FixedBatches:
    """The case's batches in place of a dataset."""

    def __init__(self, case: dict) -> None:
        self.case, self.steps = case, case["iterations_per_epoch"]

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int):
        for step in range(epoch * self.steps, (epoch + 1) * self.steps):
            images, targets = (draw(self.case["data"][key], step) for key in ("x", "y"))
            yield Batch(images, targets, torch.arange(len(targets)), len(targets))


def golden_model(name: str, classes: int) -> torch.nn.Module:
    model = golden_fill(create_model(name, classes, family="tfkd"))
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def build(case: dict):
    hyper = case["hyper"]
    student = golden_model(case["student"], case["classes"])
    if case["loss"] == "cross_entropy":
        return Baseline(student)
    if case["loss"] == "label_smoothing":
        return LabelSmoothing(student)
    if case["loss"] == "tfkd_reg":
        return Regularization(student, hyper["reg_alpha"], hyper["reg_temperature"], hyper["multiplier"])
    options = {key: hyper[key] for key in ("alpha", "temperature", "multiplier") if key in hyper}
    return Distillation(student, golden_model(case["teacher"], case["classes"]), **options)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_trajectory(case, way, monkeypatch, tmp_path):
    base_lr = case["hyper"]["learning_rate"] * case["batch"] / LR_BATCH_SIZE
    params = Params(
        case["student"], 1.0, "yes", "none", case["hyper"]["learning_rate"], case["batch"], case["epochs"], "cifar100"
    )
    method = build(case)
    seen = watched_steps(
        method,
        lambda parameters: make_optimizer(params, base_lr, parameters),
        step_decay(base_lr, MILESTONES, GAMMA, warmup_epochs=case["warm"]),
        FixedBatches(case),
        range(case["epochs"]),
        tmp_path,
        monkeypatch,
        way,
    )

    alpha = case["hyper"].get("alpha", case["hyper"].get("reg_alpha"))
    assert len(seen) == len(case["steps"])
    for (lr, losses), expected in zip(seen, case["steps"], strict=True):
        assert lr == pytest.approx(expected["lr"], rel=1e-7)
        assert sum(losses.values()) == pytest.approx(expected["total"], rel=1e-6)
        if "soft_term" in expected:
            assert losses["cross_entropy"] == pytest.approx((1 - alpha) * expected["ce"], rel=1e-6)
            assert losses["soft"] == pytest.approx(alpha * expected["soft_term"], rel=1e-6)
    student, final = method.student, case["final"]
    state = student.state_dict()
    for key, norm in final["student_l2"].items():
        assert state[key].norm().item() == pytest.approx(norm, rel=1e-6)
    parameters = sum(p.sum().item() for p in student.parameters())
    buffers = sum(b.sum().item() for b in student.buffers() if b.is_floating_point())
    assert parameters == pytest.approx(final["student_sum_of_all_parameters"], rel=1e-6)
    assert buffers == pytest.approx(final["student_sum_of_all_buffers"], rel=1e-6)
