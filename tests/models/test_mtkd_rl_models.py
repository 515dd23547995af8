"""MTKD-RL's networks against the figures of the published ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from common.models import Features, Network, create_model, list_models
from tests.golden import conformance, conformance_names
from tests.models.conformance_checks import check_layout, check_outputs, count_macs, has_outputs

FIGURES = {name: conformance(name) for name in conformance_names("models/mtkd_rl__*.json")}
WITH_OUTPUTS = {path: figures for path, figures in FIGURES.items() if has_outputs(figures)}
POLICY_NETWORKS = {"Policy", "PolicyTrans"}  # take no images: they belong to the agent


def build(figures: dict) -> Network:
    """`vgg8_in64` and its like are the net `reference_name` at another image size."""
    name = figures.get("reference_name", figures["name"])
    return create_model(name, figures["num_classes"], family="mtkd_rl")


def published_feature(name: str, features: Features) -> Tensor:
    """`feats[i]` or `preact[i]`, whose last entry is the embedding."""
    which, _, index = name.rstrip("]").partition("[")
    maps = {"feats": features.stages, "preact": features.preact}[which]
    return [*maps, features.pooled][int(index)]


def test_every_published_name_resolves() -> None:
    published = set(conformance("params.json")["mtkd_rl_model_names"])
    assert set(list_models("mtkd_rl")) == published - POLICY_NETWORKS


@pytest.mark.parametrize("figures", FIGURES.values(), ids=FIGURES)
def test_layout_and_size(figures: dict) -> None:
    with torch.device("meta"):
        model = build(figures)
    check_layout(model, figures)
    assert count_macs(model, figures["input_shape"]) == figures["multiply_adds"]


@pytest.mark.slow
@pytest.mark.parametrize("figures", WITH_OUTPUTS.values(), ids=WITH_OUTPUTS)
def test_outputs(figures: dict) -> None:
    check_outputs(build(figures), figures, published_feature)


def test_wide_resnet_statistics_take_a_batch_once() -> None:
    """Showing features, with the final norm's second use, moves the running statistics no more than a plain pass."""
    plain, shown = (create_model("wrn_10_1", family="mtkd_rl") for _ in range(2))
    shown.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    logits = plain(images)
    assert torch.equal(shown.forward_with_features(images)[0], logits)
    for key, value in plain.state_dict().items():
        assert torch.equal(shown.state_dict()[key], value), key
    assert plain.bn1.num_batches_tracked == 1
