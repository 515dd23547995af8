"""What AVER and MTKD-RL share: a student beside its teachers, how far it is from each of them, and AVER itself."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.models import Network
from common.models.network import shown_of_black_image
from common.training.method import Method, StepOutput
from mtkd_rl.features import FeatureTransforms
from mtkd_rl.losses import FEATURE_LOSSES, logit_losses
from mtkd_rl.teachers import FeatureTeacher, NetworkOutputs, NetworkShapes, show


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


class TeacherStudentOutputs(NamedTuple):
    """Student and teachers on one batch: N samples, K classes, M teachers.

    Attributes:
        student: what the student shows.
        teachers: what each teacher shows.
        teacher_logits: of all teachers, [N, K, M].
        views: r_m(F), for each teacher a feature map of its shape.
        cross_entropy: of the student, [N].
        logit_losses: tau^2 D_KL by each teacher, [N, M].
        feature_losses: lambda D by each teacher, [N, M].
    """

    student: NetworkOutputs
    teachers: list[NetworkOutputs]
    teacher_logits: Tensor
    views: list[Tensor]
    cross_entropy: Tensor
    logit_losses: Tensor
    feature_losses: Tensor


class Weights(NamedTuple):
    """Weights of the teachers for each sample, [N, M] each.

    Attributes:
        logits: w.
        features: v.
    """

    logits: Tensor
    features: Tensor


def weighted_losses(outputs: TeacherStudentOutputs, weights: Weights) -> dict[str, Tensor]:
    """The three terms of L (`mtkd_rl/methods.py`) for each sample, [N]."""
    return {
        "loss_cls": outputs.cross_entropy,
        "loss_kd": (weights.logits * outputs.logit_losses).sum(1),
        "loss_feat": (weights.features * outputs.feature_losses).sum(1),
    }


class MultiTeacher(Method):
    """A method with several teachers: the networks, the transforms, and every loss before it is weighted.

    Args:
        student: the network to train.
        teachers: name -> trained network for the same classes.
        image_size: height and width of the images.
        options: the loss.

    Raises:
        UserError: a network that does not take such images.
    """

    student: Network
    graph_capturable = True
    epoch_dependent_until = 0

    def __init__(
        self, student: Network, teachers: dict[str, Network], image_size: int, options: Options = PUBLISHED
    ) -> None:
        super().__init__()
        self.student, self.options, self.temperature = student, options, options.temperature
        self.teacher_names = list(teachers)
        self.teachers = nn.ModuleList(FeatureTeacher(network) for network in teachers.values())
        student_name = student.recipe["name"] if student.recipe else type(student).__name__
        student_shapes = shapes_of(student, student_name, image_size)
        self.teacher_shapes = [shapes_of(network, name, image_size) for name, network in teachers.items()]
        self.transforms = FeatureTransforms(
            student_shapes.feature_map, [shapes.feature_map for shapes in self.teacher_shapes], chained=options.chained
        )

    def compare(self, images: Tensor, targets: Tensor) -> TeacherStudentOutputs:
        """All per-sample losses of a batch; they serve the student's loss, the agent's state and its reward alike."""
        o = self.options
        teachers = [teacher(images) for teacher in self.teachers]
        student = show(self.student, images)
        views = self.transforms(student.feature_map)
        teacher_logits = torch.stack([teacher.logits for teacher in teachers], dim=2)
        distance = FEATURE_LOSSES[o.feature_loss]
        distances = [
            distance(view, teacher.feature_map, o.temperature) for view, teacher in zip(views, teachers, strict=True)
        ]
        return TeacherStudentOutputs(
            student,
            teachers,
            teacher_logits,
            views,
            F.cross_entropy(student.logits, targets, reduction="none"),
            logit_losses(student.logits, teacher_logits, o.temperature),
            o.feat_weight * torch.stack(distances, dim=1),
        )


class Averaging(MultiTeacher):
    """AVER: every teacher counts the same, w_m = v_m = 1/M."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        outputs = self.compare(images, targets)
        w = torch.full_like(outputs.logit_losses, 1 / len(self.teachers))
        losses = weighted_losses(outputs, Weights(w, w))
        return StepOutput(outputs.student.logits, {name: loss.mean() for name, loss in losses.items()})


def shapes_of(network: Network, name: str, image_size: int) -> NetworkShapes:
    """Shapes of what a network, by its name, shows of an image; batch norm takes no notice.

    Raises:
        UserError: it does not take such images.
    """
    shown = shown_of_black_image(network, name, image_size, image_size, show)
    return NetworkShapes(*(tuple(tensor.shape[1:]) for tensor in shown))


def check_comparable(teachers: dict[str, NetworkShapes]) -> None:
    """Refuse teachers that an agent cannot weigh; `teachers` has the shapes of what each shows.

    Raises:
        UserError: there is one alone, or one whose feature map and embedding differ in width; says which and why.
    """
    if len(teachers) < 2:
        raise UserError("MTKD-RL weighs teachers against each other: name at least two in --teacher-name-list")
    for name, shapes in teachers.items():
        if shapes.feature_map[0] != shapes.embedding[0]:
            raise UserError(
                f"{name} cannot teach by MTKD-RL: its last feature map has {shapes.feature_map[0]} channels and its "
                f"embedding {shapes.embedding[0]}, and the agent compares the student's view of the one with the other"
            )


def all_reduce_sum(sums: Tensor) -> Tensor:
    """Sum over the processes of a distributed run, in place."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
    return sums
