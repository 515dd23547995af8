"""Accuracy and loss of a network over a set of batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batches
from common.training.recording import CudaGraphs, Recorded
from common.training.runtime import Runtime, reduce_sum


def cross_entropy(images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
    """The loss that networks are judged by unless somebody says otherwise, summed over samples."""
    return F.cross_entropy(logits, targets, reduction="sum")


class Evaluation:
    """Evaluates `network` over `batches`, as often as it is called.

    Args:
        network: gives logits, [N, K].
        batches: to evaluate on.
        runtime: where.
        loss_of: (images, logits, targets) -> loss, summed over samples.
        graphs: records the work on a batch and replays it, where given.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Batches,
        runtime: Runtime,
        loss_of: Callable[[Tensor, Tensor, Tensor], Tensor] = cross_entropy,
        graphs: CudaGraphs | None = None,
    ) -> None:
        self.network, self.batches, self.runtime, self.loss_of = network, batches, runtime, loss_of
        self._sums = torch.zeros(4, dtype=torch.float64, device=runtime.device)
        self._take_in = Recorded(self._add, graphs, warm_up=1) if graphs else self._add

    @torch.inference_mode()
    def __call__(self) -> dict[str, float]:
        """Evaluate in evaluation mode; the network's mode is restored.

        Returns:
            `accuracy` and `top5` in percent, `loss` the mean over samples.
        """
        was_training = self.network.training
        self.network.eval()
        self._sums.zero_()
        for batch in self.batches.epoch():
            self._take_in(batch.images, batch.targets)
        self.network.train(was_training)
        correct, among_five, loss, count = reduce_sum(self._sums, self.runtime).tolist()
        return {"accuracy": 100 * correct / count, "top5": 100 * among_five / count, "loss": loss / count}

    def _add(self, images: Tensor, targets: Tensor) -> None:
        if self.runtime.plain:
            images = images.contiguous()
        with self.runtime.autocast():
            logits = self.network(images).float()
            loss = self.loss_of(images, logits, targets)
        ranked = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
        self._sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, loss.new_full((), len(logits))])


def evaluate(network: nn.Module, batches: Batches, runtime: Runtime) -> dict[str, float]:
    """`Evaluation`, once and by cross-entropy."""
    return Evaluation(network, batches, runtime)()
