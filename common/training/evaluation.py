"""Accuracy and loss of a network over a set of batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batches
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
) -> dict[str, float]:
    """Evaluate `network` in evaluation mode; its mode is restored.

    Args:
        network: gives logits, [N, K].
        batches: to evaluate on.
        runtime: where.
        loss_of: (images, logits, targets) -> loss, summed over samples.

    Returns:
        `accuracy` and `top5` in percent, `loss` the mean over samples.
    """
    was_training = network.training
    network.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=runtime.device)
    for batch in batches.epoch():
        with runtime.autocast():
            logits = network(batch.images).float()
            loss = loss_of(batch.images, logits, batch.targets)
        ranked = logits.topk(min(5, logits.shape[1])).indices == batch.targets[:, None]
        sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, loss.new_tensor(len(logits))]).to(sums)
    network.train(was_training)
    correct, among_five, loss, count = reduce_sum(sums, runtime).tolist()
    return {"accuracy": 100 * correct / count, "top5": 100 * among_five / count, "loss": loss / count}
