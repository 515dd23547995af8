"""mdistiller's networks against the figures of the published ones."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from common.models import Features, Network, create_model, list_models
from common.models.cifar_wrn import WideResNet
from tests.golden import conformance, conformance_names, golden_fill
from tests.material import shared_or_skip
from tests.models.conformance_checks import check_layout, check_outputs, count_macs, has_outputs

FIGURES = {name: conformance(name) for name in conformance_names("models/mdistiller__*.json")}
WITH_OUTPUTS = {path: figures for path, figures in FIGURES.items() if has_outputs(figures)}


def build(figures: dict) -> Network:
    return create_model(figures["name"], figures["num_classes"], family="mdistiller")


def published_feature(name: str, features: Features) -> Tensor:
    """`feats[i]`, `preact_feats[i]` or `pooled_feat`."""
    if name == "pooled_feat":
        return features.pooled
    which, _, index = name.rstrip("]").partition("[")
    return {"feats": features.stages, "preact_feats": features.preact}[which][int(index)]


def published_feature_4d(name: str, features: Features) -> Tensor:
    """The same where the published embedding keeps its two axes of length 1."""
    return features.pooled[:, :, None, None] if name == "pooled_feat" else published_feature(name, features)


def test_every_published_name_resolves() -> None:
    published = conformance("params.json")["edkd_model_names"]
    expected = {*published["cifar"], *(f"tinyimagenet_{name}" for name in published["tiny_imagenet"])}
    expected |= {figures["name"] for figures in FIGURES.values()}  # the ImageNet registry
    assert set(list_models("mdistiller")) == expected


@pytest.mark.parametrize("figures", FIGURES.values(), ids=FIGURES)
def test_layout_and_size(figures: dict) -> None:
    with torch.device("meta"):
        model = build(figures)
    check_layout(model, figures)
    assert count_macs(model, figures["input_shape"]) == figures["multiply_adds"]


@pytest.mark.slow
@pytest.mark.parametrize("figures", WITH_OUTPUTS.values(), ids=WITH_OUTPUTS)
def test_outputs(figures: dict) -> None:
    embedding_is_4d = figures["name"] == "tinyimagenet_MobileNetV2"
    check_outputs(build(figures), figures, published_feature_4d if embedding_is_4d else published_feature)


def test_outputs_of_shufflenet_v1() -> None:
    """Its own file pins the layout only and names MTKD-RL's net as identical."""
    assert FIGURES["models/mdistiller__ShuffleV1.json"]["identical_to"] == ["mtkd_rl/ShuffleV1"]
    figures = conformance("models/mtkd_rl__ShuffleV1.json")
    names = {"preact[4]": "pooled_feat", "feats[4]": "pooled_feat"}

    def lookup(name: str, features: Features) -> Tensor:
        return published_feature(names.get(name, name.replace("preact", "preact_feats")), features)

    check_outputs(create_model("ShuffleV1", 100, family="mdistiller"), figures, lookup)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_imagenet_resnet_is_torchvision(depth: int) -> None:
    """The same weights under the same names give torchvision's logits."""
    model = golden_fill(create_model(f"imagenet_ResNet{depth}", 10, family="mdistiller")).eval()
    reference = getattr(torchvision.models, f"resnet{depth}")(num_classes=10).double().eval()
    reference.load_state_dict(model.state_dict(), strict=True)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), reference(images), rtol=1e-9, atol=0)


@pytest.mark.parametrize("figures", FIGURES.values(), ids=FIGURES)
def test_stage_channels(figures: dict) -> None:
    """As published; the true channels where the published answer is missing or fails."""
    with torch.device("meta"):
        model = build(figures)
        _, features = model.forward_with_features(torch.empty(figures["input_shape"]))
    true_channels = [x.shape[1] for x in features.stages]
    assert model.get_stage_channels() == (figures["stage_channels"] or true_channels)


