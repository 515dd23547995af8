"""The agent: it looks at what the teachers say about a sample and weighs them; the student's reward teaches it.

N samples, K classes, M teachers; all of it is one number for each sample and teacher, unless said otherwise.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

HIDDEN = 128
RATE = 0.1  # of the agent's plain SGD, published as a literal


class State(NamedTuple):
    """What the agent sees; nothing in it carries a gradient.

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
        """One row a sample: the teachers one after another, each with its five sources, [N, sum(3 + D_m + K)]."""
        figures = torch.stack([self.similarity, self.divergence, self.cross_entropy], dim=1)
        parts = zip(figures.unbind(2), self.embeddings, self.logits.unbind(2), strict=True)
        return torch.cat([part for of_teacher in parts for part in of_teacher], dim=1)


class Weights(NamedTuple):
    """Weights of the teachers; the rows of each table [N, M] add up to one."""

    logits: Tensor
    features: Tensor


def state_size(embedding_sizes: list[int], num_classes: int) -> int:
    """Length of `State.vector`."""
    return sum(3 + size + num_classes for size in embedding_sizes)


class Policy(nn.Module):
    """pi_theta: the mean of what a small network says, of how well the teachers do, and of how far the student is.

    The three distributions over teachers are the network's softmax, (1 - softmax(cross-entropy)) / (M - 1), and the
    softmax of the divergence (for logits) or of the similarity (for features).

    Args:
        size: of the state.
        teachers: M, at least 2.
        dynamic: weigh the three by the softmax of learnt factors instead of evenly.
    """

    def __init__(self, size: int, teachers: int, *, dynamic: bool) -> None:
        super().__init__()
        self.logit_weight_factor = nn.Parameter(torch.zeros(3)) if dynamic else None
        self.feature_weight_factor = nn.Parameter(torch.zeros(3)) if dynamic else None
        self.steam = nn.Sequential(nn.Linear(size, HIDDEN, bias=False), nn.ReLU())  # published spelling
        self.logit_head = nn.Linear(HIDDEN, teachers)
        self.feature_head = nn.Linear(HIDDEN, teachers)

    def forward(self, state: State) -> Weights:
        hidden = self.steam(state.vector())
        by_performance = (1 - state.cross_entropy.softmax(1)) / (state.cross_entropy.shape[1] - 1)
        return Weights(
            _mix(
                [self.logit_head(hidden).softmax(1), by_performance, state.divergence.softmax(1)],
                self.logit_weight_factor,
            ),
            _mix(
                [self.feature_head(hidden).softmax(1), by_performance, state.similarity.softmax(1)],
                self.feature_weight_factor,
            ),
        )


def _mix(distributions: list[Tensor], factor: Tensor | None) -> Tensor:
    stacked = torch.stack(distributions)
    return stacked.mean(0) if factor is None else torch.tensordot(factor.softmax(0), stacked, dims=1)


class Experience(NamedTuple):
    """One batch as the agent learns from it, without gradient.

    Attributes:
        state: what the agent saw.
        reward: minus the loss that the student had by the weights that it was given, [N].
        logit_rewards, feature_rewards: minus the loss by each teacher alone, [N, M].
    """

    state: State
    reward: Tensor
    logit_rewards: Tensor
    feature_rewards: Tensor


def over_processes(sums: Tensor) -> Tensor:
    """Sum over the processes of a distributed run, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
    return sums


def standardise(reward: Tensor) -> tuple[Tensor, Tensor]:
    """(R - mean) / (unbiased) deviation over all entries of the batch, of all processes; and their number.

    Of a single entry it is 0: there is nothing that it could be better than.
    """
    precise = reward.double()
    count = torch.full_like(precise.sum(), precise.numel())
    count, total, squares = over_processes(torch.stack([count, precise.sum(), precise.square().sum()]))
    mean = total / count
    deviation = ((squares - count * mean**2) / (count - 1).clamp_min(1)).clamp_min(0).sqrt()
    return ((precise - mean) / deviation.clamp_min(1e-12)).to(reward.dtype), count.to(reward.dtype)


AgentLoss = Callable[[Weights, Experience], Tensor]
"""This process's share of the loss: over processes, the shares add up to the whole batch's."""


def reward_weighted_cross_entropy(weights: Weights, experience: Experience) -> Tensor:
    """The published code's: -R log w, averaged over samples and teachers and added over logits and features.

    R is the standardised reward, clamped to [0, 1]. The target is one for every teacher, whatever was done.
    """
    reward, count = standardise(experience.reward)
    reward = reward.clamp(0, 1)[:, None]
    return sum(-(reward * _log(table)).sum() / (count * table.shape[1]) for table in weights)


def _log(table: Tensor) -> Tensor:
    return table.clamp_min(torch.finfo(table.dtype).tiny).log()


def policy_gradient(weights: Weights, experience: Experience) -> Tensor:
    """Policy gradient with a teacher as the action and its weight as the probability.

    -sum_m pi_theta(m | s) A_m, averaged over samples and added over logits and features: the expectation over actions
    is taken in full instead of by sampling. The advantage A_m is the reward by that teacher alone, less the sample's
    mean over teachers, standardised.
    """
    return _expected_advantage(weights.logits, experience.logit_rewards) + _expected_advantage(
        weights.features, experience.feature_rewards
    )


def _expected_advantage(table: Tensor, rewards: Tensor) -> Tensor:
    """Minus its mean over samples."""
    advantage, entries = standardise(rewards - rewards.mean(1, keepdim=True))
    return -(table * advantage).sum() * table.shape[1] / entries


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
        size, teachers, dynamic: of its `Policy`.
        loss: a name in `AGENT_LOSSES`.
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

    def learn(self, experience: Experience) -> Tensor:
        """One step theta' <- theta' - RATE * gradient; returns the loss."""
        loss = self.loss(self.learner(experience.state), experience)
        parameters = list(self.learner.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        total = over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
        with torch.no_grad():
            for parameter, gradient in zip(parameters, total.split([p.numel() for p in parameters]), strict=True):
                parameter.add_(gradient.view_as(parameter), alpha=-RATE)
        return loss.detach()

    @torch.no_grad()
    def sync_policy(self) -> None:
        """theta <- theta'."""
        torch._foreach_copy_(list(self.policy.parameters()), list(self.learner.parameters()))
