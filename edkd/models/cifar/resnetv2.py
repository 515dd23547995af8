"""ResNets of four stages."""

from common.models.cifar_mdistiller import BasicBlock, Bottleneck, ResNet
from edkd.models.tables import builders

__all__ = ["BasicBlock", "Bottleneck", "ResNet", "ResNet18", "ResNet50"]

ResNet18, ResNet50 = builders("ResNet18", "ResNet50")
