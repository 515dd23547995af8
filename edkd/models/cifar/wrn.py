"""Wide ResNets."""

from common.models.cifar_mdistiller import WideResNet
from edkd.models.tables import builders

__all__ = ["WideResNet", "wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2"]

wrn_16_1, wrn_16_2, wrn_40_1, wrn_40_2 = builders("wrn_16_1", "wrn_16_2", "wrn_40_1", "wrn_40_2")
