"""`--plain` is free to change at `--resume`: what a distiller keeps is the same in fast and in plain mode."""

import pytest
import torch

from common.models import create_model
from common.training.fast_path import apply_fast_path
from common.training.layouts import CHANNELS_LAST
from common.training.runtime import Runtime
from edkd.distillers import distiller_dict
from edkd.engine.method import make_method
from tests.edkd.checks import SMALL, configuration

CPU = Runtime(torch.device("cpu"))


def built(kind: str, *, fast: bool):
    cfg = configuration(kind, SMALL.get(kind, {}), TRAINER="crd" if kind == "CRD" else "base")
    method = make_method(cfg, create_model("resnet8"), create_model("resnet14"), torch.arange(40) % 2, CPU)
    if fast:
        apply_fast_path(method, CHANNELS_LAST, CPU)
    return method


@pytest.mark.slow
@pytest.mark.parametrize("kind", distiller_dict)
def test_what_one_saves_the_other_takes(kind):
    fast, plain = built(kind, fast=True), built(kind, fast=False)
    for one, other in ((fast, plain), (plain, fast)):
        state, messages = one.get_extra_state(), list(other.messages)
        assert not state["values"], "nothing has changed since the constructor"
        other.set_extra_state(state)
        assert other.messages == messages, "something starts again"


def test_attributes_of_batch_norm_in_earlier_checkpoints_are_passed_over():
    """Fast runs used to save them."""
    method = built("OFD", fast=False)
    state, messages = method.get_extra_state(), list(method.messages)
    state["values"]["connectors.connectors.0.1.eps"] = 1e-5
    method.set_extra_state(state)
    assert method.messages == messages
    state["values"]["nowhere.eps"] = 1e-5
    method.set_extra_state(state)
    assert method.messages[-1] == "OFD.nowhere.eps (made in training) is not part of checkpoints: it starts again"
