"""Modules that distillers share."""

import pytest
import torch
from torch import nn

from edkd.distillers._common import (
    ConvReg,
    ConvRegBottleNeck,
    CosineDecay,
    Global_T,
    GradientReversal,
    LinearDecay,
)

SHAPES = [
    ((2, 6, 16, 16), (2, 9, 8, 8)),
    ((2, 6, 8, 8), (2, 9, 16, 16)),
    ((2, 6, 8, 8), (2, 9, 8, 8)),
    ((2, 6, 9, 9), (2, 9, 7, 7)),
]


@pytest.mark.parametrize(("s_shape", "t_shape"), SHAPES)
@pytest.mark.parametrize("kind", [ConvReg, ConvRegBottleNeck])
@pytest.mark.parametrize("use_bn", [True, False])
def test_regression(kind, s_shape, t_shape, use_bn):
    module = kind(s_shape, t_shape, use_relu=True, use_bn=use_bn)
    assert module(torch.randn(s_shape)).shape == t_shape
    assert any(isinstance(m, nn.BatchNorm2d) for m in module.modules()) == use_bn
    assert (module(torch.randn(s_shape)) >= 0).all()
    assert (kind(s_shape, t_shape, use_relu=False)(torch.randn(s_shape)) < 0).any()


def test_width_of_the_bottleneck():
    module = ConvRegBottleNeck((1, 6, 8, 8), (1, 32, 8, 8), 5)
    assert module.reduce.conv.out_channels == module.expand.conv.in_channels == 5


def test_no_regression_between_such_maps():
    with pytest.raises(NotImplementedError, match="no regression"):
        ConvReg((1, 6, 4, 4), (1, 6, 16, 16))


@pytest.mark.parametrize("factor", [-1.0, 0.0, 0.5])
def test_gradient_reversal(factor):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = GradientReversal()(x, factor)
    (y * torch.tensor([3.0, 4.0])).sum().backward()
    assert torch.equal(y, x)
    assert torch.equal(x.grad, factor * torch.tensor([3.0, 4.0]))


def test_global_temperature_climbs_where_the_student_descends():
    module = Global_T()
    temperature = module(None, None, None, None, -1.0)
    assert temperature.tolist() == [1.0]
    temperature.sum().backward()
    assert module.global_T.grad.tolist() == [-1.0]


def test_decays():
    assert [CosineDecay(0, -1, 10).get_value(i) for i in (0, 5, 10, 99)] == pytest.approx([0, -0.5, -1, -1])
    assert [LinearDecay(2, 1, 4).get_value(i) for i in (0, 1, 4, 99)] == [2, 1.75, 1, 1]
    assert CosineDecay(0, -1, 10).get_value(1) > LinearDecay(0, -1, 10).get_value(1)
