"""Six training steps of each method through the project's own loop, against the published implementation's figures."""

import pytest
import torch

from common.data import Batch
from common.models import create_model
from common.training.runtime import Runtime
from common.training.schedules import step_decay
from edkd.engine.method import make_method
from edkd.engine.solver import make_optimizer
from tests.edkd.checks import fill_named, trajectory_configuration
from tests.golden import conformance, draw, golden_fill
from tests.trajectories import WAYS, watched_steps

CASES = conformance("trajectories/edkd.json")["cases"]


class FixedBatches:
    """The case's batches in place of a dataset; the steps of a published epoch (from 1) are in `steps`."""

    def __init__(self, case: dict) -> None:
        self.case = case

    def __len__(self) -> int:
        return 3

    def epoch(self, epoch: int):
        for entry in self.case["steps"]:
            if entry["epoch"] == epoch + 1:
                images, targets = (draw(self.case["data"][key], entry["step"]) for key in ("x", "y"))
                yield Batch(images, targets, torch.arange(len(targets)), len(targets))


def golden_networks(case: dict) -> tuple[torch.nn.Module, torch.nn.Module]:
    return tuple(golden_fill(create_model(case[role], case["classes"])) for role in ("student", "teacher"))


@pytest.fixture
def in_double_precision():
    """Everything that is built is built in float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.slow
@pytest.mark.usefixtures("in_double_precision")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_trajectory(case, way, monkeypatch, tmp_path):
    cfg = trajectory_configuration(case)
    student, teacher = golden_networks(case)
    method = make_method(
        cfg, student, teacher, torch.zeros(case["batch"], dtype=torch.long), Runtime(torch.device("cpu"))
    )
    fill_named(method.distiller, case.get("auxiliary_state", {}))
    batches = FixedBatches(case)
    seen = watched_steps(
        method,
        lambda parameters: make_optimizer(cfg, parameters),
        step_decay(cfg.SOLVER.LR, cfg.SOLVER.LR_DECAY_STAGES, cfg.SOLVER.LR_DECAY_RATE),
        batches,
        sorted({entry["epoch"] - 1 for entry in case["steps"]}),
        tmp_path,
        monkeypatch,
        way,
    )

    assert len(seen) == len(case["steps"])
    for (lr, losses), expected in zip(seen, case["steps"], strict=True):
        assert lr == pytest.approx(expected["lr"], rel=1e-9)
        assert sum(losses.values()) == pytest.approx(expected["total"], rel=1e-6)
        for name, value in losses.items():
            assert value == pytest.approx(expected[name], rel=1e-6)
    final = case["final"]
    state = student.state_dict()
    for key, norm in final["student_l2"].items():
        assert state[key].norm().item() == pytest.approx(norm, rel=1e-6)
    assert sum_of(student.parameters()) == pytest.approx(final["student_sum_of_all_parameters"], rel=1e-6)
    assert sum_of(student.buffers()) == pytest.approx(final["student_sum_of_all_buffers"], rel=1e-6)
    assert sum_of(teacher.buffers()) == pytest.approx(final["teacher_sum_of_all_buffers"], rel=1e-6)
    if "auxiliary_sum_of_all_parameters" in final:
        own = [p for name, p in method.distiller.named_parameters() if name in case["auxiliary_state"]]
        assert sum_of(own) == pytest.approx(final["auxiliary_sum_of_all_parameters"], rel=1e-6)


def sum_of(tensors) -> float:
    return sum(t.sum().item() for t in tensors if t.is_floating_point())
