"""What mdistiller shows of networks that other papers have as well, under the class names that it gives them."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from common.models import cifar_mobilenet_v2_tfkd, cifar_resnet_tfkd, cifar_wrn
from common.models.cifar_resnet_tfkd import BasicBlock, Bottleneck
from common.models.initialization import init_convs_by_fan_out
from common.models.network import Features
from common.models.stage import global_pool


class ResNet(cifar_resnet_tfkd.ResNet):
    """The four-stage `ResNet` of Tf-KD with He initialization; the stem entry of `preact` is activated, as published.

    Attributes:
        remove_avg: True, set from outside, hands the last feature map flattened instead of pooled to the classifier,
            which then must be one that takes it.
    """

    feat_modules = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
    remove_avg = False

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        depths: tuple[int, int, int, int],
        num_classes: int = 100,
    ) -> None:
        super().__init__(block, depths, num_classes)
        # mdistiller's answer at every depth: the widths of bottleneck stages, without the stem
        self.stage_channels = [256, 512, 1024, 2048]
        self.in_planes = self.linear.in_features
        init_convs_by_fan_out(self)

    def pool(self, x: Tensor) -> Tensor:
        return x.flatten(1) if self.remove_avg else super().pool(x)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        logits, features = super().forward_with_features(images)
        return logits, features._replace(preact=[features.stages[0], *features.preact[1:]])

    def encode(self, x: Tensor, idx: int, preact: bool = False) -> Tensor:
        """One of the last three stages applied to a feature map before its activation.

        Args:
            x: what enters the stage, not yet activated, [N, C, H, W].
            idx: -1 for the last stage, -2 and -3 for those before it.
            preact: without effect, as published.

        Returns:
            The stage's feature map before its activation.
        """
        stages = {-1: self.layer4, -2: self.layer3, -3: self.layer2}
        if idx not in stages:
            raise NotImplementedError(f"encode knows the stages -1, -2 and -3, not {idx}")
        return stages[idx](F.relu(x))[1]

    def get_bn_before_relu(self) -> list[nn.BatchNorm2d]:
        """The last batch norm of every stage."""
        last_blocks = [stage[-1] for stage in (self.layer1, self.layer2, self.layer3, self.layer4)]
        return [block.bn3 if isinstance(block, Bottleneck) else block.bn2 for block in last_blocks]


class WideResNet(cifar_wrn.WideResNet):
    """WRN with mdistiller's features: raw stem and stage outputs, and `preact` the norm that follows each stage.

    To show `preact`, the published code applies those three norms a second time in every forward pass, so that in
    training their running statistics take each batch in twice. Here the feature maps are at hand anyway, and one pass
    with momentum 1 - (1 - m)^2 leaves the same statistics as two with m.
    """

    def __init__(self, depth: int, widen_factor: int, num_classes: int = 100) -> None:
        super().__init__(depth, widen_factor, num_classes)
        for norm in self.get_bn_before_relu():
            if norm.momentum is not None:
                norm.momentum = 1 - (1 - norm.momentum) ** 2

    def _trunk(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        if self.training:
            for norm in self.get_bn_before_relu():
                if norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.add_(1)
        return super()._trunk(images)

    def forward_with_features(self, images: Tensor) -> tuple[Tensor, Features]:
        stages, normalized = self._trunk(images)
        pooled = global_pool(self.relu(normalized[-1]))
        return self.fc(pooled), Features(stages, [stages[0], *normalized[1:]], pooled)


class MobileNetV2(cifar_mobilenet_v2_tfkd.MobileNetV2):
    """Tiny-ImageNet's: `MobileNetV2` of Tf-KD with its stage widths, which mdistiller leaves out.

    The published `pooled_feat` is `Features.pooled` with two more axes of length 1.
    """

    feat_modules = ("pre", *(f"stage{i}" for i in range(1, 8)), "conv1")

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__(num_classes)
        self.stage_channels = [32, 24, 32, 64, 1280]


ResNet18 = partial(ResNet, BasicBlock, (2, 2, 2, 2))
ResNet50 = partial(ResNet, Bottleneck, (3, 4, 6, 3))

wrn_16_1 = partial(WideResNet, 16, 1)
wrn_16_2 = partial(WideResNet, 16, 2)
wrn_40_1 = partial(WideResNet, 40, 1)
wrn_40_2 = partial(WideResNet, 40, 2)
