"""Tf-KD's networks against the figures of the published ones, and what every one of them promises besides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.models import Features, Network, create_model, list_models
from common.models.cifar_googlenet import Inception
from tests.golden import conformance, conformance_names
from tests.models.conformance_checks import check_layout, check_outputs, count_macs, has_outputs

FIGURES = {name: conformance(name) for name in conformance_names("models/tfkd__*.json")}
SLOW = {"resnet101", "resnet152", "resnext29", "vgg19"}
NAMES = list_models("tfkd")
LIGHT = [name for name in NAMES if name not in SLOW]


def outputs_param(path: str) -> object:
    return pytest.param(FIGURES[path], id=path, marks=[pytest.mark.slow] if FIGURES[path]["name"] in SLOW else [])


def build(figures: dict) -> Network:
    return create_model(figures["name"], figures["num_classes"], family="tfkd")


@pytest.mark.parametrize("figures", FIGURES.values(), ids=FIGURES)
def test_layout_and_size(figures: dict) -> None:
    with torch.device("meta"):
        model = build(figures)
    check_layout(model, figures)
    assert count_macs(model, figures["input_shape"]) == figures["multiply_adds"]


# Maps whose module, here, ends before the activation that it has in the published net: index among the stages.
ACTIVATED_OUTSIDE = {
    "googlenet": {"module:prelayer": 0},
    "mobilenet_v2": {"module:pre": 0, "module:conv1": 4},
    "shufflenet_v2": {"module:conv5": 4},
}


class ModuleOutputs:
    """Finds a figure's map: what the named submodule returned, a stage, or the classifier's input."""

    def __init__(self, model: Network, figures: dict) -> None:
        self.name = figures["name"]
        self.outputs: dict[str, Tensor] = {}
        wanted = {map_["name"] for map_ in figures["eval"]["features"]}
        for name, module in model.named_modules():
            if f"module:{name}" in wanted:
                module.register_forward_hook(self._keep(f"module:{name}"))

    def _keep(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple[Tensor, Tensor]) -> None:
            after = output[0] if isinstance(output, tuple) else output  # a Stage returns both sides of its ReLU
            # an Inception unit leaves its ReLU to the net; the clone is of the map as it is now
            self.outputs[name] = after.relu() if isinstance(module, Inception) else after.clone()

        return hook

    def __call__(self, name: str, features: Features) -> Tensor:
        if name == "pooled":  # mobilenet_v2's classifier is a convolution
            return features.pooled[:, :, None, None] if self.name == "mobilenet_v2" else features.pooled
        index = ACTIVATED_OUTSIDE.get(self.name, {}).get(name)
        return self.outputs[name] if index is None else features.stages[index]


@pytest.mark.slow
@pytest.mark.parametrize("figures", [outputs_param(path) for path, figures in FIGURES.items() if has_outputs(figures)])
def test_outputs(figures: dict) -> None:
    model = build(figures)
    check_outputs(model, figures, ModuleOutputs(model, figures))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [32, 64])
def test_feature_shapes(name: str, size: int) -> None:
    """Both image sizes pass; the class count is honored; maps shrink from shallow to deep; pooled is a vector."""
    with torch.device("meta"):
        model = create_model(name, num_classes=7, family="tfkd")
        logits, features = model.forward_with_features(torch.empty(2, 3, size, size))
    assert logits.shape == (2, 7)
    assert [x.shape for x in features.stages] == [x.shape for x in features.preact]
    sizes = [x.shape[-1] for x in features.stages]
    assert sizes == sorted(sizes, reverse=True)
    *_, classifier = (m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))
    assert features.pooled.shape == (2, classifier.weight.shape[1])


@pytest.mark.parametrize("name", LIGHT)
def test_activation_separates_stages_from_preact(name: str) -> None:
    """Each stage is its pre-activation map, activated, or the same tensor where there is no activation."""
    model = create_model(name, num_classes=7, family="tfkd")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, features = model.forward_with_features(images)
    activation = F.relu6 if name == "mobilenet_v2" else F.relu
    activated = 0
    for stage, preact in zip(features.stages, features.preact, strict=True):
        if stage is not preact:
            assert preact.min() < 0  # not overwritten in place
            torch.testing.assert_close(stage, activation(preact), rtol=0, atol=0)
            activated += 1
    assert activated >= 1


@pytest.mark.parametrize("name", ["densenet121", "googlenet", "mobilenet_v2", "resnet18", "shufflenet_v2"])
def test_every_parameter_learns(name: str) -> None:
    """The backward pass meets no tensor that was changed in place, and leaves no parameter out."""
    model = create_model(name, num_classes=7, family="tfkd")
    F.cross_entropy(model(torch.randn(2, 3, 32, 32)), torch.tensor([1, 5])).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_fx_traceable(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name, family="tfkd").eval()
        traced = torch.fx.symbolic_trace(model)
        assert traced(torch.empty(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n == "densenet121" else n for n in LIGHT])
def test_channels_last_in_one_graph(name: str) -> None:
    """Channels-last images keep their layout through every stage; the compiler takes the net as one graph."""
    model = create_model(name, family="tfkd").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = model(images)
        model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
        logits, features = model.forward_with_features(images)
        torch.testing.assert_close(logits, want)
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x in features.stages)
        torch.compiler.reset()
        torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(images), want)


def test_plain_cnn_options() -> None:
    model = create_model("cnn", num_classes=10, family="tfkd", num_channels=8, dropout_rate=0.2)
    assert model.fc2.weight.shape == (10, 32)
    assert model.dropout.p == 0.2


def test_googlenet_middle_norm_eps_is_its_width() -> None:
    with torch.device("meta"):
        model = create_model("googlenet", family="tfkd")
    middle = {name: module.eps for name, module in model.named_modules() if name.endswith(".b3.4")}
    assert list(middle.values()) == [32, 96, 48, 64, 64, 64, 128, 128, 128]
    others = {m.eps for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d) and n not in middle}
    assert others == {1e-5}


def test_resnext_starts_as_published() -> None:
    """Kaiming normal, fan out for convolutions and fan in for the classifier, whose bias is zero."""
    model = create_model("resnext29", num_classes=10, family="tfkd")
    assert not model.classifier.bias.any()
    assert model.classifier.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.05)
    grouped = model.stage_3[1].conv_conv.weight  # [2048, 256, 3, 3]
    assert grouped.std().item() == pytest.approx((2 / (2048 * 9)) ** 0.5, rel=0.01)


@pytest.mark.slow
def test_vgg_starts_as_published() -> None:
    model = create_model("vgg19", num_classes=10, family="tfkd")
    assert model.classifier[3].weight.std().item() == pytest.approx(0.01, rel=0.01)
    assert model.features[49].weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert not any(m.bias.any() for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d)))


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        create_model("resnet-18", family="tfkd")
    with pytest.raises(UserError, match="unknown model family"):
        create_model("resnet18", family="tfk")
