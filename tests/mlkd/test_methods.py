"""What the history shows of an epoch: means over batches, as published, also where the last batch is smaller."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from common.data import Batch
from common.training.evaluation import Evaluation
from common.training.runtime import Runtime
from mlkd.losses import kd_loss
from mlkd.methods import MultiLevel
from mlkd.mixup_cutmix import MixupCutmix
from mlkd.student import EXITS

OPTIONS = {"alpha": 0.5, "temperature": 4.0}


class Student(nn.Module):
    """Four exits that see the image's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.exits = nn.ModuleDict({name: nn.Linear(3, 5) for name in EXITS})

    def heads(self, images: Tensor) -> dict[str, Tensor]:
        return {name: layer(images.mean((2, 3))) for name, layer in self.exits.items()}

    def forward(self, images: Tensor) -> Tensor:
        return self.heads(images)["final"]


class Sized:
    """Batches of 6 and 2 images; of two processes each sees half."""

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        random = torch.Generator().manual_seed(0)
        images, targets = torch.randn(8, 3, 4, 4, generator=random), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
        self.batches = [
            Batch(images[share], targets[share], None, size)
            for start, size in ((0, 6), (6, 2))
            for share in [slice(start + rank * size // world_size, start + (rank + 1) * size // world_size)]
        ]

    def epoch(self, epoch: int = 0) -> Iterator[Batch]:
        return iter(self.batches)


def method(validation_batch: float | None) -> MultiLevel:
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 5))
    return MultiLevel(Student(), teacher, MixupCutmix(5, 0.0, 0.0), **OPTIONS, validation_batch=validation_batch)


def losses(ours: MultiLevel, batches: Sized) -> list[float]:
    """Of each batch, at the final exit."""
    with torch.no_grad():
        return [
            kd_loss(ours.student(b.images), ours.teacher(b.images), b.targets, **OPTIONS).item()
            for b in batches.epoch()
        ]


def test_the_validation_loss_is_a_mean_over_batches():
    ours, batches, runtime = method(4.0), Sized(), Runtime(torch.device("cpu"))
    first, second = losses(ours, batches)
    assert first != pytest.approx(second, rel=0.05)
    found = Evaluation(ours.student, batches, runtime, ours.evaluation_loss)()["loss"]
    assert found == pytest.approx((first + second) / 2, rel=1e-6)
    ours.validation_batch = None
    found = Evaluation(ours.student, batches, runtime, ours.evaluation_loss)()["loss"]
    assert found == pytest.approx((6 * first + 2 * second) / 8, rel=1e-6)


def test_of_two_processes_it_is_the_mean_over_the_batches_of_both():
    """What each adds to the sum over samples, which the evaluation divides by their number."""
    ours = method(8 / (2 * 2))
    shares = [Sized(rank, 2) for rank in range(2)]
    with torch.no_grad():
        total = sum(
            ours.evaluation_loss(b.images, ours.student(b.images), b.targets).item()
            for share in shares
            for b in share.epoch()
        )
    each = [loss for share in shares for loss in losses(ours, share)]
    assert total / 8 == pytest.approx(sum(each) / 4, rel=1e-6)


def test_sd_loss_is_a_mean_over_batches_and_begins_anew_each_epoch():
    ours, batches = method(None), Sized()
    for _ in range(2):
        totals = [sum(ours(*batch[:3], 0).losses.values()).item() for batch in batches.epoch()]
        assert totals[0] != pytest.approx(totals[1], rel=0.02)
        assert ours.epoch_metrics()["sd_loss"].item() == pytest.approx(sum(totals) / 2, rel=1e-6)
    assert not {"exit_losses", "batches"} & set(ours.state_dict())
