"""Six training steps of each method, through the project's own loop, against the published implementation's figures."""

import itertools

import pytest
import torch

from common.data import Batch
from common.models import create_model
from mtkd_rl.methods import MultiTeacherRL, standardize
from mtkd_rl.multi_teacher import Averaging, MultiTeacher, Options
from mtkd_rl.student import make_optimizer, make_schedule
from tests.golden import conformance, draw, golden_fill
from tests.trajectories import WAYS, watched_steps

CASES = conformance("trajectories/mtkd_rl.json")["cases"]
RL_CASES = [case for case in CASES if "agent_step" in case["hyper"]]


class FixedBatches:
    """The case's batches in place of a dataset; epochs may differ in length."""

    def __init__(self, case: dict) -> None:
        self.data = case["data"]
        epochs = itertools.groupby(case["steps"], key=lambda step: step["epoch"])
        self.steps = [[step["step"] for step in steps] for _, steps in epochs]
        self.current = 0

    def __len__(self) -> int:
        return len(self.steps[self.current])

    def epoch(self, epoch: int):
        assert self.current == epoch
        for step in self.steps[epoch]:
            images, targets = (draw(self.data[key], step) for key in ("x", "y"))
            yield Batch(images, targets, torch.arange(len(targets)), len(targets))


def build(case: dict, **options) -> MultiTeacher:
    """The case's method, every module filled by the rule under its own names."""
    hyper = case["hyper"]
    student, *teachers = (
        golden_fill(create_model(name, case["classes"], family="mtkd_rl"))
        for name in (case["student"], *case["teachers"])
    )
    chosen = Options(hyper["kd_T"], hyper["feat_weight"], hyper["feat_kd"])
    arguments = student, dict(zip(case["teachers"], teachers, strict=True)), case["data"]["x"]["shape"][-1], chosen
    if "agent_step" not in hyper:
        method = Averaging(*arguments)
    else:
        method = MultiTeacherRL(*arguments, dynamic=case["dynamic"], agent_step=hyper["agent_step"], **options)
        golden_fill(method.agent.policy)
        method.agent.learner.double().load_state_dict(method.agent.policy.state_dict())
    golden_fill(method.transforms)
    return method


def run(
    case: dict, method: MultiTeacher, tmp_path, monkeypatch, way: str = "fast"
) -> list[tuple[float, dict[str, float]]]:
    hyper = case["hyper"]
    batches, seen = FixedBatches(case), []
    schedule = make_schedule(hyper["lr_type"], hyper["init_lr"], hyper["milestones"], hyper["epochs"])

    def optimizer(parameters):
        return make_optimizer(parameters, hyper["init_lr"], case["optimizer"]["weight_decay"])

    def epochs():
        for epoch in range(len(batches.steps)):
            batches.current = epoch
            yield epoch

    seen = watched_steps(method, optimizer, schedule, batches, epochs(), tmp_path, monkeypatch, way)
    assert len(seen) == len(case["steps"])
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_trajectory(case, way, monkeypatch, tmp_path):
    method = build(case)
    for (lr, losses), expected in zip(run(case, method, tmp_path, monkeypatch, way), case["steps"], strict=True):
        assert lr == pytest.approx(expected["lr"], rel=1e-9)
        for name in ("loss_cls", "loss_kd", "loss_feat"):
            assert losses[name] == pytest.approx(expected[name], rel=1e-6)
        assert sum(losses.values()) == pytest.approx(expected["total"], rel=1e-6)
    final = case["final"]
    check(method.student, "student", final)
    check(method.transforms, "trans_feat", final)
    if isinstance(method, MultiTeacherRL):
        check(method.agent.policy, "agent", final)


def check(module: torch.nn.Module, name: str, final: dict) -> None:
    state = module.state_dict()
    for key, norm in final[f"{name}_l2"].items():
        assert state[key].norm().item() == pytest.approx(norm, rel=1e-6)
    sums = {
        "parameters": sum(p.sum().item() for p in module.parameters()),
        "buffers": sum(b.sum().item() for b in module.buffers() if b.is_floating_point()),
    }
    for kind, value in sums.items():
        if (key := f"{name}_sum_of_all_{kind}") in final:
            assert value == pytest.approx(final[key], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", RL_CASES, ids=lambda case: case["id"])
def test_what_the_agent_does_and_learns(case, monkeypatch, tmp_path):
    """Its weights at each step, and each of its updates: rewards, losses, and when it begins to act by them."""
    method = build(case)
    transitions, losses, synced = [], [], []
    after_update, learn, sync_policy = method.after_update, method.agent.learn, method.agent.sync_policy

    def watch(transition):
        transitions.append(transition)
        after_update(transition)

    def watch_learning(transition):
        losses.append(learn(transition))
        return losses[-1]

    monkeypatch.setattr(method, "after_update", watch)
    monkeypatch.setattr(method.agent, "learn", watch_learning)
    monkeypatch.setattr(method.agent, "sync_policy", lambda: (synced.append(len(losses) - 1), sync_policy()))
    run(case, method, tmp_path, monkeypatch)

    for transition, expected in zip(transitions, case["steps"], strict=True):
        for table, kind in zip(transition.weights, ("logit", "feature"), strict=True):
            figures = torch.tensor(expected[f"agent_{kind}_weights_first_two_samples"], dtype=torch.float64)
            assert torch.allclose(table[:2], figures, rtol=1e-6, atol=0)
    assert synced == [update["after_step"] for update in case["agent_updates"]]
    rewards = [row for update in case["agent_updates"] for row in update["rewards"]]
    for transition, expected in zip(transitions, rewards, strict=True):
        ours = standardize(transition.reward)[0].clamp(0, 1)
        assert torch.allclose(ours, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    figures = [loss for update in case["agent_updates"] for loss in update["losses"]]
    assert [loss.item() for loss in losses] == pytest.approx(figures, rel=1e-6)
