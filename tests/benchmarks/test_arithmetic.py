"""Operations counted of layers whose operations are known, and what the report makes of them."""

import pytest
import torch
from torch import nn

from benchmarks.arithmetic import flops_of, matrix_product, report_arithmetic
from benchmarks.plain import PlainDistillation


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize(("needs_grad", "passes"), [(True, 3), (False, 2)])
def test_a_convolution_counts_once_for_its_output_and_once_for_each_gradient(groups, needs_grad, passes):
    layer = nn.Conv2d(8, 16, 3, stride=2, padding=1, groups=groups)
    images = torch.randn(4, 8, 10, 10, requires_grad=needs_grad)
    once = 2 * 4 * (5 * 5) * 16 * (8 // groups) * 9
    assert flops_of(lambda: layer(images)) == once
    assert flops_of(lambda: layer(images).sum().backward()) == passes * once


def test_a_transposed_convolution_counts_by_its_input():
    layer = nn.ConvTranspose2d(8, 16, 4, stride=2, padding=1)
    images = torch.randn(4, 8, 5, 5, requires_grad=True)
    assert flops_of(lambda: layer(images).sum().backward()) == 3 * 2 * 4 * (5 * 5) * 8 * 16 * 16


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 2048), (torch.bfloat16, 512)])
def test_a_matrix_product_returns_its_operations(dtype, size):
    work = matrix_product(torch.device("meta"), dtype)
    assert flops_of(work) == work() == 4 * 2 * size**3


def test_a_step_counts_the_teacher_once_and_what_only_moves_memory_not_at_all():
    student = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.Linear(7, 5))
    batches = iter([(torch.randn(6, 3, 2, 2), torch.arange(6) % 5)])
    device = torch.device("cpu")
    loop = PlainDistillation(student, teacher, lambda s, t, targets: (s - t).square().mean(), batches, device, 0.1)
    # the student's output, its weights' gradient and, for batch norm, its input's; the teacher's two outputs
    assert flops_of(lambda: loop.steps(1)) == 2 * 6 * (3 * 12 * 5 + 12 * 7 + 7 * 5)


def test_each_side_is_compared_with_the_product_in_its_own_precision(capsys):
    rates = {"plain": [9.0, 10.0, 50.0], "ours": [30.0], torch.float32: [100e9], torch.bfloat16: [400e9]}
    report_arithmetic(40 * 10**9, 8, {"plain": torch.float32, "ours": torch.bfloat16}, rates)
    step, *lines = capsys.readouterr().out.splitlines()
    assert "40.0 GFLOP" in step
    assert [" ".join(line.split()) for line in lines] == [
        "matrix product, float32 100 GFLOP/s",
        "matrix product, bfloat16 400 GFLOP/s",
        "plain 50 GFLOP/s, 0.50 of the float32 product",
        "ours 150 GFLOP/s, 0.38 of the bfloat16 product",
    ]
