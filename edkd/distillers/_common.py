"""What several distillers share, here and in mdistiller and its forks, whose names these are (all but `match_size`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def match_size(f_s: Tensor, f_t: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two feature maps [N, C, H, W] to the height of the smaller, which stays as it is."""
    height_s, height_t = f_s.shape[2], f_t.shape[2]
    if height_s > height_t:
        return F.adaptive_avg_pool2d(f_s, (height_t, f_t.shape[3])), f_t
    if height_s < height_t:
        return f_s, F.adaptive_avg_pool2d(f_t, (height_s, f_s.shape[3]))
    return f_s, f_t


def get_feat_shapes(
    student: nn.Module, teacher: nn.Module, input_size: Sequence[int], in_train_mode: bool = True
) -> tuple[list[torch.Size], list[torch.Size]]:
    """Shapes of both networks' `feats`, learned by sending one random image through them.

    Args:
        student, teacher: as distillers see them.
        input_size: height and width of the image.
        in_train_mode: as published; batch norm then takes a tenth of the noise's statistics into its running ones,
            the teacher's included. False evaluates the networks and changes nothing.
    """
    like = next(student.parameters())
    image = torch.randn(1, 3, *input_size, device=like.device, dtype=like.dtype)
    shapes = []
    for view in (student, teacher):
        was_training = view.training
        view.train(in_train_mode)
        with torch.no_grad():
            shapes.append([feat.shape for feat in view(image)[1]["feats"]])
        view.train(was_training)
    return shapes[0], shapes[1]


def _regression(s_shape: Sequence[int], t_shape: Sequence[int], out_channels: int) -> nn.Module:
    """The convolution that takes a feature map of one height and width to the other's."""
    _, s_channels, s_height, s_width = s_shape
    _, _, t_height, t_width = t_shape
    if s_height == 2 * t_height:
        return nn.Conv2d(s_channels, out_channels, kernel_size=3, stride=2, padding=1)
    if 2 * s_height == t_height:
        return nn.ConvTranspose2d(s_channels, out_channels, kernel_size=4, stride=2, padding=1)
    if s_height >= t_height:
        kernel = (1 + s_height - t_height, 1 + s_width - t_width)
        return nn.Conv2d(s_channels, out_channels, kernel_size=kernel)
    raise NotImplementedError(f"no regression from feature maps {tuple(s_shape)} to {tuple(t_shape)}")


class ConvReg(nn.Module):
    """Regresses a student's feature map onto the shape of a teacher's: convolution, batch norm, ReLU.

    Args:
        s_shape, t_shape: (N, C, H, W) of both feature maps.
        use_relu: end with ReLU.
        use_bn: normalize between the two.
    """

    def __init__(
        self, s_shape: Sequence[int], t_shape: Sequence[int], use_relu: bool = True, use_bn: bool = True
    ) -> None:
        super().__init__()
        self.conv = _regression(s_shape, t_shape, t_shape[1])
        self.bn = nn.BatchNorm2d(t_shape[1]) if use_bn else nn.Identity()
        self.relu = nn.ReLU(inplace=True)
        self.use_relu = use_relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return self.relu(x) if self.use_relu else x


class ConvRegBottleNeck(nn.Module):
    """`ConvReg` through a narrower feature map: regression to `c_hidden` channels, batch norm, ReLU, 1x1 convolution.

    Args:
        s_shape, t_shape: (N, C, H, W) of both feature maps.
        c_hidden: channels in between; None: half of the teacher's.
        use_relu, use_bn: as for `ConvReg`; also at the end.
    """

    def __init__(
        self,
        s_shape: Sequence[int],
        t_shape: Sequence[int],
        c_hidden: int | None = None,
        use_relu: bool = True,
        use_bn: bool = True,
    ) -> None:
        super().__init__()
        hidden = c_hidden or max(1, t_shape[1] // 2)
        narrow = (t_shape[0], hidden, *t_shape[2:])
        self.reduce = ConvReg(s_shape, narrow, use_relu, use_bn)
        self.expand = ConvReg(narrow, t_shape, use_relu, use_bn)

    def forward(self, x: Tensor) -> Tensor:
        return self.expand(self.reduce(x))


class _ScaledGradient(torch.autograd.Function):
    """x, whose gradient is scaled by `factor`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.factor * grad, None


class GradientReversal(nn.Module):
    """The identity, with gradients times `lambda_`: a negative one turns descent into ascent (CTKD, eq. 5)."""

    def forward(self, x: Tensor, lambda_: float) -> Tensor:
        return _ScaledGradient.apply(x, float(lambda_))


class Global_T(nn.Module):  # noqa: N801 - the forks' name
    """One learned temperature for all samples, trained against the student ("Curriculum Temperature", AAAI 2023).

    Called as `(fea_t, fea_s, y_t, y_s, lambda_)`, of which only the gradient's factor `lambda_` is read; gives [1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.global_T = nn.Parameter(torch.ones(1))
        self.grl = GradientReversal()

    def forward(self, fea_t: Any, fea_s: Any, y_t: Any, y_s: Any, lambda_: float) -> Tensor:
        return self.grl(self.global_T, lambda_)


class CosineDecay:
    """From `max_value` to `min_value` along half a cosine over `num_loops` epochs, and `min_value` from then on."""

    def __init__(self, max_value: float, min_value: float, num_loops: float) -> None:
        self.max_value, self.min_value, self.num_loops = max_value, min_value, num_loops

    def get_value(self, i: int) -> float:
        """The value in epoch `i`, counted from 0."""
        share = (math.cos(math.pi * min(max(i, 0), self.num_loops) / self.num_loops) + 1) / 2
        return share * (self.max_value - self.min_value) + self.min_value


class LinearDecay(CosineDecay):
    """The same along a straight line."""

    def get_value(self, i: int) -> float:
        done = min(max(i, 0), self.num_loops) / self.num_loops
        return self.max_value + done * (self.min_value - self.max_value)
