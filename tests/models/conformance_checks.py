"""Checks of one network against its conformance figures (tests/conformance/models/README.md)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from common.models import Features, Network
from tests.golden import golden_fill, golden_input

TOLERANCE = 1e-8  # the figures' own, in float64

FeatureLookup = Callable[[str, Features], Tensor]


def check_layout(model: nn.Module, figures: dict) -> None:
    """Same checkpoint keys and shapes in the same order, same number of trainable parameters. A meta model will do."""
    layout = [[key, list(value.shape)] for key, value in model.state_dict().items()]
    assert layout == figures["state_dict"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == figures["params"]


def count_macs(model: nn.Module, shape: list[int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image at the spatial size of `shape`.

    Runs on the meta device: nothing is computed, the model stays as it is. The count is taken in evaluation mode.
    """
    training = model.training
    model.eval()
    try:
        state = {key: value.to("meta") for key, value in model.state_dict().items()}
        with FlopCounterMode(display=False) as counter:
            torch.func.functional_call(model, state, torch.empty(1, *shape[1:], device="meta", dtype=_dtype(model)))
    finally:
        model.train(training)
    return counter.get_total_flops() // 2  # a multiplication and an addition


def check_outputs(model: Network, figures: dict, feature_lookup: FeatureLookup) -> None:
    """Logits and feature maps on the golden weights and input, in evaluation and in training mode.

    Fills the model in place, in float64; dropout is switched off for good, as it was for the figures. Files that
    carry a `note` instead of outputs pin nothing here: select by `has_outputs`.

    Args:
        feature_lookup: the map that the figures call by this name, given what `forward_with_features` returned.
    """
    golden_fill(model)
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    images = golden_input(figures["input_shape"])
    for mode in ("eval", "train"):  # in this order: training moves the running statistics, and reads none
        model.train(mode == "train")
        with torch.no_grad():
            logits, features = model.forward_with_features(images)
        _check_logits(logits, figures[mode], where=mode)
        for want in figures[mode].get("features", []):
            _check_map(feature_lookup(want["name"], features), want, where=f"{mode} {want['name']}")


def has_outputs(figures: dict) -> bool:
    """Whether a file holds computed figures, and not the layout only."""
    return "eval" in figures


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


def _check_logits(logits: Tensor, want: dict, where: str) -> None:
    scale = want["logits_abs_mean"]
    _check_close(logits.sum().item(), want["logits_sum"], scale * logits.numel(), f"{where} logits_sum")
    _check_close(logits.abs().mean().item(), scale, scale, f"{where} logits_abs_mean")
    for key, values in (("logits_row0_first8", logits[0, :8]), ("logits_row1_last8", logits[1, -8:])):
        for got, value in zip(values.tolist(), want[key], strict=True):
            _check_close(got, value, scale, f"{where} {key}")


def _check_map(got: Tensor, want: dict, where: str) -> None:
    assert list(got.shape) == want["shape"], f"{where}: shape {list(got.shape)}, figures say {want['shape']}"
    _check_close(got.mean().item(), want["mean"], want["abs_mean"], f"{where} mean")
    _check_close(got.abs().mean().item(), want["abs_mean"], 0.0, f"{where} abs_mean")
    _check_close(got.square().sum().sqrt().item(), want["l2"], 0.0, f"{where} l2")


def _check_close(got: float, want: float, scale: float, where: str) -> None:
    assert abs(got - want) <= TOLERANCE * max(abs(want), scale), f"{where}: {got!r}, figures say {want!r}"
