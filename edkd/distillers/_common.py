"""What several feature distillers share; `ConvReg` and `get_feat_shapes` are mdistiller's names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def match_size(f_s: Tensor, f_t: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool the larger of two maps [N, C, H, W] to the height of the smaller, which stays as it is."""
    height_s, height_t = f_s.shape[2], f_t.shape[2]
    if height_s > height_t:
        return F.adaptive_avg_pool2d(f_s, f_t.shape[2:]), f_t
    if height_s < height_t:
        return f_s, F.adaptive_avg_pool2d(f_t, f_s.shape[2:])
    return f_s, f_t


def get_feat_shapes(
    student: nn.Module, teacher: nn.Module, input_size: Sequence[int], in_train_mode: bool = True
) -> tuple[list[torch.Size], list[torch.Size]]:
    """Shapes of both networks' `feats`, learnt by sending one random image through them.

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


class ConvReg(nn.Module):
    """Regresses a student's map onto the shape of a teacher's: convolution, batch norm, ReLU.

    Args:
        s_shape, t_shape: (N, C, H, W) of both maps.
        use_relu: end with ReLU.
    """

    def __init__(self, s_shape: Sequence[int], t_shape: Sequence[int], use_relu: bool = True) -> None:
        super().__init__()
        _, s_channels, s_height, s_width = s_shape
        _, t_channels, t_height, t_width = t_shape
        if s_height == 2 * t_height:
            self.conv = nn.Conv2d(s_channels, t_channels, kernel_size=3, stride=2, padding=1)
        elif 2 * s_height == t_height:
            self.conv = nn.ConvTranspose2d(s_channels, t_channels, kernel_size=4, stride=2, padding=1)
        elif s_height >= t_height:
            kernel = (1 + s_height - t_height, 1 + s_width - t_width)
            self.conv = nn.Conv2d(s_channels, t_channels, kernel_size=kernel)
        else:
            raise NotImplementedError(f"no regression from maps {tuple(s_shape)} to {tuple(t_shape)}")
        self.bn = nn.BatchNorm2d(t_channels)
        self.relu = nn.ReLU(inplace=True)
        self.use_relu = use_relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return self.relu(x) if self.use_relu else x
