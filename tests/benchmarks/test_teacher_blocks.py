"""What blocks of batches are compared by."""

import pytest
import torch

from benchmarks.teacher_blocks import in_blocks, step_ratio


def test_a_step_is_faster_by_the_teachers_share_alone():
    assert step_ratio(30.0, 60.0, 60.0) == pytest.approx(1)
    # teachers take half of the step; twice as fast, they leave three quarters of it
    assert step_ratio(30.0, 60.0, 120.0) == pytest.approx(4 / 3)
    assert step_ratio(30.0, 60.0, 40.0) < 1


def test_every_way_shows_all_images_once():
    images = torch.arange(12.0).reshape(12, 1)
    for size in (1, 4, 12):
        seen = []
        assert in_blocks(seen.append, images, size)() == 12
        assert {len(block) for block in seen} == {size}
        assert torch.equal(torch.cat(seen), images)
