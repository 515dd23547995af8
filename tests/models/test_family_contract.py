"""What every network of the families `mtkd_rl` and `mdistiller` promises, beside its published figures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from common.models import FAMILIES, Network, create_model, list_models
from common.models.folding import fold_batch_norm

ALL = [(family, name) for family in ("mtkd_rl", "mdistiller") for name in list_models(family)]
# One of each architecture, small where there is a choice.
ARCHITECTURES = [
    ("mtkd_rl", "MobileNetV2"),
    ("mtkd_rl", "RegNetX_200MF"),
    pytest.param("mtkd_rl", "RegNetY_400MF", marks=pytest.mark.slow),
    ("mtkd_rl", "ShuffleV1"),
    ("mtkd_rl", "ShuffleV2_0_5"),
    ("mtkd_rl", "wrn_10_1"),
    ("mdistiller", "ShuffleV2"),
    ("mdistiller", "ResNet18"),
    ("mdistiller", "imagenet_MobileNetV1"),
    ("mdistiller", "imagenet_ResNet18"),
    ("mdistiller", "resnet8x4"),
    ("mdistiller", "tinyimagenet_MobileNetV2"),
    ("mdistiller", "vgg8"),
    ("mdistiller", "wrn_16_1"),
]


def image_size(name: str) -> int:
    return {"imagenet": 224, "tinyimagenet": 64}.get(name.partition("_")[0], 32)


def small_images(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def with_moved_statistics(model: Network) -> Network:
    """In evaluation mode, with running statistics that are not the initial ones."""
    with torch.no_grad():
        model.train()(small_images(8))
    return model.eval()


def test_modules_say_what_images_their_networks_are_for() -> None:
    builders = [builder for family in FAMILIES.values() for builder in family.values()]
    modules = {getattr(builder, "func", builder).__module__ for builder in builders}
    assert not [
        module for module in modules if not module.startswith(("common.models.cifar_", "common.models.imagenet_"))
    ]


@pytest.mark.parametrize(("family", "name"), ALL)
def test_shapes(family: str, name: str) -> None:
    """The class count is honored; logits, embedding and every stage have the promised axes; stages shrink."""
    size = image_size(name)
    with torch.device("meta"):
        model = create_model(name, num_classes=7, family=family)
        images = torch.empty(2, 3, size, size)
        logits, features = model.forward_with_features(images)
        assert model(images).shape == logits.shape == (2, 7)
    assert features.pooled.dim() == 2
    assert len(features.stages) == len(features.preact)
    sizes = [x.shape[-1] for x in features.stages]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("family", "name"), ALL)
def test_fx_traceable(family: str, name: str) -> None:
    size = image_size(name)
    with torch.device("meta"):
        model = create_model(name, family=family).eval()
        assert torch.fx.symbolic_trace(model)(torch.empty(2, 3, size, size)).shape == (2, 100)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), ARCHITECTURES)
def test_folded_for_inference(family: str, name: str) -> None:
    """The graph that folding leaves computes the same logits, also where the image size decides (VGG)."""
    model = with_moved_statistics(create_model(name, 10, family=family)).double()
    images = small_images().double()
    with torch.no_grad():
        folded = fold_batch_norm(model)
        for x in (images, images[:, :, :32, :32]):
            torch.testing.assert_close(folded(x), model(x), rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "name"), ARCHITECTURES)
def test_channels_last_in_one_graph(family: str, name: str) -> None:
    """Channels-last images keep their layout through every stage; the compiler takes the net as one graph."""
    model = with_moved_statistics(create_model(name, 10, family=family))
    images = small_images()
    with torch.no_grad():
        want = model(images)
        model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
        logits, features = model.forward_with_features(images)
        torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-4)
        assert all(x.is_contiguous(memory_format=torch.channels_last) for x in features.stages)
        torch.compiler.reset()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(images), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "name"), ARCHITECTURES)
def test_every_parameter_learns(family: str, name: str) -> None:
    """The loss and every feature can be differentiated at once: no tensor that is shown was changed in place."""
    model = create_model(name, 10, family=family)
    logits, features = model.forward_with_features(small_images())
    shown = sum(x.square().mean() for x in (*features.stages, *features.preact))
    (F.cross_entropy(logits, torch.tensor([1, 5])) + shown).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "key", "fan_out"),
    [
        ("resnet32x4", "layer3.4.conv2.weight", 9 * 256),
        ("wrn_40_2", "block3.layer.5.conv2.weight", 9 * 128),
        ("vgg8", "block4.0.weight", 9 * 512),
        ("MobileNetV2", "blocks.5.2.conv.3.weight", 9 * 480),
        ("ResNet18", "layer4.1.conv2.weight", 9 * 512),
        ("imagenet_ResNet18", "layer4.1.conv2.weight", 9 * 512),
    ],
)
def test_starts_by_fan_out_as_published(name: str, key: str, fan_out: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, family="mdistiller")
    assert model.get_parameter(key).std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize(("name", "classifier"), [("vgg8", "classifier"), ("MobileNetV2", "classifier.0")])
def test_small_classifier_start_as_published(name: str, classifier: str) -> None:
    torch.manual_seed(0)
    linear = create_model(name, family="mdistiller").get_submodule(classifier)
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not linear.bias.any()
