"""VGGs, with batch norm as their published names say."""

from common.models.cifar_vgg import VGG
from edkd.models.tables import builders

__all__ = ["VGG", "vgg8_bn", "vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]

vgg8_bn, vgg11_bn, vgg13_bn, vgg16_bn, vgg19_bn = builders("vgg8", "vgg11", "vgg13", "vgg16", "vgg19")
