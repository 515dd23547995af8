"""Which kind an operator is of, and the shares of a small step."""

import pytest
import torch
from torch import nn

from benchmarks.operators import DATA, IDLE, KINDS, REST, MarkedBatches, kind_of, report_shares, shares
from common.training.batch_norm import use_channels_last_batch_norm

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("aten::conv2d", "convolution, forward"),
        ("aten::mkldnn_convolution", "convolution, forward"),
        ("mkldnn::_convolution_pointwise", "convolution, forward"),
        ("aten::convolution_backward", "convolution, backward"),
        ("autograd::engine::evaluate_function: ConvolutionBackward0", "convolution, backward"),
        ("aten::addmm", "matrix products"),
        ("autograd::engine::evaluate_function: AddmmBackward0", "matrix products"),
        ("aten::batch_norm", "batch norm"),
        ("_BatchNormFunctionBackward", "batch norm"),
        ("aten::clamp_min", "activations, other elementwise"),
        ("autograd::engine::evaluate_function: ReluBackward0", "activations, other elementwise"),
        ("aten::cat", "concatenation, copies"),
        ("aten::channel_shuffle", "concatenation, copies"),
        ("aten::adaptive_avg_pool2d", "pooling"),
        ("Optimizer.step#SGD.step", "optimizer"),
        ("aten::_fused_sgd_", "optimizer"),
        (DATA, DATA),
        ("aten::empty", REST),
        # kernels of a GPU
        ("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc_tilesize128x32x16", "convolution, forward"),
        ("sm80_xmma_dgrad_implicit_gemm_f32f32_f32f32_f32_nhwckrsc_nhwc_tilesize128x64x8", "convolution, backward"),
        ("void cudnn::cnn::wgrad2d_grouped_direct_kernel<float>", "convolution, backward"),
        ("void cutlass::Kernel2<cutlass_80_simt_sgemm_128x64_8x5_nn_align1>", "matrix products"),
        ("void at::native::batch_norm_backward_reduce_channels_last_kernel<4>", "batch norm"),
        ("void at::native::vectorized_elementwise_kernel<4, launch_clamp_scalar>", "activations, other elementwise"),
        ("void at::native::(anonymous namespace)::CatArrayBatchedCopy<float>", "concatenation, copies"),
        ("void at::native::multi_tensor_apply_kernel<FusedSgdMathFunctor<float>>", "optimizer"),
        ("void at::native::indexSelectLargeIndex<int>", DATA),
    ],
)
def test_kinds(operator, kind):
    assert kind_of(operator) == kind


def test_what_batch_norm_multiplies_is_batch_norms():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).to(memory_format=torch.channels_last)
    use_channels_last_batch_norm(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    images = torch.randn(8, 3, 16, 16).to(memory_format=torch.channels_last)

    def step() -> None:
        network(images).square().mean().backward()
        optimizer.step()

    found = shares(step, CPU)
    assert list(found) == [*KINDS, IDLE]
    assert sum(found.values()) == pytest.approx(1)
    for kind in ("convolution, forward", "convolution, backward", "batch norm", "optimizer"):
        assert found[kind] > 0, kind
    assert found["matrix products"] == found[DATA] == 0


class Halves:
    """Batches that take arithmetic to make."""

    samples = 4

    def __len__(self) -> int:
        return 2

    def epoch(self, epoch: int = 0):
        for i in range(2):
            yield torch.full((2,), float(epoch + i)) * 0.5


def test_marked_batches_are_the_same_batches():
    marked = MarkedBatches(Halves())
    assert (len(marked), marked.samples) == (2, 4)
    assert [batch.tolist() for batch in marked.epoch(3)] == [batch.tolist() for batch in Halves().epoch(3)]
    found = shares(lambda: list(marked.epoch()), CPU)
    assert found[DATA] > 0
    assert found["activations, other elementwise"] == 0
    assert shares(lambda: list(Halves().epoch()), CPU)[DATA] == 0


def test_the_table_begins_with_the_largest(capsys):
    report_shares("a step", {"pooling": 0.25, "batch norm": 0.75})
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["batch", "norm", "75.0%"],
        ["pooling", "25.0%"],
    ]
