"""The plain published way of MLKD: images upscaled by Pillow one at a time, every exit taught, eager."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import transforms

from benchmarks.plain import PlainDistillation
from common.data import Normalization
from common.losses import add_up
from mlkd.student import MultiResNetV2


def enlarging(size: int, jitter: float, normalization: Normalization) -> transforms.Compose:
    """torchvision's transforms of one image."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(jitter, jitter, jitter),
            transforms.ToTensor(),
            transforms.Normalize(normalization.mean, normalization.std),
        ]
    )


class PlainMultiLevel(PlainDistillation):
    """Sums the loss over the student's exits."""

    student: MultiResNetV2

    def loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        heads = self.student.heads(images)
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        return add_up(self._loss(logits, teacher_logits, targets) for logits in heads.values()), heads["final"]
