"""Which samples CRD compares with: negatives of other classes, uniform, without repeats where there are enough."""

import pytest
import torch

from common.errors import UserError
from edkd.engine.contrast import ContrastSampler

TARGETS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 3, 3])


def draw(negatives: int, mode: str = "exact", times: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    indices = torch.tensor([0, 4, 10])
    sampler = ContrastSampler(TARGETS, negatives, mode)
    return indices, torch.stack([sampler(TARGETS[indices], indices) for _ in range(times)])


@pytest.mark.parametrize("negatives", [5, 8, 30])
def test_negatives_are_of_other_classes_and_uniform(negatives):
    indices, drawn = draw(negatives)
    assert drawn.shape == (400, 3, 1 + negatives)
    for row, index in enumerate(indices):
        assert (drawn[:, row, 0] == index).all()
        others = drawn[:, row, 1:]
        assert (TARGETS[others] != TARGETS[index]).all()
        counts = torch.bincount(others.flatten(), minlength=len(TARGETS))[TARGETS[index] != TARGETS]
        expected = others.numel() / len(counts)
        assert (counts - expected).abs().max() < 6 * expected**0.5


def test_without_repeats_where_a_class_has_enough_negatives():
    _, drawn = draw(8)  # the largest class leaves 8
    assert all(len(row.unique()) == 8 for row in drawn[:, :, 1:].flatten(0, 1))
    _, drawn = draw(9)
    assert any(len(row.unique()) < 9 for row in drawn[:, :, 1:].flatten(0, 1))


def test_relaxed_positives_are_of_the_same_class():
    indices, drawn = draw(5, mode="relax")
    assert (TARGETS[drawn[:, :, 0]] == TARGETS[indices]).all()
    assert len(drawn[:, 0, 0].unique()) == 4


def test_the_generator_decides():
    assert torch.equal(draw(5)[1], draw(5)[1])


def test_one_class_has_no_negatives():
    with pytest.raises(UserError, match="one class"):
        ContrastSampler(torch.zeros(5, dtype=torch.long), 3, "exact")
