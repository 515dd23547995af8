"""The student: a ResNetV2-50 with three early exits, whose trunk is timm's `resnetv2_50x1_bit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from timm.layers.classifier import ClassifierHead
from timm.layers.std_conv import StdConv2d
from timm.models.resnetv2 import ResNetV2
from torch import Tensor, nn

from common.models.initialization import init_convs_by_fan_out

EXITS: tuple[str, ...] = ("exit_1", "exit_2", "exit_3", "final")  # in the order in which an image meets them
MULTIPLE = 32  # of pixels in an image's side: the first exit's feature map is a quarter of it, in patches of eight


class Bottleneck(nn.Module):
    """What an early exit makes of a stage's feature map: `kernel` x `kernel` patches of it become one vector each.

    Args:
        channels: of the stage's feature map.
        hidden: inner channels.
        features: channels for the classifier.
        kernel: side and stride of the patches.
    """

    def __init__(self, channels: int, hidden: int, features: int, kernel: int) -> None:
        super().__init__()
        self.op = nn.Sequential(
            nn.Conv2d(channels, hidden, 1),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, kernel, stride=kernel),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, features, 1),
            nn.BatchNorm2d(features),
            nn.ReLU(),
        )
        init_convs_by_fan_out(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class MultiResNetV2(nn.Module):
    """`model(images)` gives the final logits; `model.heads(images)` those of every exit, as training wants them.

    Module names are the published ones.

    Args:
        num_classes: K.
        layers, channels: blocks and channels of each stage.
        hidden: inner channels of the early exits.
    """

    def __init__(
        self,
        num_classes: int,
        layers: Sequence[int] = (3, 4, 6, 3),
        channels: Sequence[int] = (256, 512, 1024, 2048),
        hidden: int = 512,
    ) -> None:
        super().__init__()
        convolution = partial(StdConv2d, eps=1e-8)
        trunk = ResNetV2(list(layers), tuple(channels), num_classes, stem_type="fixed", conv_layer=convolution)
        features = trunk.num_features
        self.stem = trunk.stem
        for i, stage in enumerate(trunk.stages):
            self.add_module(f"stages{i}", stage)
            if i < len(EXITS) - 1:
                self.add_module(f"bottleneck{i}_1", Bottleneck(channels[i], hidden, features, 8 >> i))
                classifier = ClassifierHead(features, num_classes, use_conv=True)
                init_convs_by_fan_out(classifier)  # not N(0, 0.01^2) as the final one: the early exits lead at first
                self.add_module(f"middle_fc{i}", classifier)
        self.norm, self.head = trunk.norm, trunk.head

    def forward(self, images: Tensor) -> Tensor:
        """Final logits, [N, K]; the early exits are not computed."""
        return self.exit(images, "final")

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        """Logits of all exits, each [N, K], in the order of `EXITS`."""
        x, logits = self.stem(images), {}
        for i, name in enumerate(EXITS):
            x = self.get_submodule(f"stages{i}")(x)
            logits[name] = self._classify(x, i)
        return logits

    def exit(self, images: Tensor, name: str) -> Tensor:
        """Logits of one exit, [N, K], with nothing computed that it does not need."""
        last, x = EXITS.index(name), self.stem(images)
        for i in range(last + 1):
            x = self.get_submodule(f"stages{i}")(x)
        return self._classify(x, last)

    def _classify(self, x: Tensor, i: int) -> Tensor:
        """What the exit after stage `i` says about that stage's feature map."""
        if EXITS[i] == "final":
            return self.head(self.norm(x))
        return self.get_submodule(f"middle_fc{i}")(self.get_submodule(f"bottleneck{i}_1")(x))


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The student's weights as those of a plain ResNetV2-50: `timm.create_model("resnetv2_50x1_bit")` loads them.

    The early exits are left out. Today's full name of that network is `resnetv2_50x1_bit.goog_distilled_in1k`, and
    `resnetv2_50x1_bitm` an older one; all are `timm.models.resnetv2.ResNetV2`.
    """
    kept = {key: value for key, value in state.items() if not key.startswith(("bottleneck", "middle_fc"))}
    return {f"stages.{key[6:]}" if key.startswith("stages") else key: value for key, value in kept.items()}