@pytest.mark.parametrize(
    ("name", "norms"),
    [
        ("resnet20", ["layer1.2.bn2", "layer2.2.bn2", "layer3.2.bn2"]),
        ("wrn_16_2", ["block2.layer.0.bn1", "block3.layer.0.bn1", "bn1"]),
        ("vgg13", ["block1.4", "block2.4", "block3.4", "block4.4"]),
        ("MobileNetV2", ["blocks.1.1.conv.7", "blocks.2.2.conv.7", "blocks.4.2.conv.7", "blocks.6.0.conv.7"]),
        ("ResNet18", ["layer1.1.bn2", "layer2.1.bn2", "layer3.1.bn2", "layer4.1.bn2"]),
        ("ResNet50", ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
        ("imagenet_ResNet34", ["layer1.2.bn2", "layer2.3.bn2", "layer3.5.bn2", "layer4.2.bn2"]),
        ("imagenet_ResNet50", ["layer1.2.bn3", "layer2.3.bn3", "layer3.5.bn3", "layer4.2.bn3"]),
        ("imagenet_MobileNetV1", ["model.3.4", "model.5.4", "model.11.4", "model.13.4"]),
    ],
)
def test_norms_before_relu(name: str, norms: list[str]) -> None:
    with torch.device("meta"):
        model = create_model(name, family="mdistiller")
    modules = dict(model.named_modules())
    assert all(isinstance(modules[norm], nn.BatchNorm2d) for norm in norms)
    for got, norm in zip(model.get_bn_before_relu(), norms, strict=True):
        assert got is modules[norm]


@pytest.mark.parametrize("name", ["ShuffleV1", "ShuffleV2"])
def test_shufflenets_name_no_norms(name: str) -> None:
    with pytest.raises(NotImplementedError):
        create_model(name, family="mdistiller").get_bn_before_relu()


def test_wide_resnet_statistics_take_a_batch_twice() -> None:
    """As if the norms that `preact` shows were applied a second time in each training pass."""
    twice, once = create_model("wrn_16_2", family="mdistiller"), WideResNet(16, 2)
    golden_fill(twice)
    golden_fill(once)
    inputs: dict[nn.Module, Tensor] = {}
    for norm in once.get_bn_before_relu():
        norm.register_forward_pre_hook(lambda module, args: inputs.__setitem__(module, args[0]))
    random = torch.Generator().manual_seed(0)
    for step in range(3):
        images = torch.randn(4, 3, 32, 32, generator=random, dtype=torch.float64)
        assert torch.equal(twice(images) if step else twice.forward_with_features(images)[0], once(images))
        for norm, x in list(inputs.items()):
            norm(x)
    for key, want in once.state_dict().items():
        torch.testing.assert_close(twice.state_dict()[key], want, rtol=1e-12, atol=1e-14)
    assert twice.bn1.num_batches_tracked == 6
    twice.eval()(images)
    assert twice.bn1.num_batches_tracked == 6


CHECKPOINTS = {
    "FromZero0000+RDaMKD/output/ckpt/resnet56_resnet20.ckpt": "resnet20",
    "FromZero0000+RDaMKD/output/ckpt/wrn_40_2_wrn_16_2.ckpt": "wrn_16_2",
    "FromZero0000+RDaMKD/output/ckpt/vgg13_mobilenetv2.ckpt": "MobileNetV2",
    "FromZero0000+RDaMKD/output/ckpt/resnet32x4_shufflev1.ckpt": "ShuffleV1",
    "kennysH+Gap-KD/save/main_experiments/cifar100/TA/resnet20/resnet20_best.pth": "resnet20",
    "kennysH+Gap-KD/save/main_experiments/cifar100/Student/sota_resnet8/resnet8_best.pth": "resnet8",
    "kennysH+Gap-KD/save/main_experiments/cifar100/Student/sota_resnet8/ckpt_epoch_240.pth": "resnet8",
    "Ronzoro+GR-strategy/GR_weight/KD_ShuffleV1_s2_best.pth": "ShuffleV1",
    "sensitive-bx+MDHSD-main/save/models/resnet56_cifar100/cifar100_resnet56-f2eff4c8.pt": "resnet56",
}


@pytest.mark.parametrize(("path", "name"), CHECKPOINTS.items())
def test_trained_checkpoints_load(path: str, name: str) -> None:
    """Weights that other people trained with the published code load by name, all of them."""
    content = torch.load(shared_or_skip(f"checkpoints/{path}"), map_location="cpu", weights_only=True)
    model = create_model(name, family="mdistiller")
    model.load_state_dict(content.get("model", content), strict=True)
    assert model.eval()(torch.zeros(1, 3, 32, 32)).isfinite().all()
