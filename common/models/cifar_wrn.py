"""Wide residual networks for small images (Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146).

mdistiller and MTKD-RL compute the same logits and show different features of the last stage, hence a class for each:
mdistiller's is in `common/models/cifar_mdistiller.py`.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from common.models.initialization import init_convs_by_fan_out
from common.models.network import Features, Network
from common.models.stage import Blocks, global_pool


class Block(nn.Module):
    """Pre-activation block: norm, ReLU, convolution, twice. A widening shortcut reads the activated input."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        widens = in_channels != channels
        self.convShortcut = nn.Conv2d(in_channels, channels, 1, stride, bias=False) if widens else None

    def forward(self, x: Tensor) -> Tensor:
        return self.after_norm(x, self.bn1(x))

    def after_norm(self, x: Tensor, normalized: Tensor) -> Tensor:
        """The block from its input and `bn1` of it."""
        activated = F.relu(normalized)
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(activated))))


class WideStage(nn.Module):
    """Blocks in a row; returns their output and the stage's input as its first norm leaves it."""

    def __init__(self, in_channels: int, channels: int, blocks: int, stride: int) -> None:
        super().__init__()
        first = Block(in_channels, channels, stride)
        self.layer: Blocks[Block] = Blocks(first, *(Block(channels, channels) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, *others = self.layer
        normalized = first.bn1(x)
        x = first.after_norm(x, normalized)
        for block in others:
            x = block(x)
        return x, normalized


class WideResNet(Network):
    """WRN of depth 6n + 4: [N, 3, H, W] -> [N, num_classes]; a bare 3x3 stem, three stages with strides 1, 2, 2.

    The published networks pool with a fixed 8x8 window, and at 64x64 silently return four rows of logits per image;
    this one pools globally, which is the same at 32x32 and right at any size.

    Args:
        depth: 6n + 4.
        widen_factor: k; the stages have 16k, 32k and 64k channels.
        num_classes: width of the classifier.
    """

    feat_modules = ("conv1", "block1", "block2", "block3")

    def __init__(self, depth: int, widen_factor: int, num_classes: int = 100) -> None:
        super().__init__()
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth must be 6n + 4, got {depth}")
        blocks = (depth - 4) // 6
        widths = (16, 16 * widen_factor, 32 * widen_factor, 64 * widen_factor)
        self.stage_channels = list(widths)
        self.nChannels = widths[3]
        self.conv1 = nn.Conv2d(3, widths[0], 3, padding=1, bias=False)
        self.block1 = WideStage(widths[0], widths[1], blocks, stride=1)
        self.block2 = WideStage(widths[1], widths[2], blocks, stride=2)
        self.block3 = WideStage(widths[2], widths[3], blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(widths[3])
        self.relu = nn.ReLU()
        self.fc = nn.Linear(widths[3], num_classes)
        init_convs_by_fan_out(self)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        _, normalized = self._trunk(images)
        return self.fc(global_pool(self.relu(normalized[-1])))

    def _trunk(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The raw outputs of stem and stages, and each of them as the norm that follows it in the network leaves it."""
        stages, normalized = [self.conv1(images)], []
        for stage in (self.block1, self.block2, self.block3):
            output, normalized_input = stage(stages[-1])
            stages.append(output)
            normalized.append(normalized_input)
        normalized.append(self.bn1(stages[-1]))
        return stages, normalized

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The norm that follows each stage: the first of the next one, or the final one."""
        return [self.block2.layer[0].bn1, self.block3.layer[0].bn1, self.bn1]


class MtkdWideResNet(WideResNet):
    """WRN with MTKD-RL's features: the last stage is shown after the final norm and ReLU.

    The published `preact` of the last stage is the final norm applied once more to that activated feature map. Running
    statistics take each batch in once, as published wherever `preact` is not asked for.
    """

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        stages, normalized = self._trunk(images)
        last = self.relu(normalized[-1])
        pooled = global_pool(last)
        preact = [stages[0], *normalized[1:3], self._final_norm_again(last)]
        return self.fc(pooled), Features([*stages[:3], last], preact, pooled)

    def _final_norm_again(self, x: Tensor) -> Tensor:
        norm = self.bn1
        statistics = (None, None) if self.training else (norm.running_mean, norm.running_var)
        return F.batch_norm(x, *statistics, norm.weight, norm.bias, training=self.training, eps=norm.eps)


mtkd_rl_wrn_10_1 = partial(MtkdWideResNet, 10, 1)
mtkd_rl_wrn_10_2 = partial(MtkdWideResNet, 10, 2)
mtkd_rl_wrn_16_1 = partial(MtkdWideResNet, 16, 1)
mtkd_rl_wrn_16_2 = partial(MtkdWideResNet, 16, 2)
mtkd_rl_wrn_28_4 = partial(MtkdWideResNet, 28, 4)
mtkd_rl_wrn_40_1 = partial(MtkdWideResNet, 40, 1)
mtkd_rl_wrn_40_2 = partial(MtkdWideResNet, 40, 2)
