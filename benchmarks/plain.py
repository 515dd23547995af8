"""The plain published way: per-sample transforms in worker processes, eager, contiguous, `.item()` every step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from common.data import Augmentation, ImageArrays, Normalization


class PlainImages(TorchDataset):
    """An image set that transforms one sample at a time, as torchvision's data sets do."""

    def __init__(self, images: ImageArrays, normalization: Normalization, augmentation: Augmentation) -> None:
        self.images = images
        steps = [transforms.RandomCrop(images.pixels.shape[1], padding=augmentation.padding)]
        if augmentation.flip:
            steps.append(transforms.RandomHorizontalFlip())
        if augmentation.rotation:
            steps.append(transforms.RandomRotation(augmentation.rotation))
        steps += [transforms.ToTensor(), transforms.Normalize(normalization.mean, normalization.std)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images.pixels[index])), int(self.images.targets[index])


def endless(loader: DataLoader) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end; epochs follow one another."""
    while True:
        yield from loader


def plain_loader(
    images: ImageArrays, normalization: Normalization, augmentation: Augmentation, batch_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """torchvision's transforms in a DataLoader with `workers` processes."""
    dataset = PlainImages(images, normalization, augmentation)
    pin = torch.cuda.is_available()
    # an epoch's start is not measured: workers persist, and the set repeats without a pause
    sampler = torch.utils.data.RandomSampler(dataset, num_samples=1_000 * len(dataset), replacement=True)
    return endless(DataLoader(dataset, batch_size, sampler=sampler, num_workers=workers, pin_memory=pin))


def plain_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> float:
    """One training step with cross-entropy, its metrics read back at once; returns the loss."""
    logits = network(images)
    loss = F.cross_entropy(logits, targets)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    np.mean((logits.argmax(1) == targets).cpu().numpy())
    return loss.item()
