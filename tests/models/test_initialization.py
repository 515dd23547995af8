"""Every tensor of every network begins with the published distribution.

The published networks of all papers draw their weights by one of five rules, for convolutions and for the classifier;
norms begin as the identity. A tensor of n entries is held to five standard errors of its mean and of its deviation, a
uniform one to its bounds, and all entries of a network together to the fourth moment of their distribution.
"""

from __future__ import annotations

import dataclasses
import math
from fnmatch import fnmatchcase

import pytest
import torch
from torch import Tensor, nn

from common.models import create_model, list_models
from mlkd.student import MultiResNetV2
from mtkd_rl.methods import Policy

ERRORS = 5.0  # standard errors that a tensor may be off


@dataclasses.dataclass(frozen=True)
class Draw:
    """How entries are drawn: evenly within sqrt(3) deviations, or normally; deviation 0 stands for zeros."""

    std: float
    uniform: bool = False


def pytorch_default(weight: Tensor) -> Draw:
    """Within 1 / sqrt(fan-in) of 0, biases as well."""
    return Draw(1 / math.sqrt(3 * fan_in(weight)), uniform=True)


def fan_out_normal(weight: Tensor) -> Draw:
    """He et al. 2015, by the outgoing connections."""
    return Draw(math.sqrt(2 / (weight.shape[0] * weight[0, 0].numel())))


def fan_in_normal(weight: Tensor) -> Draw:
    return Draw(math.sqrt(2 / fan_in(weight)))


def hundredth(weight: Tensor) -> Draw:
    return Draw(0.01)


def zeros(weight: Tensor) -> Draw:
    return Draw(0.0)


def fan_in(weight: Tensor) -> int:
    return weight[0].numel()


@dataclasses.dataclass(frozen=True)
class Rules:
    """Of weights and biases: those of convolutions, and those of linear layers."""

    conv: object
    conv_bias: object
    linear: object
    linear_bias: object


DEFAULT = Rules(pytorch_default, pytorch_default, pytorch_default, pytorch_default)
CONVS_BY_FAN_OUT = Rules(fan_out_normal, zeros, pytorch_default, pytorch_default)
WIDE_RESNET = Rules(fan_out_normal, zeros, pytorch_default, zeros)
SMALL_CLASSIFIER = Rules(fan_out_normal, zeros, hundredth, zeros)
RESNEXT = Rules(fan_out_normal, zeros, fan_in_normal, zeros)

# family and name -> rules; the first pattern that fits
PUBLISHED = {
    "tfkd resnext29": RESNEXT,
    "tfkd vgg19": SMALL_CLASSIFIER,
    "tfkd *": DEFAULT,
    "* resnet*": CONVS_BY_FAN_OUT,
    "* wrn_*": WIDE_RESNET,
    "* vgg*": SMALL_CLASSIFIER,
    "* MobileNetV2": SMALL_CLASSIFIER,
    "mdistiller ResNet*": CONVS_BY_FAN_OUT,
    "mdistiller *imagenet_ResNet*": CONVS_BY_FAN_OUT,
    "* Shuffle*": DEFAULT,
    "* RegNet*": DEFAULT,
    "mdistiller imagenet_MobileNetV1": DEFAULT,
    "mdistiller tinyimagenet_MobileNetV2": DEFAULT,
    "mdistiller tinyimagenet_ShuffleV2": DEFAULT,
}
ALL = [f"{family} {name}" for family in ("tfkd", "mtkd_rl", "mdistiller") for name in list_models(family)]
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)


def expected(network: nn.Module, rules: Rules, exceptions: dict[str, Draw] | None = None) -> dict[str, Draw | float]:
    """Of each tensor of the network's state how it is drawn, or the number that all its entries are."""
    found: dict[str, Draw | float] = {}
    for module_name, module in network.named_modules():
        prefix = f"{module_name}." if module_name else ""
        if isinstance(module, NORMS):
            constants = {
                "weight": 1.0,
                "bias": 0.0,
                "running_mean": 0.0,
                "running_var": 1.0,
                "num_batches_tracked": 0.0,
            }
            found |= {f"{prefix}{key}": value for key, value in constants.items()}
        elif isinstance(module, nn.Conv2d | nn.Linear):
            kind = "conv" if isinstance(module, nn.Conv2d) else "linear"
            found[f"{prefix}weight"] = getattr(rules, kind)(module.weight)
            found[f"{prefix}bias"] = getattr(rules, f"{kind}_bias")(module.weight)
    found |= exceptions or {}
    return {key: found[key] for key in network.state_dict()}  # a tensor without a rule is an error


