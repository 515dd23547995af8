"""What AVER and MTKD-RL share: a student beside its teachers, and how far it is from each of them."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models import Network
from common.training.method import Method
from mtkd_rl.features import FeatureTransforms
from mtkd_rl.losses import FEATURE_LOSSES, logit_losses
from mtkd_rl.teachers import FeatureTeacher, Shown, show


@dataclasses.dataclass(frozen=True)
class Options:
    """The loss of `mtkd_rl/methods.py`.

    Attributes:
        temperature: tau.
        feat_weight: lambda.
        feature_loss: D, a name in `FEATURE_LOSSES`.
        chained: see `FeatureTransforms`.
    """

    temperature: float = 4
    feat_weight: float = 5
    feature_loss: str = "mse"
    chained: bool = True


PUBLISHED = Options()


class Comparison(NamedTuple):
    """Student and teachers on one batch: N samples, K classes, M teachers.

    Attributes:
        student: what the student shows.
        teachers: what each teacher shows.
        teacher_logits: of all teachers, [N, K, M].
        views: r_m(F), for each teacher a map of its shape.
        cross_entropy: of the student, [N].
        logit_losses: tau^2 D_KL by each teacher, [N, M].
        feature_losses: lambda D by each teacher, [N, M].
    """

    student: Shown
    teachers: list[Shown]
    teacher_logits: Tensor
    views: list[Tensor]
    cross_entropy: Tensor
    logit_losses: Tensor
    feature_losses: Tensor


class MultiTeacher(Method):
    """A method with several teachers: the networks, the transforms, and every loss before it is weighted.

    Args:
        student: the network to train.
        teachers: name -> trained network for the same classes.
        image_size: height and width of the images.
        options: the loss.
    """

    graph_capturable = True
    epoch_dependent_until = 0

    def __init__(
        self, student: Network, teachers: dict[str, Network], image_size: int, options: Options = PUBLISHED
    ) -> None:
        super().__init__()
        self.student, self.options = student, options
        self.teacher_names = list(teachers)
        self.teachers = nn.ModuleList(FeatureTeacher(network) for network in teachers.values())
        student_shapes = shapes_of(student, image_size)
        self.teacher_shapes = [shapes_of(network, image_size) for network in teachers.values()]
        self.transforms = FeatureTransforms(
            student_shapes.map, [shapes.map for shapes in self.teacher_shapes], chained=options.chained
        )

    def compare(self, images: Tensor, targets: Tensor) -> Comparison:
        """All per-sample losses of a batch; they serve the student's loss, the agent's state and its reward alike."""
        o = self.options
        teachers = [teacher(images) for teacher in self.teachers]
        student = show(self.student, images)
        views = self.transforms(student.map)
        teacher_logits = torch.stack([teacher.logits for teacher in teachers], dim=2)
        distance = FEATURE_LOSSES[o.feature_loss]
        distances = [distance(view, teacher.map, o.temperature) for view, teacher in zip(views, teachers, strict=True)]
        return Comparison(
            student,
            teachers,
            teacher_logits,
            views,
            F.cross_entropy(student.logits, targets, reduction="none"),
            logit_losses(student.logits, teacher_logits, o.temperature),
            o.feat_weight * torch.stack(distances, dim=1),
        )


@torch.no_grad()
def shapes_of(network: Network, image_size: int) -> Shown:
    """Shapes, without the batch, of what a network shows of an image; batch norm takes no notice."""
    training = network.training
    parameter = next(network.parameters())
    image = torch.zeros(1, 3, image_size, image_size, dtype=parameter.dtype, device=parameter.device)
    shown = show(network.eval(), image)
    network.train(training)
    return Shown(*(tuple(tensor.shape[1:]) for tensor in shown))
