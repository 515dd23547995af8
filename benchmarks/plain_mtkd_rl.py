"""The plain published way of MTKD-RL: one teacher after another, and states kept until the agent replays them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain import PlainLoop
from common.losses import add_up
from common.models import Network
from mtkd_rl.features import FeatureTransforms
from mtkd_rl.methods import AGENT_LR, Policy, State
from mtkd_rl.teachers import show


class PlainMultiTeacher(PlainLoop):
    """A published-style step with several teachers; the agent acts from the first step on.

    Args:
        student, teachers, transforms, policy: modules of its own, with the weights of the other side.
        temperature, feat_weight: of the loss.
        loader, device, learning_rate: of `PlainLoop`.
    """

    def __init__(
        self,
        student: Network,
        teachers: Sequence[Network],
        transforms: FeatureTransforms,
        policy: Policy,
        temperature: float,
        feat_weight: float,
        loader: Iterator[tuple[Tensor, Tensor]],
        device: torch.device,
        learning_rate: float,
    ) -> None:
        super().__init__(nn.ModuleList([student, transforms]), loader, device, learning_rate)
        self.student, self.transforms = student, transforms
        self.teachers = [teacher.to(device).eval() for teacher in teachers]
        self.policy, self.T, self.feat_weight = policy.to(device).requires_grad_(True), temperature, feat_weight
        self.agent_optimizer = torch.optim.SGD(self.policy.parameters(), lr=AGENT_LR)
        self.memory: list[tuple[State, Tensor]] = []

    def divergence(self, logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """tau^2 D_KL of each sample, [N]."""
        log_p, q = F.log_softmax(logits / self.T, dim=1), F.softmax(teacher_logits / self.T, dim=1)
        return F.kl_div(log_p, q, reduction="none").sum(1) * self.T**2

    def loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        shown = show(self.student, images)
        with torch.no_grad():
            teachers = [show(teacher, images) for teacher in self.teachers]
        views = self.transforms(shown.feature_map)
        with torch.no_grad():
            pairs = list(zip(views, teachers, strict=True))
            state = State(
                torch.stack([F.cosine_similarity(v.mean((2, 3)), t.embedding) for v, t in pairs], dim=1),
                torch.stack([self.divergence(shown.logits, t.logits) for t in teachers], dim=1),
                torch.stack([F.cross_entropy(t.logits, targets, reduction="none") for t in teachers], dim=1),
                [t.embedding for t in teachers],
                torch.stack([t.logits for t in teachers], dim=2),
            )
            weights = self.policy(state)
        # each sample's losses, once for the student and once more for the reward
        loss = self.sample_losses(shown.logits, views, teachers, weights, targets).mean()
        with torch.no_grad():
            reward = -self.sample_losses(shown.logits, views, teachers, weights, targets)
        self.memory.append((state, reward))
        return loss, shown.logits

    def sample_losses(self, logits: Tensor, views: list, teachers: list, weights: tuple, targets: Tensor) -> Tensor:
        """The whole loss of each sample, [N]."""
        total = F.cross_entropy(logits, targets, reduction="none")
        for m, (view, teacher) in enumerate(zip(views, teachers, strict=True)):
            total = total + weights[0][:, m] * self.divergence(logits, teacher.logits)
            difference = F.mse_loss(view, teacher.feature_map, reduction="none").mean((1, 2, 3))
            total = total + self.feat_weight * weights[1][:, m] * difference
        return total

    def steps(self, count: int) -> int:
        super().steps(count)
        for state, reward in self.memory:
            reward = ((reward - reward.mean()) / reward.std()).clamp(0, 1)[:, None]
            losses = [
                F.binary_cross_entropy(table, torch.ones_like(table), weight=reward.expand_as(table))
                for table in self.policy(state)
            ]
            self.agent_optimizer.zero_grad()
            add_up(losses).backward()
            self.agent_optimizer.step()
        self.memory.clear()
        return count
