"""The faster backward pass of batch norm against PyTorch's own."""

import copy

import pytest
import torch
from torch import nn

from common.training.batch_norm import ChannelsLastBatchNorm2d, use_channels_last_batch_norm


def pair(channels: int, dtype: torch.dtype) -> tuple[nn.BatchNorm2d, nn.BatchNorm2d]:
    plain = nn.BatchNorm2d(channels).to(dtype)
    nn.init.normal_(plain.weight, 1.0, 0.1)
    nn.init.normal_(plain.bias)
    fast = copy.deepcopy(plain)
    use_channels_last_batch_norm(fast)
    return plain, fast


def run(norm: nn.Module, x: torch.Tensor, grad: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = norm(x)
    y.backward(grad)
    buffers = [norm.running_mean, norm.running_var, norm.num_batches_tracked]
    return [y, x.grad, norm.weight.grad, norm.bias.grad, *buffers]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
@pytest.mark.parametrize("shape", [(4, 6, 5, 7), (8, 58, 16, 16), (3, 2, 1, 1), (16, 1, 4, 4)])
def test_values_gradients_and_statistics(shape, dtype, tolerance):
    torch.manual_seed(0)
    plain, fast = pair(shape[1], dtype)
    # a mean far from zero: the place where careless sums cancel
    x = (torch.randn(shape, dtype=dtype) + 5).contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(x)
    for ours, theirs in zip(run(fast, x, grad), run(plain, x, grad), strict=True):
        scale = theirs.double().abs().max().clamp(min=1)
        assert ((ours - theirs).double().abs().max() / scale).item() < tolerance


def test_gradient_by_differences():
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3).double()
    use_channels_last_batch_norm(norm)
    x = torch.randn(4, 3, 2, 3, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w, b: _apply(norm, x, w, b), (x, norm.weight, norm.bias))


def _apply(norm: nn.BatchNorm2d, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.func.functional_call(
        norm, {"weight": weight, "bias": bias}, (x.contiguous(memory_format=torch.channels_last),)
    )


def test_other_cases_are_left_to_pytorch():
    plain, fast = pair(4, torch.float32)
    assert type(fast) is ChannelsLastBatchNorm2d
    assert list(fast.state_dict()) == list(plain.state_dict())
    x = torch.randn(5, 4, 3, 3)
    for mode in (True, False):
        assert torch.equal(fast.train(mode)(x), plain.train(mode)(x))
    unaffine = nn.BatchNorm2d(4, affine=False)
    use_channels_last_batch_norm(unaffine)
    assert torch.isfinite(unaffine(x.contiguous(memory_format=torch.channels_last))).all()
