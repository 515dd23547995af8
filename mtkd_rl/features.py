"""The student's last feature map, made comparable with each teacher's."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class Embed(nn.Module):
    """1x1 convolution, batch norm and ReLU: [N, C, H, W] -> [N, C', H, W]."""

    def __init__(self, channels: int, teacher_channels: int) -> None:
        super().__init__()
        self.transfer = nn.Sequential(
            nn.Conv2d(channels, teacher_channels, 1), nn.BatchNorm2d(teacher_channels), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.transfer(x)


class FeatureTransforms(nn.Module):
    """The student's feature map, resized and embedded for each teacher.

    In the published code the resized feature map replaces the student's, so that each teacher sees it as it was resized
    for the one before, and the order of teachers matters where their feature maps differ in size.

    Args:
        student_shape: (C, H, W) of the student's feature map.
        teacher_shapes: (C, H, W) of each teacher's.
        chained: as published; False starts from the student's feature map for every teacher.
    """

    def __init__(
        self, student_shape: Sequence[int], teacher_shapes: Sequence[Sequence[int]], *, chained: bool = True
    ) -> None:
        super().__init__()
        self.student_height, self.chained = student_shape[1], chained
        self.sizes = [(height, width) for _, height, width in teacher_shapes]
        for m, shape in enumerate(teacher_shapes):
            self.add_module(f"embed{m}", Embed(student_shape[0], shape[0]))

    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, C, H, W] -> for each teacher a feature map of its shape."""
        views = []
        for embed, size in zip(self.children(), self.sizes, strict=True):
            resized = self._resize(x, size)
            views.append(embed(resized))
            if self.chained:
                x = resized
        return views

    def _resize(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """By the height that the student's feature map had at first, also where `x` has been resized since."""
        if tuple(x.shape[2:]) == size:
            return x
        if self.student_height >= size[0]:
            return F.adaptive_avg_pool2d(x, size)
        return F.interpolate(x, size=size, mode="bilinear")
