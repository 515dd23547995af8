"""The plain published way: per-sample transforms in worker processes, eager, contiguous, `.item()` every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from common.data import Augmentation, ImageArrays, Normalization


class PlainImages(TorchDataset):
    """An image set that transforms one sample at a time, as torchvision's datasets do."""

    def __init__(self, images: ImageArrays, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images.pixels[index])), int(self.images.targets[index])


def per_sample(size: int, normalization: Normalization, augmentation: Augmentation) -> Callable[[Image.Image], Tensor]:
    """torchvision's transforms of one image, `size` pixels wide and high."""
    steps: list[Callable] = [transforms.RandomCrop(size, padding=augmentation.padding)]
    if augmentation.flip:
        steps.append(transforms.RandomHorizontalFlip())
    if augmentation.rotation:
        steps.append(transforms.RandomRotation(augmentation.rotation))
    return transforms.Compose([*steps, normalized(normalization)])


def normalized(normalization: Normalization) -> Callable[[Image.Image], Tensor]:
    """From an image to its normalized pixels."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(normalization.mean, normalization.std)])


def endless(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end; epochs follow one another."""
    while True:
        yield from loader


def plain_loader(
    images: ImageArrays,
    normalization: Normalization,
    augmentation: Augmentation,
    batch_size: int,
    workers: int,
    transform: Callable[[Image.Image], Tensor] | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """torchvision's transforms in a DataLoader with `workers` processes; `transform` in place of the augmentation."""
    dataset = PlainImages(images, transform or per_sample(images.pixels.shape[1], normalization, augmentation))
    pin = torch.cuda.is_available()
    # an epoch's start is not measured: workers persist, and the set repeats without a pause
    sampler = torch.utils.data.RandomSampler(dataset, num_samples=1_000 * len(dataset), replacement=True)
    return endless(DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, pin_memory=pin))


class PlainLoop:
    """A published-style loop: eager, contiguous, its metrics read back at every step.

    Args:
        trained: what the optimizer trains.
        loader: batches without end.
        device: where.
        learning_rate: of SGD.
    """

    def __init__(
        self,
        trained: nn.Module,
        loader: Iterator[tuple[Tensor, Tensor]],
        device: torch.device,
        learning_rate: float,
    ) -> None:
        self.loader, self.device = loader, device
        parameters = trained.to(device).train().parameters()
        self.optimizer = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=5e-4)

    def loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and the student's logits."""
        raise NotImplementedError

    def steps(self, count: int) -> int:
        """Train so many steps; returns their number."""
        for _ in range(count):
            images, targets = (tensor.to(self.device) for tensor in next(self.loader))
            loss, logits = self.loss(images, targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            loss.item()
            (logits.argmax(1) == targets).float().mean().item()
        return count


class PlainBaseline(PlainLoop):
    """Cross-entropy with the labels."""

    def __init__(
        self, student: nn.Module, loader: Iterator[tuple[Tensor, Tensor]], device: torch.device, learning_rate: float
    ) -> None:
        super().__init__(student, loader, device, learning_rate)
        self.student = student

    def loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.student(images)
        return F.cross_entropy(logits, targets), logits


class PlainDistillation(PlainLoop):
    """A loss of (the student's logits, the teacher's logits, targets)."""

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor],
        loader: Iterator[tuple[Tensor, Tensor]],
        device: torch.device,
        learning_rate: float,
    ) -> None:
        super().__init__(student, loader, device, learning_rate)
        self.student, self.teacher, self._loss = student, teacher.to(device).eval(), loss

    def loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.student(images)
        with torch.no_grad():
            teacher_logits = self.teacher(images)
        return self._loss(logits, teacher_logits, targets), logits
