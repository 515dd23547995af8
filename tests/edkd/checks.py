"""What the tests of this paper share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import nn

from edkd.engine.cfg import CFG
from edkd.engine.node import Node
from tests.golden import golden_array


def assert_gradient(value: torch.Tensor, inputs: Sequence[torch.Tensor], figures: dict, rel: float = 1e-9) -> None:
    """Compare the gradient of `value` with a case's figures, over all `inputs`."""
    grads = torch.autograd.grad(value, inputs, allow_unused=True)
    flat = torch.cat(
        [torch.zeros_like(x).flatten() if g is None else g.flatten() for g, x in zip(grads, inputs, strict=True)]
    )
    assert flat.norm().item() == pytest.approx(figures["grad_student_l2"], rel=rel)
    scale = max(map(abs, figures["grad_student_first4"]))
    assert flat[:4].tolist() == pytest.approx(figures["grad_student_first4"], rel=rel, abs=rel * scale)


def fill_named(module: nn.Module, names: Mapping[str, list[int]], leave: Sequence[str] = ()) -> nn.Module:
    """Fill the entries of a module's state that `names` lists (name -> shape) by the figures' rule, in float64."""
    module.double()
    state = module.state_dict()
    for name, shape in names.items():
        assert list(state[name].shape) == shape, name
        if name not in leave:
            state[name].copy_(torch.from_numpy(golden_array(name, shape)))
    return module


def contrast_indices(inputs: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """`index` and `contrast_index` of a CRD case."""
    spec, negatives = inputs["index"], inputs["contrast_index"]
    index = np.random.RandomState(spec["permutation_seed"]).permutation(spec["of"])[: spec["take_first"]]
    contrast_index = np.random.RandomState(negatives["seed"]).randint(0, negatives["classes"], negatives["shape"])
    contrast_index[:, 0] = index
    return torch.from_numpy(index), torch.from_numpy(contrast_index)


def trajectory_configuration(case: dict) -> Node:
    """The configuration of a case of `trajectories/edkd.json`, which has DOT's momenta instead of their difference."""
    solver = {**case["solver"], "TRAINER": case["trainer"]}
    if case["trainer"] == "dot":
        solver["DOT"] = {"DELTA": case["optimizer"]["momentum_kd"] - case["solver"]["MOMENTUM"]}
    return configuration(case["distiller"], case["hyper"], **solver)


def configuration(distiller: str, hyper: dict | None = None, **solver: object) -> Node:
    """A configuration with a case's hyperparameters.

    Args:
        distiller: `DISTILLER.TYPE`.
        hyper: values of its section.
        solver: values of `SOLVER`.
    """
    cfg = CFG.clone()
    cfg.DISTILLER.TYPE = distiller
    content = {"SOLVER": solver, **({distiller: hyper} if hyper else {})}
    if distiller in ("FITNET", "VID"):  # the figures were taken with undisturbed statistics
        content[distiller] = {**content.get(distiller, {}), "PROBE_IN_TRAIN_MODE": False}
    cfg._merge(content, [], "")
    return cfg


# hyperparameters that the narrow networks of tests need
SMALL = {
    "CRD": {"FEAT": {"STUDENT_DIM": 64, "TEACHER_DIM": 64}, "NCE": {"K": 8}},
    "REVIEWKD": {"IN_CHANNELS": [16, 32, 64, 64], "OUT_CHANNELS": [16, 32, 64, 64]},
}
