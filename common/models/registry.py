"""Published names to networks. The same word can mean different networks in different papers, hence the families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from common.command_line import nearest
from common.errors import UserError
from common.models import (
    cifar_alexnet,
    cifar_densenet,
    cifar_googlenet,
    cifar_mdistiller,
    cifar_mobilenet_v2,
    cifar_mobilenet_v2_tfkd,
    cifar_plain_cnn,
    cifar_regnet,
    cifar_resnet,
    cifar_resnet_tfkd,
    cifar_resnext,
    cifar_shufflenet_v1,
    cifar_shufflenet_v2,
    cifar_shufflenet_v2_tfkd,
    cifar_vgg,
    cifar_wrn,
    imagenet_mobilenet_v1,
    imagenet_resnet,
    imagenet_vgg,
)
from common.models.network import Network

Builder = Callable[..., Network]
"""Takes `num_classes`, and what single architectures take besides."""

_TFKD: dict[str, Builder] = {
    "alexnet": cifar_alexnet.AlexNet,
    "cnn": cifar_plain_cnn.PlainCNN,
    "densenet121": cifar_densenet.densenet121,
    "googlenet": cifar_googlenet.GoogLeNet,
    "mobilenet_v2": cifar_mobilenet_v2_tfkd.MobileNetV2,
    "resnet18": cifar_resnet_tfkd.resnet18,
    "resnet50": cifar_resnet_tfkd.resnet50,
    "resnet101": cifar_resnet_tfkd.resnet101,
    "resnet152": cifar_resnet_tfkd.resnet152,
    "resnext29": cifar_resnext.resnext29,
    "shufflenet_v2": cifar_shufflenet_v2_tfkd.ShuffleNetV2,
    "vgg19": imagenet_vgg.vgg19,
}

# the same networks in MTKD-RL and mdistiller
_IN_BOTH: dict[str, Builder] = {
    "resnet8": cifar_resnet.resnet8,
    "resnet14": cifar_resnet.resnet14,
    "resnet20": cifar_resnet.resnet20,
    "resnet32": cifar_resnet.resnet32,
    "resnet44": cifar_resnet.resnet44,
    "resnet56": cifar_resnet.resnet56,
    "resnet110": cifar_resnet.resnet110,
    "resnet8x4": cifar_resnet.resnet8x4,
    "resnet32x4": cifar_resnet.resnet32x4,
    "vgg8": cifar_vgg.vgg8,
    "vgg11": cifar_vgg.vgg11,
    "vgg13": cifar_vgg.vgg13,
    "vgg16": cifar_vgg.vgg16,
    "vgg19": cifar_vgg.vgg19,
    "ShuffleV1": cifar_shufflenet_v1.ShuffleNet,
}

_MTKD_RL: dict[str, Builder] = {
    **_IN_BOTH,
    "resnet8x4_double": cifar_resnet.resnet8x4_double,
    "resnet110x2": cifar_resnet.resnet110x2,
    "resnet20x4": cifar_resnet.resnet20x4,
    "wrn_10_1": cifar_wrn.mtkd_rl_wrn_10_1,
    "wrn_10_2": cifar_wrn.mtkd_rl_wrn_10_2,
    "wrn_16_1": cifar_wrn.mtkd_rl_wrn_16_1,
    "wrn_16_2": cifar_wrn.mtkd_rl_wrn_16_2,
    "wrn_28_4": cifar_wrn.mtkd_rl_wrn_28_4,
    "wrn_40_1": cifar_wrn.mtkd_rl_wrn_40_1,
    "wrn_40_2": cifar_wrn.mtkd_rl_wrn_40_2,
    "MobileNetV2": cifar_mobilenet_v2.mobilenet_v2_full,
    "ShuffleV2": cifar_shufflenet_v2.mtkd_rl_shuffle_v2,
    "ShuffleV2_0_5": cifar_shufflenet_v2.mtkd_rl_shuffle_v2_half,
    "RegNetX_200MF": cifar_regnet.RegNetX_200MF,
    "RegNetX_400MF": cifar_regnet.RegNetX_400MF,
    "RegNetY_400MF": cifar_regnet.RegNetY_400MF,
}

_MDISTILLER: dict[str, Builder] = {
    **_IN_BOTH,
    "wrn_16_1": cifar_mdistiller.wrn_16_1,
    "wrn_16_2": cifar_mdistiller.wrn_16_2,
    "wrn_40_1": cifar_mdistiller.wrn_40_1,
    "wrn_40_2": cifar_mdistiller.wrn_40_2,
    "MobileNetV2": cifar_mobilenet_v2.mobilenet_v2_half,
    "ShuffleV2": cifar_shufflenet_v2.mdistiller_shuffle_v2,
    "ResNet18": cifar_mdistiller.ResNet18,
    "ResNet50": cifar_mdistiller.ResNet50,
    "tinyimagenet_ResNet18": cifar_mdistiller.ResNet18,
    "tinyimagenet_MobileNetV2": cifar_mdistiller.MobileNetV2,
    "tinyimagenet_ShuffleV2": cifar_shufflenet_v2.mdistiller_shuffle_v2,
    "imagenet_ResNet18": imagenet_resnet.ResNet18,
    "imagenet_ResNet34": imagenet_resnet.ResNet34,
    "imagenet_ResNet50": imagenet_resnet.ResNet50,
    "imagenet_ResNet101": imagenet_resnet.ResNet101,
    "imagenet_MobileNetV1": imagenet_mobilenet_v1.MobileNetV1,
}

FAMILIES: dict[str, dict[str, Builder]] = {"tfkd": _TFKD, "mtkd_rl": _MTKD_RL, "mdistiller": _MDISTILLER}


def list_models(family: str = "mdistiller") -> list[str]:
    """Published model names of a family.

    Raises:
        UserError: unknown family.
    """
    if family not in FAMILIES:
        raise UserError(f"unknown model family '{family}': one of {', '.join(FAMILIES)}")
    return sorted(FAMILIES[family])


def require_model(name: str, family: str) -> None:
    """Raises:
    UserError: unknown family or name; the nearest names are offered.
    """
    names = list_models(family)
    if name not in names:
        hint = nearest(name, names, f"python -m common.models {family}")
        raise UserError(f"unknown model '{name}' in family '{family}': {hint}")


def create_model(name: str, num_classes: int = 100, family: str = "mdistiller", **options: Any) -> Network:
    """A freshly initialized network.

    Args:
        name: published name within the family.
        num_classes: width of the classifier.
        family: one of `FAMILIES`.
        options: what single architectures take besides (`cnn`: `num_channels`, `dropout_rate`).

    Raises:
        UserError: unknown family or name; the nearest names are offered.
    """
    require_model(name, family)
    network = FAMILIES[family][name](num_classes=num_classes, **options)
    network.recipe = {"name": name, "num_classes": num_classes, "family": family, **options}
    return network
