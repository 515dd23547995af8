"""Accuracy and loss of a network over a set of batches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from common.data import Batches
from common.training.runtime import Runtime, reduce_sum


@torch.inference_mode()
def evaluate(network: nn.Module, batches: Batches, runtime: Runtime) -> dict[str, float]:
    """Evaluate `network` in evaluation mode; its mode is restored.

    Returns:
        `accuracy` and `top5` in percent, `loss` the mean cross-entropy.
    """
    was_training = network.training
    network.eval()
    sums = torch.zeros(4, dtype=torch.float64, device=runtime.device)
    for batch in batches.epoch():
        with runtime.autocast():
            logits = network(batch.images).float()
        ranked = logits.topk(min(5, logits.shape[1])).indices == batch.targets[:, None]
        loss = F.cross_entropy(logits, batch.targets, reduction="sum")
        sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, loss.new_tensor(len(logits))]).to(sums)
    network.train(was_training)
    correct, among_five, loss, count = reduce_sum(sums, runtime).tolist()
    return {"accuracy": 100 * correct / count, "top5": 100 * among_five / count, "loss": loss / count}
