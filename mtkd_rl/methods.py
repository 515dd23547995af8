"""The paper's method, MTKD-RL, and its baseline, AVER.

A student S learns from the labels and from M teachers T_m, by their logits z and by their last feature maps F:

    L = H(y, p) + sum_m w_m tau^2 D_KL(p_tau^m, p_tau) + lambda sum_m v_m D(F^m, r_m(F))

with lambda = `feat_weight`, r_m a learnt transform and D the squared difference or, by choice, a divergence. AVER has
w_m = v_m = 1/M; in MTKD-RL an agent chooses both for each sample.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.models import Network
from common.training.method import Step
from mtkd_rl.agent import Agent, Experience, State, Weights, state_size
from mtkd_rl.comparison import PUBLISHED, Comparison, MultiTeacher, Options
from mtkd_rl.epoch_record import EpochRecord
from mtkd_rl.teachers import Shown


def weighted(seen: Comparison, weights: Weights) -> dict[str, Tensor]:
    """The three parts of L for each sample, [N]."""
    return {
        "loss_cls": seen.cross_entropy,
        "loss_kd": (weights.logits * seen.logit_losses).sum(1),
        "loss_feat": (weights.features * seen.feature_losses).sum(1),
    }


@torch.no_grad()
def observe(seen: Comparison, targets: Tensor) -> State:
    """The agent's state: how well the teachers do, and how far the student is from each of them."""
    pairs = zip(seen.views, seen.teachers, strict=True)
    similarities = [F.cosine_similarity(view.mean((2, 3)), teacher.embedding) for view, teacher in pairs]
    return State(
        torch.stack(similarities, dim=1),
        seen.logit_losses.detach(),
        F.cross_entropy(seen.teacher_logits, targets[:, None].expand(-1, len(seen.teachers)), reduction="none"),
        [teacher.embedding for teacher in seen.teachers],
        seen.teacher_logits,
    )


class Averaging(MultiTeacher):
    """AVER: every teacher counts the same."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> Step:
        seen = self.compare(images, targets)
        w = torch.full_like(seen.logit_losses, 1 / len(self.teachers))
        losses = weighted(seen, Weights(w, w))
        return Step(seen.student.logits, {name: loss.mean() for name, loss in losses.items()})


class MultiTeacherRL(MultiTeacher):
    """MTKD-RL: an agent weighs the teachers for each sample; its reward is minus the loss that came of it.

    In epoch 0 all weights are one, as published: sums over teachers there, convex combinations afterwards.

    Args:
        student, teachers, image_size, options: of `MultiTeacher`; at least two teachers.
        dynamic: see `Policy`.
        agent_loss: a name in `AGENT_LOSSES`.
        agent_step: the agent acts by what it has learnt after each batch whose index in the epoch is a positive
            multiple of this, and after the last.
        equal_weights: a control: from epoch 1 on, every teacher counts the same whatever the agent says.

    Raises:
        UserError: one teacher, or one whose map and embedding differ in width, so that the agent cannot compare it.
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
        require_comparable(dict(zip(teachers, self.teacher_shapes, strict=True)))
        M, K = len(teachers), self.teacher_shapes[0].logits[0]
        size = state_size([shapes.embedding[0] for shapes in self.teacher_shapes], K)
        self.agent = Agent(size, M, dynamic=dynamic, loss=agent_loss)
        self.record = EpochRecord(self.teacher_names, K)
        self.transition: tuple[Tensor, Weights, Experience]  # targets, the agent's weights, what it learns from them

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> Step:
        seen = self.compare(images, targets)
        state = observe(seen, targets)
        chosen = self.agent.act(state)
        losses = weighted(seen, self.weights_in_force(chosen, epoch))

        with torch.no_grad():
            alone = seen.cross_entropy[:, None]
            experience = Experience(
                state,
                reward=-sum(losses.values()),
                logit_rewards=-(alone + seen.logit_losses),
                feature_rewards=-(alone + seen.feature_losses),
            )
        self.transition = targets, chosen, experience
        return Step(seen.student.logits, {name: loss.mean() for name, loss in losses.items()})

    def weights_in_force(self, chosen: Weights, epoch: int) -> Weights:
        """The weights that the student's loss gets."""
        if epoch == 0:
            return Weights(*map(torch.ones_like, chosen))
        if self.equal_weights:
            return Weights(*(torch.full_like(table, 1 / table.shape[1]) for table in chosen))
        return chosen

    def trainable_parameters(self) -> list[nn.Parameter]:
        """The student's, then the transforms'; the agent trains itself."""
        return [*self.student.parameters(), *self.transforms.parameters()]

    def after_update(self) -> None:
        """Let the agent learn from the batch."""
        targets, chosen, experience = self.transition
        loss = self.agent.learn(experience)
        self.record.add(targets, chosen, experience.reward, loss)

    def after_step(self, epoch: int, iteration: int, iterations: int) -> None:
        """Let the agent act by what it has learnt when it is time."""
        if (iteration > 0 and iteration % self.agent_step == 0) or iteration == iterations - 1:
            self.agent.sync_policy()

    def figures(self) -> dict[str, Tensor]:
        """Mean weights by the agent (also where others are in force), mean reward, the agent's loss."""
        return self.record.take()


def require_comparable(teachers: dict[str, Shown]) -> None:
    """Refuse teachers that the agent cannot weigh; `teachers` has the shapes of what each shows.

    Raises:
        UserError: says which and why.
    """
    if len(teachers) < 2:
        raise UserError("MTKD-RL weighs teachers against each other: name at least two in --teacher-name-list")
    for name, shapes in teachers.items():
        if shapes.map[0] != shapes.embedding[0]:
            raise UserError(
                f"{name} cannot teach by MTKD-RL: its last map has {shapes.map[0]} channels and its embedding "
                f"{shapes.embedding[0]}, and the agent compares the student's view of the one with the other"
            )
