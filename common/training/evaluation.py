"""Accuracy and loss of a network over a set of batches, and its logits for every image of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import BatchLoader
from common.training.cuda_graphs import CudaGraphs, GraphedCallable, graphs_blocker
from common.training.gpu_memory import explained_out_of_memory
from common.training.layouts import layout_for
from common.training.progress import count_of, progress
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
        title: what a person reads beside the progress, which is shown when it takes longer than a second.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: BatchLoader,
        runtime: Runtime,
        loss_of: Callable[[Tensor, Tensor, Tensor], Tensor] = cross_entropy,
        graphs: CudaGraphs | None = None,
        layout: torch.memory_format | None = None,
        report: Callable[[str], None] = lambda message: None,
        title: str = "evaluating",
    ) -> None:
        self.network, self.batches, self.runtime, self.loss_of = network, batches, runtime, loss_of
        self.title = title
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
        total = count_of(self.batches)
        for batch in progress(self.batches.epoch(), total, self.title, show=self.runtime.is_main, delay=1):
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
    network: nn.Module,
    batches: BatchLoader,
    runtime: Runtime,
    layout: torch.memory_format | None = None,
    title: str = "evaluating",
) -> dict[str, float]:
    """`Evaluation`, once and by cross-entropy.

    Raises:
        TrainingError: more memory than the GPU has.
    """
    with explained_out_of_memory("evaluation", graphs=False):
        return Evaluation(network, batches, runtime, layout=layout, title=title)()


@torch.inference_mode()
def collect(
    outputs: Callable[[Tensor], Mapping[str, Tensor]],
    batches: Any,
    runtime: Runtime,
    layout: torch.memory_format,
    *,
    predictions: bool = False,
    title: str = "evaluating",
) -> tuple[dict[str, Tensor], Tensor]:
    """What networks say about every image that `batches` shows, in the order of the set.

    Args:
        outputs: images -> logits by name, each [N, K]; in evaluation mode.
        batches: to evaluate on; the first images of their set, all where nothing limits them.
        runtime: where; ranks see their shares and all get the whole.
        layout: of the images.
        predictions: keep the predicted classes alone, [N], in place of logits.
        title: as of `Evaluation`.

    Returns:
        By name logits in float32 (or classes), and the targets [N]; on the CPU.
    """
    gathered: dict[str, Tensor] = {}

    def put(name: str, values: Tensor, indices: Tensor) -> None:
        if name not in gathered:
            gathered[name] = values.new_zeros(batches.samples, *values.shape[1:], device="cpu")
        gathered[name][indices] = values.cpu()

    for batch in progress(batches.epoch(), len(batches), title, show=runtime.is_main, delay=1):
        indices = batch.indices.cpu()
        images = batch.images.contiguous(memory_format=layout)
        with runtime.autocast():
            logits = {name: value.float() for name, value in outputs(images).items()}
        for name, value in logits.items():
            put(f"logits {name}", value.argmax(1) if predictions else value, indices)
        put("targets", batch.targets, indices)
    if runtime.distributed:  # each image is of one rank, and zero in all others
        gathered = {key: reduce_sum(value.to(runtime.device), runtime).cpu() for key, value in gathered.items()}
    targets = gathered.pop("targets")
    return {key.removeprefix("logits "): value for key, value in gathered.items()}, targets
