"""Accuracy and loss of a network over a set of batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batches
from common.training.cuda_graphs import CudaGraphs, GraphedCallable, graphs_blocker
from common.training.gpu_memory import explained_out_of_memory
from common.training.layouts import layout_for
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
        graphs: captures the work on a batch and replays it, where given.
        layout: of the images (default: `layout_for` the network).
        report: told in one line where the capture fails.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Batches,
        runtime: Runtime,
        loss_of: Callable[[Tensor, Tensor, Tensor], Tensor] = cross_entropy,
        graphs: CudaGraphs | None = None,
        layout: torch.memory_format | None = None,
        report: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.network, self.batches, self.runtime, self.loss_of = network, batches, runtime, loss_of
        self._sums = torch.zeros(4, dtype=torch.float64, device=runtime.device)
        self.layout = layout or layout_for(network, runtime)
        self._graphed = GraphedCallable(self._add, graphs, "evaluation", warm_up=1, report=report) if graphs else None
        self._take_in = self._graphed or self._add

    @property
    def execution(self) -> str:
        """How batches are evaluated: "captured", "warming up", or "eager: " and the reason."""
        return self._graphed.status if self._graphed else f"eager: {graphs_blocker(self.runtime) or 'once only'}"

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
        images = images.contiguous(memory_format=self.layout)
        with self.runtime.autocast():
            logits = self.network(images).float()
            loss = self.loss_of(images, logits, targets)
        ranked = logits.topk(min(5, logits.shape[1])).indices == targets[:, None]
        self._sums += torch.stack([ranked[:, 0].sum(), ranked.sum(), loss, loss.new_full((), len(logits))])


def evaluate(
    network: nn.Module, batches: Batches, runtime: Runtime, layout: torch.memory_format | None = None
) -> dict[str, float]:
    """`Evaluation`, once and by cross-entropy.

    Raises:
        TrainingError: more memory than the GPU has.
    """
    with explained_out_of_memory("evaluation", graphs=False):
        return Evaluation(network, batches, runtime, layout=layout)()
