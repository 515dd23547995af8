"""MobileNetV2 at half its width."""

from common.models.cifar_mobilenet_v2 import InvertedResidual, MobileNetV2
from edkd.models.tables import builders

__all__ = ["InvertedResidual", "MobileNetV2", "mobile_half"]

(mobile_half,) = builders("MobileNetV2")
