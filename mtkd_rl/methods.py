"""MTKD-RL, in the paper's order: state, policy, weights, reward, update.

A student S learns from the labels and from M teachers T_m, by their logits z and by their last feature maps F:

    L = H(y, p) + sum_m w_m tau^2 D_KL(p_tau^m, p_tau) + lambda sum_m v_m D(F^m, r_m(F))

For each sample an agent chooses the weights w and v by what it observes of student and teachers; its reward is minus
the L that came of them (`multi_teacher.py` has L's terms). N samples, K classes, M teachers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.losses import add_up
from common.models import Network
from common.training.method import StepOutput
from mtkd_rl.epoch_metrics import EpochMetrics
from mtkd_rl.multi_teacher import (
    PUBLISHED,
    MultiTeacher,
    Options,
    TeacherStudentOutputs,
    Weights,
    all_reduce_sum,
    check_comparable,
    weighted_losses,
)

HIDDEN = 128
AGENT_LR = 0.1  # of the agent's plain SGD, published as a literal


# --------------------------------------------------------------------------------------------------------------- state


class State(NamedTuple):
    """s: how well the teachers do, and how far the student is from each of them; nothing in it carries a gradient.

    Attributes:
        similarity: cosine between the student's pooled view for a teacher and that teacher's embedding, [N, M].
        divergence: tau^2 D_KL between the logits of student and teacher, [N, M].
        cross_entropy: of each teacher, [N, M].
        embeddings: of each teacher, M times [N, D_m].
        logits: of each teacher, [N, K, M].
    """

    similarity: Tensor
    divergence: Tensor
    cross_entropy: Tensor
    embeddings: list[Tensor]
    logits: Tensor

    def vector(self) -> Tensor:
        """One row per sample: the teachers one after another, each with its five sources, [N, sum(3 + D_m + K)]."""
        metrics = torch.stack([self.similarity, self.divergence, self.cross_entropy], dim=1)
        parts = zip(metrics.unbind(2), self.embeddings, self.logits.unbind(2), strict=True)
        return torch.cat([part for of_teacher in parts for part in of_teacher], dim=1)


@torch.no_grad()
def observe(outputs: TeacherStudentOutputs, targets: Tensor) -> State:
    """The state of each sample of a batch with classes `targets`, [N]."""
    pairs = zip(outputs.views, outputs.teachers, strict=True)
    classes = targets[:, None].expand(-1, len(outputs.teachers))
    return State(
        torch.stack([F.cosine_similarity(view.mean((2, 3)), teacher.embedding) for view, teacher in pairs], dim=1),
        outputs.logit_losses.detach(),
        F.cross_entropy(outputs.teacher_logits, classes, reduction="none"),
        [teacher.embedding for teacher in outputs.teachers],
        outputs.teacher_logits,
    )


# -------------------------------------------------------------------------------------------------- policy and weights


class Policy(nn.Module):
    """pi_theta: the mean of what a small network says, of how well the teachers do, and of how far the student is.

    The three distributions over teachers are the network's softmax, (1 - softmax(cross-entropy)) / (M - 1), and the
    softmax of the divergence (for logits) or of the similarity (for features).

    Args:
        size: length of a row of `State.vector`.
        teachers: M, at least 2.
        dynamic: weigh the three by the softmax of learned factors instead of evenly.
    """

    def __init__(self, size: int, teachers: int, *, dynamic: bool) -> None:
        super().__init__()
        self.logit_weight_factor = nn.Parameter(torch.zeros(3)) if dynamic else None
        self.feature_weight_factor = nn.Parameter(torch.zeros(3)) if dynamic else None
        self.steam = nn.Sequential(nn.Linear(size, HIDDEN, bias=False), nn.ReLU())  # published spelling
        self.logit_head = nn.Linear(HIDDEN, teachers)
        self.feature_head = nn.Linear(HIDDEN, teachers)

    def forward(self, state: State) -> Weights:
        h, M = self.steam(state.vector()), state.cross_entropy.shape[1]
        performance = (1 - state.cross_entropy.softmax(1)) / (M - 1)
        w = [self.logit_head(h).softmax(1), performance, state.divergence.softmax(1)]
        v = [self.feature_head(h).softmax(1), performance, state.similarity.softmax(1)]
        return Weights(_mix(w, self.logit_weight_factor), _mix(v, self.feature_weight_factor))


def _mix(distributions: list[Tensor], factor: Tensor | None) -> Tensor:
    stacked = torch.stack(distributions)
    return stacked.mean(0) if factor is None else torch.tensordot(factor.softmax(0), stacked, dims=1)


# -------------------------------------------------------------------------------------------------------------- reward


class Transition(NamedTuple):
    """What the agent learns from a batch, without gradient.

    Attributes:
        state: what it saw.
        weights: what it chose.
        reward: minus the loss that the student had by the weights that it was given, [N].
        logit_rewards, feature_rewards: minus the loss by each teacher alone, [N, M].
        targets: the samples' classes, [N].
    """

    state: State
    weights: Weights
    reward: Tensor
    logit_rewards: Tensor
    feature_rewards: Tensor
    targets: Tensor


def standardize(reward: Tensor) -> tuple[Tensor, Tensor]:
    """(R - mean) / (unbiased) std over all entries of the batch, of all ranks; and their number.

    Of a single entry it is 0: there is nothing that it could be better than.
    """
    precise = reward.double()
    count = torch.full_like(precise.sum(), precise.numel())
    count, total, squares = all_reduce_sum(torch.stack([count, precise.sum(), precise.square().sum()]))
    mean = total / count
    std = ((squares - count * mean**2) / (count - 1).clamp_min(1)).clamp_min(0).sqrt()
    return ((precise - mean) / std.clamp_min(1e-12)).to(reward.dtype), count.to(reward.dtype)


# -------------------------------------------------------------------------------------------------------------- update

AgentLoss = Callable[[Weights, Transition], Tensor]
"""Of the learner's weights; this process's share: over processes, the shares add up to the whole batch's."""


