"""The agent and the feature transforms against the published implementation's figures."""

import pytest
import torch
import torch.nn.functional as F

from mtkd_rl.features import FeatureTransforms
from mtkd_rl.losses import FEATURE_LOSSES, logit_losses
from mtkd_rl.methods import Agent, Policy, State, Transition, observe, policy_gradient, standardize
from mtkd_rl.multi_teacher import TeacherStudentOutputs, weighted_losses
from mtkd_rl.teachers import NetworkOutputs
from tests.golden import conformance, draw, golden_fill, summary

FIGURES = conformance("agent.json")
CASES = FIGURES["cases"]
close = {"rtol": 1e-9, "atol": 0}


def tensor(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def first_entries(of: torch.Tensor, values: list) -> torch.Tensor:
    """As many entries of `of` as the figures give."""
    return of.flatten()[: len(values)]


class Case:
    """What the method makes of a case's inputs; networks are not needed for it."""

    def __init__(self, figures: dict) -> None:
        self.figures = figures
        inputs = {name: draw(spec) for name, spec in figures["inputs"].items()}
        self.M, T = figures["teachers"], figures["temperature"]
        self.targets = inputs["target"]

        def of_each(name: str) -> list[torch.Tensor]:
            return [inputs[f"{name}_{m}"] for m in range(self.M)]

        views, maps = of_each("trans_student_feature"), of_each("teacher_feature")
        shown = zip(of_each("teacher_logits"), maps, of_each("teacher_embedding"), strict=True)
        teachers = [NetworkOutputs(*parts) for parts in shown]
        logits = torch.stack(of_each("teacher_logits"), dim=2)
        distance = FEATURE_LOSSES[figures["feature_loss"]]
        self.seen = TeacherStudentOutputs(
            NetworkOutputs(inputs["student_logits"], None, None),
            teachers,
            logits,
            views,
            F.cross_entropy(inputs["student_logits"], self.targets, reduction="none"),
            logit_losses(inputs["student_logits"], logits, T),
            figures["feat_weight"] * torch.stack([distance(v, t, T) for v, t in zip(views, maps, strict=True)], dim=1),
        )
        self.state = observe(self.seen, self.targets)
        size = self.state.vector().shape[1]
        self.agent = Agent(size, self.M, dynamic=figures["dynamic"], loss="reward-weighted")
        golden_fill(self.agent.policy)
        self.agent.learner.double().load_state_dict(self.agent.policy.state_dict())

    def transition(self) -> Transition:
        weights = self.agent.act(self.state)
        reward = -sum(weighted_losses(self.seen, weights).values())
        alone = self.seen.cross_entropy[:, None]
        return Transition(
            self.state,
            weights,
            reward,
            -alone - self.seen.logit_losses,
            -alone - self.seen.feature_losses,
            self.targets,
        )


@pytest.fixture(params=CASES, ids=lambda figures: figures["id"])
def case(request) -> Case:
    return Case(request.param)


@pytest.mark.parametrize("figures", FIGURES["policy_state"], ids=lambda f: f"{f['teachers']}_{f['dynamic']}")
def test_names_and_shapes_of_the_policy(figures):
    policy = Policy(sum(figures["input_sizes"]), figures["teachers"], dynamic=figures["dynamic"])
    assert {key: list(value.shape) for key, value in policy.state_dict().items()} == figures["state"]
    assert list(policy.state_dict()) == list(figures["state"])


def test_state(case):
    expected = case.figures["state"]
    sizes = [info["shape"][1] for info in expected["teacher_info"]]
    for part, info in zip(case.state.vector().split(sizes, dim=1), expected["teacher_info"], strict=True):
        assert list(part.shape) == info["shape"]
        ours = summary(part)
        assert ours["sum"] == pytest.approx(info["sum"], rel=1e-9)
        assert ours["l2"] == pytest.approx(info["l2"], rel=1e-9)
        assert part.flatten()[: len(info["first4"])].tolist() == pytest.approx(info["first4"], rel=1e-9)
    assert torch.allclose(case.state.cross_entropy, tensor(expected["teacher_ce"]), **close)
    assert torch.allclose(case.state.divergence, tensor(expected["logit_divergence"]), **close)
    assert torch.allclose(case.state.similarity, tensor(expected["feature_similarity"]), **close)


def test_weights(case):
    weights = case.agent.act(case.state)
    assert torch.allclose(weights.logits, tensor(case.figures["logit_weights"]), **close)
    assert torch.allclose(weights.features, tensor(case.figures["feature_weights"]), **close)
    for table in weights:
        assert torch.allclose(table.sum(1), torch.ones(len(table), dtype=torch.float64))


def test_reward(case):
    expected = case.figures["reward"]
    transition = case.transition()
    assert torch.allclose(transition.reward, tensor(expected["raw"]), **close)
    normalized, count = standardize(transition.reward)
    assert count == len(transition.reward)
    assert torch.allclose(normalized, tensor(expected["normalised"]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("figures", FIGURES["reward_examples"])
def test_rewards_are_standardized(figures):
    normalized, _ = standardize(tensor(figures["reward"]))
    assert torch.allclose(normalized, tensor(figures["normalised"]), **close)
    assert torch.allclose(normalized.clamp(0, 1), tensor(figures["clamped"]), **close)


def test_equal_rewards_teach_nothing():
    assert standardize(torch.full((4,), -1.7))[0].abs().max() < 1e-3


def test_agent_loss_and_its_gradient(case):
    expected = case.figures["agent_loss"]
    learner = case.agent.learner
    loss = case.agent.loss(learner(case.state), case.transition())
    assert loss.item() == pytest.approx(expected["total"], rel=1e-9)
    loss.backward()
    for name, norm in expected["grad_l2"].items():
        assert learner.get_parameter(name).grad.norm().item() == pytest.approx(norm, rel=1e-9)


def test_one_update(case):
    expected = case.figures["after_one_update"]
    before = case.agent.act(case.state)
    loss = case.agent.learn(case.transition())
    assert loss.item() == pytest.approx(case.figures["agent_loss"]["total"], rel=1e-9)
    assert torch.equal(case.agent.act(case.state).logits, before.logits)  # it acts as before until it catches up
    case.agent.sync_policy()
    for name, norm in expected["param_l2"].items():
        assert case.agent.policy.get_parameter(name).norm().item() == pytest.approx(norm, rel=1e-9)
    weights = case.agent.act(case.state)
    assert torch.allclose(weights.logits[0], tensor(expected["logit_weights_first_row"]), **close)
    assert torch.allclose(weights.features[0], tensor(expected["feature_weights_first_row"]), **close)


def test_policy_gradient_is_that_of_the_expected_reward(case):
    """Its gradient is that of -sum_m pi_m R_m, R scaled by one deviation; no baseline of a sample matters."""
    transition = case.transition()
    learner = case.agent.learner
    parameters = list(learner.parameters())
    ours = torch.autograd.grad(policy_gradient(learner(case.state), transition), parameters)
    objective = 0
    tables = zip(learner(case.state), (transition.logit_rewards, transition.feature_rewards), strict=True)
    for table, rewards in tables:
        deviation = (rewards - rewards.mean(1, keepdim=True)).std()
        objective = objective - (table * rewards / deviation).sum(1).mean()
    theirs = torch.autograd.grad(objective, parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)


def test_policy_gradient_raises_the_weight_of_the_better_teacher():
    torch.manual_seed(0)
    state = State(
        torch.zeros(8, 2), torch.zeros(8, 2), torch.zeros(8, 2), [torch.randn(8, 3)] * 2, torch.randn(8, 4, 2)
    )
    agent = Agent(2 * (3 + 3 + 4), 2, dynamic=False, loss="policy-gradient")
    rewards = torch.tensor([[-1.0, -3.0]]).repeat(8, 1) + 0.1 * torch.randn(8, 2)
    before = agent.act(state)
    for _ in range(5):
        agent.learn(Transition(state, before, rewards.mean(1), rewards, -rewards, torch.zeros(8)))
    agent.sync_policy()
    after = agent.act(state)
    assert (after.logits[:, 0] > before.logits[:, 0]).all()
    assert (after.features[:, 1] > before.features[:, 1]).all()


@pytest.mark.parametrize("figures", FIGURES["feature_transforms"], ids=lambda f: f"{f['id']}_{f['mode']}")
@pytest.mark.parametrize("chained", [True, False])
def test_feature_transforms(figures, chained):
    transforms = FeatureTransforms(figures["student_map"][1:], figures["teacher_maps"], chained=chained)
    assert {key: list(value.shape) for key, value in transforms.state_dict().items()} == figures["state"]
    golden_fill(transforms).train(figures["mode"] == "train")
    student = draw(figures["inputs"]["student_feature"]).requires_grad_()
    views = transforms(student)
    outputs = figures["outputs" if chained else "outputs_if_each_started_from_the_student_map"]
    for view, expected in zip(views, outputs, strict=True):
        ours = summary(view)
        assert list(view.shape) == expected["shape"]
        assert ours["sum"] == pytest.approx(expected["sum"], rel=1e-9)
        assert ours["l2"] == pytest.approx(expected["l2"], rel=1e-9)
        assert ours["first4"] == pytest.approx(expected["first4"], rel=1e-9)
    if chained:
        (gradient,) = torch.autograd.grad(sum(view.square().sum() for view in views), student)
        assert gradient.norm().item() == pytest.approx(figures["grad_student_of_sum_of_squares_l2"], rel=1e-9)
