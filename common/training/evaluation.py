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


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    batches: Batches,
    runtime: Runtime,
    loss_of: Callable[[Tensor, Tensor, Tensor], Tensor] = cross_entropy,
    graphs: CudaGraphs | None = None,
) -> dict[str, float]:
    """Evaluate `network` in evaluation mode; its mode is restored.

    Args:
        network: gives logits, [N, K].
        batches: to evaluate on.
        runtime: where.
        loss_of: (images, logits, targets) -> loss, summed over samples.
        graphs: records the work on a batch and replays it, where given.

    Returns:
        `accuracy` and `top5` in percent, `loss` the mean over samples.
    """
    was_training = network.training
    network.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=runtime.device)

    def add(images: Tensor, targets: Tensor) -> None:
        if runtime.plain:
            images = images.contiguous()
        with runtime.autocast():
            logits = network(images).float()
            loss = loss_of(images, logits, targets)
        ranked = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
        sums.add_(torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, loss.new_full((), len(logits))]))

    add_batch = Recorded(add, graphs, warm_up=1) if graphs else add
    for batch in batches.epoch():
        add_batch(batch.images, batch.targets)
    network.train(was_training)
    correct, among_five, loss, count = reduce_sum(sums, runtime).tolist()
    return {"accuracy": 100 * correct / count, "top5": 100 * among_five / count, "loss": loss / count}
