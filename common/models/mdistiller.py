"""What mdistiller shows of two networks that Tf-KD has as well: the four-stage ResNet and the MobileNetV2 of Tf-KD."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from common.models.initialization import init_convs_by_fan_out
from common.models.mobilenet_v2 import MobileNetV2
from common.models.network import Features
from common.models.resnet import BasicBlock, Bottleneck, ResNet


class MdistillerResNet(ResNet):
    """`ResNet` with He initialisation; the stem entry of `preact` is activated, as published."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 100,
    ) -> None:
        super().__init__(block, depths, num_classes)
        init_convs_by_fan_out(self)

    def forward_features(self, images: Tensor) -> tuple[Tensor, Features]:
        logits, features = super().forward_features(images)
        return logits, features._replace(preact=[features.stages[0], *features.preact[1:]])

    def get_stage_channels(self) -> list[int]:
        """mdistiller's answer at every depth: the widths of bottleneck stages, without the stem."""
        return [256, 512, 1024, 2048]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of every stage."""
        last_blocks = [stage[-1] for stage in (self.layer1, self.layer2, self.layer3, self.layer4)]
        return [block.bn3 if isinstance(block, Bottleneck) else block.bn2 for block in last_blocks]


class TinyImageNetMobileNetV2(MobileNetV2):
    """`MobileNetV2` of Tf-KD with its stage widths, which mdistiller leaves out.

    The published `pooled_feat` is `Features.pooled` with two more axes of length 1.
    """

    def get_stage_channels(self) -> list[int]:
        """Channels of the entries of `Features.stages`."""
        return [32, 24, 32, 64, 1280]


ResNet18 = partial(MdistillerResNet, BasicBlock, (2, 2, 2, 2))
ResNet50 = partial(MdistillerResNet, Bottleneck, (3, 4, 6, 3))
