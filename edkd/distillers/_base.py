"""What every distiller is, and how it sees its networks: mdistiller's interface, so that files written for it fit."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models import Network
from common.training.method import FrozenTeacher


class _View(nn.Module):
    """`view(image) -> (logits, {"feats", "preact_feats", "pooled_feat"})`; all else that is asked for, the network has.

    Attributes:
        network: the network itself, whose call gives logits alone.
    """

    network: Network

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        logits, features = self.network.forward_features(image)
        return logits, {"feats": features.stages, "preact_feats": features.preact, "pooled_feat": features.pooled}

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)


class StudentView(_View):
    """A student as distillers see it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network


class TeacherView(_View, FrozenTeacher):
    """A teacher as distillers see it: in evaluation mode and without gradient."""

    def __init__(self, network: Network) -> None:
        FrozenTeacher.__init__(self, network, foldable=False)

    @torch.no_grad()
    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return super().forward(image)


class TeacherLogits(FrozenTeacher):
    """A teacher of which only the logits are wanted, its batch norm folded: `view(image) -> (logits, {})`."""

    def forward(self, image: Tensor) -> tuple[Tensor, dict[str, Any]]:
        return super().forward(image), {}


class Distiller(nn.Module):
    """Owns the student and the teacher and turns a batch into named losses.

    Subclasses are called as `X(student, teacher, cfg)` and write `forward_train`. Those that train more than the
    student extend `get_learnable_parameters`.

    Attributes:
        teacher_features: False says that only the teacher's logits are read, which makes the teacher faster.
        graph_capturable: True says that `forward_train` may be captured as a CUDA graph
            (`common.training.method.Method`).
        epoch_dependent_until: from this `epoch` on, counted from 1 as `forward_train` gets it, nothing depends on the
            epoch any more; 0 says that nothing ever does.
    """

    teacher_features = True
    graph_capturable = False
    epoch_dependent_until: float = math.inf

    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teacher = teacher

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
            kwargs: `epoch`, counted from 1; with the crd trainers also `index` and `contrastive_index`.

        Returns:
            The student's logits [N, K], and named losses; their sum is minimised.
        """
        raise NotImplementedError

    def forward_test(self, image: Tensor) -> Tensor:
        return self.student(image)[0]

    def forward(self, **kwargs: Any) -> Any:
        return self.forward_train(**kwargs) if self.training else self.forward_test(kwargs["image"])


class Vanilla(nn.Module):
    """Cross-entropy with the labels, without a teacher: how teachers and baselines are trained."""

    graph_capturable = True
    epoch_dependent_until = 0

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student = student

    def get_learnable_parameters(self) -> list[nn.Parameter]:
        return list(self.student.parameters())

    def get_extra_parameters(self) -> int:
        return 0

    def forward_train(self, image: Tensor, target: Tensor, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        logits_student, _ = self.student(image)
        return logits_student, {"ce": F.cross_entropy(logits_student, target)}

    def forward_test(self, image: Tensor) -> Tensor:
        return self.student(image)[0]

    forward = Distiller.forward
