"""The optimizers of `SOLVER`."""

from __future__ import annotations

import torch
from torch import nn

from edkd.engine.dot import DOT
from edkd.engine.node import Node


def make_optimizer(cfg: Node, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD with momentum; for the dot trainers DOT, which splits the momentum."""
    lr, momentum, decay = cfg.SOLVER.LR, cfg.SOLVER.MOMENTUM, cfg.SOLVER.WEIGHT_DECAY
    if "dot" in cfg.SOLVER.TRAINER:
        delta = cfg.SOLVER.DOT.DELTA
        return DOT(parameters, lr, momentum - delta, momentum + delta, decay)
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, weight_decay=decay)
