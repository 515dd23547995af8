"""ResNets for ImageNet, under torchvision's names."""

import functools

from common.models.imagenet_resnet import Bottleneck, ResNet
from edkd.models.tables import builders

__all__ = ["Bottleneck", "ResNet", "resnet18", "resnet34", "resnet50", "resnet101"]

resnet18, resnet34, resnet50, resnet101 = (
    functools.partial(build, num_classes=1000)
    for build in builders("imagenet_ResNet18", "imagenet_ResNet34", "imagenet_ResNet50", "imagenet_ResNet101")
)