def check(network: nn.Module, wanted: dict[str, Draw | float]) -> None:
    """Hold every tensor to its distribution, and all drawn ones together to the shapes of theirs."""
    together: dict[bool, list[Tensor]] = {True: [], False: []}
    for key, tensor in network.state_dict().items():
        draw, values = wanted[key], tensor.double().flatten()
        if not isinstance(draw, Draw) or not draw.std:
            constant = draw if isinstance(draw, float) else 0.0
            assert (values == constant).all(), f"{key} is not all {constant}"
            continue
        z, n = values / draw.std, values.numel()
        if draw.uniform:
            assert z.abs().max() <= math.sqrt(3) * (1 + 1e-6), f"{key} exceeds its bounds"
        assert abs(z.mean()) <= ERRORS / math.sqrt(n), f"{key}: mean {z.mean():.4f} deviations"
        assert abs(z.square().mean() - 1) <= ERRORS * math.sqrt(2 / n), (
            f"{key}: {z.square().mean():.4f} of its variance"
        )
        together[draw.uniform].append(z)
    for uniform, fourth, eighth in ((True, 1.8, 9.0), (False, 3.0, 105.0)):
        if together[uniform]:
            z = torch.cat(together[uniform])
            error = math.sqrt((eighth - fourth**2) / z.numel())
            assert abs(z.pow(4).mean() - fourth) <= ERRORS * error, f"fourth moment {z.pow(4).mean():.3f}, not {fourth}"


def rules_of(name: str) -> Rules:
    return next(rules for pattern, rules in PUBLISHED.items() if fnmatchcase(name, pattern))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_networks(name):
    family, model = name.split()
    torch.manual_seed(0)
    network = create_model(model, 100, family=family)
    check(network, expected(network, rules_of(name)))


@pytest.mark.parametrize("dynamic", [False, True])
def test_policy_of_mtkd_rl(dynamic):
    torch.manual_seed(0)
    policy = Policy(500, 4, dynamic=dynamic)
    factors = {f"{kind}_weight_factor": 0.0 for kind in ("logit", "feature")} if dynamic else {}
    check(policy, expected(policy, DEFAULT, factors))


def student(num_classes: int) -> MultiResNetV2:
    torch.manual_seed(0)
    return MultiResNetV2(num_classes)


def of_student(network: MultiResNetV2) -> dict[str, Draw | float]:
    """Convolutions by fan-out, the early exits' classifiers among them; the final classifier, one too, small."""
    return expected(network, SMALL_CLASSIFIER, {"head.fc.weight": Draw(0.01)})


@pytest.mark.slow
@pytest.mark.parametrize(("num_classes", "std"), [(10, 0.445), (37, 0.233), (100, 0.142)])
def test_student_of_mlkd(num_classes, std):
    """Published deviations of the early exits' classifiers, as they were drawn there, within 2 %."""
    network = student(num_classes)
    check(network, of_student(network))
    for i in range(3):
        classifier = network.get_submodule(f"middle_fc{i}.fc")
        assert classifier.weight.std().item() == pytest.approx(std, rel=0.02)
        assert not classifier.bias.any()


@pytest.mark.slow
def test_early_exits_of_mlkd_lead_at_first():
    """37 classes, 224 x 224: the first logits of the early exits have a deviation of 4 to 5, the final one's of 0.2."""
    network, images = student(37), torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        final, *early = (logits.std().item() for logits in reversed(network.heads(images).values()))
    assert 3.5 < sum(early) / 3 < 5.0
    assert final < 0.3


SPOILT = {
    "the framework's default": ("middle_fc1.fc", lambda fc: fc.reset_parameters()),
    "the final exit's": ("middle_fc2.fc", lambda fc: nn.init.normal_(fc.weight, std=0.01)),
    "by fan-in": ("bottleneck0_1.op.6", lambda conv: nn.init.kaiming_normal_(conv.weight)),
    "uniform of the same deviation": ("stages3", lambda stage: stage.apply(make_uniform)),
    "a bias": ("bottleneck0_1.op.0", lambda conv: nn.init.constant_(conv.bias, 1e-3)),
    "the residual path's last": ("stages0.blocks.0.conv3", lambda conv: nn.init.zeros_(conv.weight)),
    "a norm": ("norm", lambda norm: nn.init.constant_(norm.weight, 0.5)),
}


def make_uniform(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight, mode="fan_out", nonlinearity="relu")


@pytest.mark.slow
@pytest.mark.parametrize("how", SPOILT)
def test_another_initialization_is_noticed(how):
    network, (name, spoil) = student(37), SPOILT[how]
    spoil(network.get_submodule(name))
    with pytest.raises(AssertionError):
        check(network, of_student(network))
