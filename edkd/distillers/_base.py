"""What every distiller is, and how it sees its networks: mdistiller's interface, so that files written for it fit."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import TrainingError, UserError
from common.models import Network
from common.models.network import Features
from common.training.method import FrozenTeacher
from common.training.teacher_memory import LazyFeatures

if TYPE_CHECKING:
    from common.training.teacher_memory import Memory


class _Shown:
    """Mixed into a network's class: `network(image)` gives (logits, {"feats", "preact_feats", "pooled_feat"})."""

    forward_with_features: Callable[[Tensor], tuple[Tensor, Features]]  # the network's

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        logits, features = self.forward_with_features(image)
        return logits, {"feats": features.stages, "preact_feats": features.preact, "pooled_feat": features.pooled}


class StudentView(_Shown):
    """A student as distillers see it."""


class TeacherView(_Shown):
    """A teacher as distillers see it: nothing of it is trained, unless the distiller says that it is.

    Attributes:
        memory: as of `FrozenTeacher`. With logits that it knows go features that are computed where somebody looks.
    """

    memory: Memory | None = None
    remembers = True

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        memory = self.memory
        logits = None if memory is None else memory.recall(image)
        if memory is None or logits is None:
            return super().forward(image)
        return logits, LazyFeatures(self._features_later(image, memory))

    def _features_later(self, image: Tensor, memory: Memory) -> Callable[[], dict[str, Any]]:
        version, show = image._version, super().forward

        def compute() -> dict[str, Any]:
            memory.features_are_read()
            if image._version != version:
                raise TrainingError(
                    "the distiller reads a teacher's features after it has changed the images: --teacher-cache off "
                    "computes them at once"
                )
            return show(image)[1]

        return compute


@functools.cache
def _class_of_view(view: type[_Shown], kind: type[Network]) -> type:
    return type(kind.__name__, (view, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def student_view(network: Network) -> Network:
    """The network itself, which from now on answers as distillers expect; all else about it stays as it is."""
    network.__class__ = _class_of_view(StudentView, type(network))
    return network


def teacher_view(network: Network) -> Network:
    """The same for a teacher. It stays in the mode in which it is: from now on the distiller decides."""
    network.__class__ = _class_of_view(TeacherView, type(network))
    return network.requires_grad_(False)


class TeacherLogits(FrozenTeacher):
    """A teacher of which only the logits are read, its batch norm folded: `view(image) -> (logits, {})`."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.asked_to_train = False

    def train(self, mode: bool = True) -> TeacherLogits:
        self.asked_to_train = mode
        super().train(mode)
        return self

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        if self.asked_to_train:
            raise UserError(
                "the distiller puts its teacher into training mode, where folded batch norm is impossible: "
                "leave `teacher_features = False` out of its class"
            )
        return super().forward(image), {}


class StudentTraining(nn.Module):
    """Owns the student and turns a batch into named losses.

    Attributes:
        student: answers with logits and features.
        graph_capturable: True says that `forward_train` may be captured as a CUDA graph
            (`common.training.method.Method`).
        epoch_dependent_until: from this `epoch` on, counted from 1 as `forward_train` gets it, nothing depends on the
            epoch any more; 0 says that nothing ever does.
        channels_last: True says that images, features and modules may be channels-last in memory, which is faster.
    """

    student: nn.Module
    graph_capturable = False
    epoch_dependent_until: float = math.inf
    channels_last = False

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        """What is trained: the student, and the method's own modules where it has some."""
        return list(self.student.parameters())

    def get_extra_parameters(self) -> int:
        """Scalars that training keeps beside the student and the teacher."""
        return 0

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """Losses of one batch.

        Args:
            image: [N, 3, H, W].
            target: class indices, [N].
            kwargs: `epoch`, counted from 1; with the crd trainers also `index` and `contrastive_index`, with the
                trainers of image pairs `image_weak` and `image_strong`.

        Returns:
            The student's logits [N, K], and named losses; their sum is minimized.
        """
        raise NotImplementedError

    def forward_test(self, image: Tensor) -> Tensor:
        """Logits of a batch by which accuracy is measured, [N, K]."""
        return self.student(image)[0]

    def forward(self, **kwargs: Any) -> Any:
        return self.forward_train(**kwargs) if self.training else self.forward_test(kwargs["image"])


class Distiller(StudentTraining):
    """Owns the teacher as well.

    Subclasses are called as `X(student, teacher, cfg)` and write `forward_train`. Those that train more than the
    student extend `get_learnable_parameters`. docs/distillers.md is the whole contract.

    Attributes:
        teacher_features: False says that only the teacher's logits are read, which makes the teacher faster.
    """

    teacher_features = True

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher

    def train(self, mode: bool = True) -> Distiller:
        """All modules in the given mode, the teacher evaluated; a subclass that wants it otherwise overrides this."""
        super().train(mode)
        self.teacher.eval()
        return self


class Vanilla(StudentTraining):
    """Cross-entropy with the labels, without a teacher: how teachers and baselines are trained."""

    graph_capturable = True
    channels_last = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, _ = self.student(image)
        return logits_student, {"ce": F.cross_entropy(logits_student, target)}
