"""ShuffleNetV2."""

from common.models.cifar_shufflenet_v2 import ShuffleNetV2
from edkd.models.tables import builders

__all__ = ["ShuffleNetV2", "ShuffleV2"]

(ShuffleV2,) = builders("ShuffleV2")
