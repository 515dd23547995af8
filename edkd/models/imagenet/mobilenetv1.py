"""MobileNet."""

from common.models.imagenet_mobilenet_v1 import MobileNetV1

__all__ = ["MobileNetV1"]
