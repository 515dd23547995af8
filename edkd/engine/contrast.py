"""What CRD compares each sample with: itself or one of its class, and samples of other classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.errors import UserError

MODES = ("exact", "relax")
LARGEST_TABLE = 1 << 26  # random keys at a time, that is 256 MB


class ContrastSampler(nn.Module):
    """Draws `contrastive_index` for whole batches on the training device.

    Negatives are drawn without replacement where a class has enough of them, else with, as published. Draws come from
    PyTorch's generator, which the loop seeds by the position in training.

    Args:
        targets: classes of the training images, [number of images].
        negatives: K.
        mode: of `MODES`.

    Raises:
        UserError: one class only, which has no negatives.
    """

    targets: Tensor
    by_class: Tensor
    counts: Tensor
    begins: Tensor

    def __init__(self, targets: Tensor, negatives: int, mode: str) -> None:
        super().__init__()
        if not (targets != targets[0]).any():
            raise UserError("CRD needs samples of other classes: all training images have one class")
        self.negatives, self.mode = negatives, mode
        counts = torch.bincount(targets)
        self.enough = bool(len(targets) - counts.max() >= negatives)
        # positions of all images class by class, and where each class begins among them
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("by_class", targets.argsort(stable=True), persistent=False)
        self.register_buffer("counts", counts, persistent=False)
        self.register_buffer("begins", counts.cumsum(0) - counts, persistent=False)

    @torch.no_grad()
    def forward(self, targets: Tensor, indices: Tensor) -> Tensor:
        """The positive and then K negatives of each sample of a batch, [N, 1 + K].

        Args:
            targets: classes, [N].
            indices: positions in the training set, [N].
        """
        positive = indices if self.mode == "exact" else self._of_class(targets)
        negative = self._without_replacement(targets) if self.enough else self._with_replacement(targets)
        return torch.cat([positive[:, None], negative], dim=1)

    def _of_class(self, targets: Tensor) -> Tensor:
        """A sample of each class given, [N]."""
        offset = (torch.rand(len(targets), device=targets.device) * self.counts[targets]).long()
        return self.by_class[self.begins[targets] + offset]

    def _without_replacement(self, targets: Tensor) -> Tensor:
        rows = max(1, LARGEST_TABLE // len(self.targets))
        return torch.cat([self._lowest_keys(part) for part in targets.split(rows)])

    def _lowest_keys(self, targets: Tensor) -> Tensor:
        """K images of other classes: those with the lowest of random keys."""
        keys = torch.rand(len(targets), len(self.targets), device=targets.device)
        keys.masked_fill_(targets[:, None] == self.targets, 2.0)
        return keys.topk(self.negatives, dim=1, largest=False, sorted=False).indices

    def _with_replacement(self, targets: Tensor) -> Tensor:
        others = (len(self.targets) - self.counts[targets])[:, None]
        draw = (torch.rand(len(targets), self.negatives, device=targets.device) * others).long()
        # step over the class itself
        return self.by_class[draw + self.counts[targets][:, None] * (draw >= self.begins[targets][:, None])]
