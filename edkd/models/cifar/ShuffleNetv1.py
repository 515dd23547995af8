"""ShuffleNet."""

from common.models.cifar_shufflenet_v1 import ShuffleNet
from edkd.models.tables import builders

__all__ = ["ShuffleNet", "ShuffleV1"]

(ShuffleV1,) = builders("ShuffleV1")