def reward_weighted_cross_entropy(weights: Weights, transition: Transition) -> Tensor:
    """The published code's: -R log w, averaged over samples and teachers and added over logits and features.

    R is the standardized reward, clamped to [0, 1]. The target is one for every teacher, whatever was done.
    """
    R, count = standardize(transition.reward)
    R = R.clamp(0, 1)[:, None]
    logs = (w.clamp_min(torch.finfo(w.dtype).tiny).log() for w in weights)
    return add_up(-(R * log_w).sum() / (count * log_w.shape[1]) for log_w in logs)


def policy_gradient(weights: Weights, transition: Transition) -> Tensor:
    """Policy gradient with a teacher as the action and its weight as the probability.

    -sum_m pi_theta(m | s) A_m, averaged over samples and added over logits and features: the expectation over actions
    is taken in full instead of by sampling. The advantage A_m is the reward by that teacher alone, less the sample's
    mean over teachers, standardized.
    """
    rewards = (transition.logit_rewards, transition.feature_rewards)
    advantages = [standardize(reward - reward.mean(1, keepdim=True)) for reward in rewards]
    return add_up(-(w * A).sum() * w.shape[1] / count for w, (A, count) in zip(weights, advantages, strict=True))


AGENT_LOSSES: dict[str, AgentLoss] = {
    "reward-weighted": reward_weighted_cross_entropy,
    "policy-gradient": policy_gradient,
}


