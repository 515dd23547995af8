"""The two-momentum optimizer alone, against the published implementation's figures."""

import numpy as np
import pytest
import torch

from edkd.engine.dot import DOT
from tests.golden import conformance

CASES = conformance("trajectories/dot_optimizer.json")["cases"]


def normal(seed: int, shape: list[int]) -> torch.Tensor:
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape))


@pytest.mark.parametrize("interrupted", [False, True], ids=["uninterrupted", "restored each step"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_steps(case, interrupted):
    seed, shapes = case["seed"], case["shapes"]
    parameters = [torch.nn.Parameter(normal(seed + i, shape)) for i, shape in enumerate(shapes)]
    options = {key: case[key] for key in ("lr", "momentum", "momentum_kd", "weight_decay")}
    optimizer = DOT(parameters, **options)
    for k, expected in enumerate(case["after_each_step"]):
        gradients = {
            loss: [normal(seed + 100 * (k + 1) + offset + i, shape) for i, shape in enumerate(shapes)]
            for loss, offset in (("kd", 0), ("task", 50))
        }
        for loss in ("kd", "task"):
            for p, reached, gradient in zip(parameters, case["gradients"], gradients[loss], strict=True):
                p.grad = gradient if reached in (loss, "both") else None
            if loss == "kd":
                optimizer.take_distillation_gradients()
        optimizer.step()
        for p, figures in zip(parameters, expected, strict=True):
            assert p.flatten()[0].item() == pytest.approx(figures["first"], rel=1e-9)
            assert p.sum().item() == pytest.approx(figures["sum"], rel=1e-9)
            assert p.norm().item() == pytest.approx(figures["l2"], rel=1e-9)
        if interrupted:
            state = optimizer.state_dict()
            optimizer = DOT(parameters, **options)
            optimizer.load_state_dict(state)
