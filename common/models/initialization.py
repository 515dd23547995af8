"""Weight initialization that several architectures share."""

from __future__ import annotations

from torch import nn


def init_convs_by_fan_out(network: nn.Module) -> None:
    """Draw every convolution from N(0, 2 / (k^2 C_out)) (He et al. 2015, fan-out mode) and set its bias to zero."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