class Agent(nn.Module):
    """Acts by one policy and trains the next.

    The published agent keeps every state of an epoch and then takes one step for each of them, in order. As it acts by
    the same policy until then, each of those steps can be taken at once on a copy, which takes over when the published
    one would have caught up: the same figures, and nothing is kept.

    Args:
        size, teachers, dynamic, loss: of its `Policy`; a name in `AGENT_LOSSES`.
    """

    def __init__(self, size: int, teachers: int, *, dynamic: bool, loss: str) -> None:
        super().__init__()
        self.policy = Policy(size, teachers, dynamic=dynamic).requires_grad_(False)
        self.learner = copy.deepcopy(self.policy).requires_grad_(True)
        self.loss = AGENT_LOSSES[loss]

    @torch.no_grad()
    def act(self, state: State) -> Weights:
        """pi_theta(s), in full precision."""
        with torch.autocast(state.logits.device.type, enabled=False):
            return self.policy(state)

    def learn(self, transition: Transition) -> Tensor:
        """One step theta' <- theta' - AGENT_LR * gradient; returns the loss."""
        loss = self.loss(self.learner(transition.state), transition)
        parameters = list(self.learner.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        total = all_reduce_sum(torch.cat([gradient.flatten() for gradient in gradients]))
        with torch.no_grad():
            for parameter, gradient in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
                parameter.add_(gradient.view_as(parameter), alpha=-AGENT_LR)
        return loss.detach()

    @torch.no_grad()
    def sync_policy(self) -> None:
        """theta <- theta'."""
        self.policy.load_state_dict(self.learner.state_dict())


# -------------------------------------------------------------------------------------------------------------- method


class MultiTeacherRL(MultiTeacher):
    """MTKD-RL. In epoch 0 all weights are one, as published: sums over teachers there, convex combinations afterwards.

    Args:
        student, teachers, image_size, options: of `MultiTeacher`; teachers that pass `check_comparable`.
        dynamic: see `Policy`.
        agent_loss: a name in `AGENT_LOSSES`.
        agent_step: the agent acts by what it has learned after each batch whose index in the epoch is a positive
            multiple of this, and after the last.
        equal_weights: a control: from epoch 1 on, every teacher counts the same whatever the agent says.
    """

    epoch_dependent_until = 1  # epoch 0 has weights of its own

    def __init__(
        self,
        student: Network,
        teachers: dict[str, Network],
        image_size: int,
        options: Options = PUBLISHED,
        *,
        dynamic: bool = False,
        agent_loss: str = "reward-weighted",
        agent_step: int = 1000,
        equal_weights: bool = False,
    ) -> None:
        super().__init__(student, teachers, image_size, options)
        self.agent_step, self.equal_weights = agent_step, equal_weights
        check_comparable(dict(zip(teachers, self.teacher_shapes, strict=True)))
        K = self.teacher_shapes[0].logits[0]
        size = sum(3 + shapes.embedding[0] + K for shapes in self.teacher_shapes)
        self.agent = Agent(size, len(teachers), dynamic=dynamic, loss=agent_loss)
        self.record = EpochMetrics(self.teacher_names, K)

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        outputs = self.compare(images, targets)
        state = observe(outputs, targets)
        chosen = self.agent.act(state)
        losses = weighted_losses(outputs, self.applied_weights(chosen, epoch))
        with torch.no_grad():
            reward = -add_up(losses.values())
            alone = outputs.cross_entropy[:, None]
            by_logits, by_features = -(alone + outputs.logit_losses), -(alone + outputs.feature_losses)
        transition = Transition(state, chosen, reward, by_logits, by_features, targets)
        return StepOutput(outputs.student.logits, {name: loss.mean() for name, loss in losses.items()}, transition)

    def applied_weights(self, chosen: Weights, epoch: int) -> Weights:
        """The weights that the student's loss gets."""
        if epoch == 0:
            return Weights(*map(torch.ones_like, chosen))
        if self.equal_weights:
            return Weights(*(torch.full_like(table, 1 / table.shape[1]) for table in chosen))
        return chosen

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The student's, then the transforms'; the agent trains itself."""
        return [*self.student.parameters(), *self.transforms.parameters()]

    def after_update(self, transition: Transition) -> None:
        """Let the agent learn from the batch."""
        loss = self.agent.learn(transition)
        self.record.update(transition.targets, transition.weights, transition.reward, loss)

    def after_step(self, epoch: int, iteration: int, iterations: int) -> None:
        """Let the agent act by what it has learned when it is time."""
        if (iteration > 0 and iteration % self.agent_step == 0) or iteration == iterations - 1:
            self.agent.sync_policy()

    def epoch_metrics(self) -> dict[str, Tensor]:
        """Mean weights by the agent (also where others are in force), mean reward, the agent's loss."""
        return self.record.compute()
