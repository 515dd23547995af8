"""What distillers reach for on mdistiller's networks (tests/conformance/mdistiller_attributes.json)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from common.models import Network, create_model, list_models
from tests.golden import conformance

FAMILIES = conformance("mdistiller_attributes.json")["families"]
NETWORKS = {name: {**family, "own": own} for family in FAMILIES for name, own in family["networks"].items()}
POOLS = [
    (name, pool)
    for name, family in NETWORKS.items()
    for pool in ("avgpool", "avg", "pool4")
    if pool in family["modules"]
]


def build(name: str) -> Network:
    with torch.device("meta"):
        return create_model(name, 10, family="mdistiller")


def image_size(name: str) -> int:
    return {"imagenet": 224, "tinyimagenet": 64}.get(name.partition("_")[0], 32)


def test_every_network_is_listed() -> None:
    assert set(NETWORKS) == set(list_models("mdistiller"))


@pytest.mark.parametrize("name", NETWORKS)
def test_class_names_are_the_published_ones(name: str) -> None:
    assert build(name).__class__.__name__ == NETWORKS[name]["class"]


@pytest.mark.parametrize("name", NETWORKS)
def test_values(name: str) -> None:
    network, family = build(name), NETWORKS[name]
    for attribute, value in {**family["values"], **family["own"]}.items():
        assert getattr(network, attribute) == value, attribute
        assert type(getattr(network, attribute)) is type(value), attribute


@pytest.mark.parametrize("name", NETWORKS)
def test_modules(name: str) -> None:
    """Each is there under its name and of its kind, and those with parameters are direct children in this order."""
    network, family = build(name), NETWORKS[name]
    children = dict(network.named_children())
    for attribute, kind in {**family["layers"], **family["modules"]}.items():
        kinds = (nn.AvgPool2d, nn.AdaptiveAvgPool2d) if kind == "average pooling" else getattr(nn, kind)
        assert isinstance(children[attribute], kinds), attribute
    with_parameters = [child for child, module in children.items() if any(True for _ in module.parameters())]
    assert with_parameters == list(family["layers"])


@pytest.mark.parametrize("name", NETWORKS)
def test_feat_modules(name: str) -> None:
    """As published; the networks that have no such method there answer with their own modules, too."""
    network = build(name)
    modules = network.get_feat_modules()
    assert isinstance(modules, nn.ModuleList)
    listed = NETWORKS[name].get("feat_modules")
    if listed is not None:
        assert len(modules) == len(listed)
        assert all(module is getattr(network, child) for module, child in zip(modules, listed, strict=True))
    children = [id(child) for child in network.children()]
    places = [children.index(id(module)) for module in modules]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", NETWORKS)
def test_stage_channels_are_handed_out_as_a_copy(name: str) -> None:
    network = build(name)
    network.get_stage_channels().append(7)
    assert network.get_stage_channels() == network.stage_channels
    assert 7 not in network.stage_channels


@pytest.mark.parametrize("name", [name for name, family in NETWORKS.items() if "norms" in family])
def test_norms_before_relu(name: str) -> None:
    network, count = build(name), NETWORKS[name]["norms"]
    if count is None:
        with pytest.raises(NotImplementedError):
            network.get_bn_before_relu()
    else:
        assert [type(norm) for norm in network.get_bn_before_relu()] == [nn.BatchNorm2d] * count


@pytest.mark.parametrize(("name", "pool"), POOLS)
def test_the_pooling_module_is_what_pools(name: str, pool: str) -> None:
    """It sees the last map and gives the embedding, so that hooks on it and calls of it mean what they mean there."""
    network, seen = build(name), []
    getattr(network, pool).register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    size = image_size(name)
    _, features = network.forward_with_features(torch.empty(2, 3, size, size, device="meta"))
    ((last, pooled),) = seen
    assert last.dim() == 4
    assert pooled.shape == (*last.shape[:2], 1, 1) == (*features.pooled.shape, 1, 1)


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_1", "imagenet_ResNet18"])
def test_the_relu_module_is_used(name: str) -> None:
    network, calls = build(name), []
    network.relu.register_forward_hook(lambda *_: calls.append(1))
    network(torch.empty(2, 3, 32, 32, device="meta"))
    assert calls == [1]


def test_a_students_map_through_the_teachers_head() -> None:
    """SRRL: the teacher's pooling and classifier read a map of the student."""
    teacher = create_model("resnet8x4", 10, family="mdistiller").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, features = teacher.forward_with_features(images)
        assert torch.equal(teacher.fc(teacher.avgpool(features.stages[-1]).view(2, -1)), logits)


@pytest.mark.parametrize(("idx", "stage"), [(-1, 4), (-2, 3), (-3, 2)])
def test_encode(idx: int, stage: int) -> None:
    """A map before its activation through one of the last stages of ResNet18 and ResNet50."""
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network = create_model("ResNet18", 10, family="mdistiller").eval()
    with torch.no_grad():
        _, features = network.forward_with_features(images)
        assert torch.equal(network.encode(features.preact[stage - 1], idx), features.preact[stage])
        assert torch.equal(network.encode(features.preact[stage - 1], idx, preact=True), features.preact[stage])
    with pytest.raises(NotImplementedError):
        network.encode(features.preact[0], 0)


@pytest.mark.parametrize(
    ("name", "classifier", "size"), [("ResNet50", "linear", 2048 * 16), ("MobileNetV2", "classifier", 1280 * 4)]
)
def test_without_its_average_a_network_classifies_the_whole_map(name: str, classifier: str, size: int) -> None:
    network = build(name)
    network.remove_avg = True
    with torch.device("meta"):
        setattr(network, classifier, nn.Linear(size, 10))
        logits, features = network.forward_with_features(torch.empty(2, 3, 32, 32))
    assert (logits.shape, features.pooled.shape) == ((2, 10), (2, size))
