"""Mixup (Zhang et al., 2018) and CutMix (Yun et al., 2019) of a batch with itself in reverse order, as timm mixes."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

SMOOTHING = 0.1  # of the labels; a default of timm that the published code keeps
SWITCH = 0.5  # how often CutMix takes the place of mixup; likewise


class Mix(NamedTuple):
    """How a batch is mixed.

    Attributes:
        lam: the share of each image's own label.
        blend: the share of the image's own pixels outside the box; within it all are its partner's.
        box: top, bottom, left, right, in pixels.
    """

    lam: float
    blend: float
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


class MixupCutmix(nn.Module):
    """`mixing(images, targets)` gives mixed images and soft targets.

    One way of mixing is drawn for a batch. The draws come from the host's generator, which the training loop seeds
    by (seed, epoch, process): the same on every device, and without waiting for any.

    Args:
        num_classes: K.
        mixup_alpha, cutmix_alpha: of the Beta(alpha, alpha) that the shares are drawn from; 0 leaves that kind of
            mixing out, both 0 leave images and targets as they are.
    """

    def __init__(self, num_classes: int, mixup_alpha: float, cutmix_alpha: float) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha

    def draw(self, height: int, width: int) -> Mix:
        """How to mix the next batch of images of this size."""
        cut = self.cutmix_alpha > 0 and (self.mixup_alpha == 0 or torch.rand(()).item() < SWITCH)
        alpha = torch.tensor(self.cutmix_alpha if cut else self.mixup_alpha)
        lam = torch.distributions.Beta(alpha, alpha).sample().item()
        if not cut:
            return Mix(lam, lam)
        (top, bottom), (left, right) = _cut(height, lam), _cut(width, lam)
        return Mix(1 - (bottom - top) * (right - left) / (height * width), 1.0, (top, bottom, left, right))

    @torch.compiler.disable
    def draw_for(self, images: Tensor) -> Tensor:
        """A drawn `Mix` as numbers on the images' device, [6]."""
        mix = self.draw(*images.shape[2:])
        numbers = torch.tensor([mix.lam, mix.blend, *mix.box], dtype=images.dtype)
        return numbers.to(images.device, non_blocking=True)

    def forward(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: [N, 3, H, W]; an odd batch's middle image has itself for a partner.
            targets: class indices, [N].

        Returns:
            Images, and distributions over classes, [N, K].
        """
        if self.mixup_alpha == self.cutmix_alpha == 0:
            return images, targets
        # PyTorch's `disable` hides the types of what it decorates
        lam, blend, top, bottom, left, right = self.draw_for(images)  # pyright: ignore[reportArgumentType, reportCallIssue, reportGeneralTypeIssues]
        y = torch.arange(images.shape[2], device=images.device)[:, None]
        x = torch.arange(images.shape[3], device=images.device)
        inside = (top <= y) & (y < bottom) & (left <= x) & (x < right)
        own = torch.where(inside, 0, blend)
        labels = smooth_one_hot(targets, self.num_classes, images.dtype)
        return images * own + images.flip(0) * (1 - own), labels * lam + labels.flip(0) * (1 - lam)


def _cut(length: int, lam: float) -> tuple[int, int]:
    """From where to where a box of the share 1 - `lam` of the area reaches along one side; cut off at the border."""
    middle, half = int(torch.randint(length, ())), int(length * math.sqrt(1 - lam)) // 2
    return max(middle - half, 0), min(middle + half, length)


def smooth_one_hot(targets: Tensor, num_classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """1 - s + s/K on the label and s/K elsewhere, s = 0.1; [N, K]."""
    off = SMOOTHING / num_classes
    rows = torch.full((len(targets), num_classes), off, dtype=dtype, device=targets.device)
    return rows.scatter_(1, targets[:, None], 1 - SMOOTHING + off)
