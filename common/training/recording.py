"""Work on a GPU that is recorded once and replayed: its hundreds of launches become one.

The networks of these papers are so small that a GPU computes faster than Python can tell it what to do; a CUDA graph
takes Python out of the step. Recorded are kernels and the addresses they work on, so everything that a step reads or
writes besides its inputs stays where it is, and numbers of the host are those of the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class CudaGraphs:
    """Records as CUDA graphs, which share their memory.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, function: Callable[[], Any]) -> Any:
        """Call `function` on the stream that records, as autograd wants it before a recording."""
        current = torch.cuda.current_stream()
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function()
        current.wait_stream(self.stream)
        return result

    def record(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """What calls `function` again, with the same result tensors each time; it has not been executed yet."""
        graph = torch.cuda.CUDAGraph()
        # thread_local: a thread that pins batches meanwhile is none of our business
        with torch.cuda.graph(graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"):
            result = function()

        def replay() -> Any:
            graph.replay()
            return result

        return replay


class Recorded:
    """`function`, called as it is at first, then recorded and replayed.

    Inputs of other shapes than the first ones (the last batch of an epoch) are never recorded. Where recording fails,
    `function` is called as it is from then on.

    Args:
        function: of tensors. Its result holds no part of an autograd graph and is valid until the next call.
        graphs: what records.
        warm_up: calls before the recording, in which memory is laid out and kernels are chosen.
        failed: told the reason, in one line, where recording fails.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        graphs: CudaGraphs,
        warm_up: int,
        failed: Callable[[str], None] = lambda reason: None,
    ) -> None:
        self.function, self.graphs, self.warm_up, self.failed = function, graphs, warm_up, failed
        self.inputs: list[Tensor] = []
        self.replay: Callable[[], Any] | None = None
        self.works = True

    def forget(self) -> None:
        """Record anew after the next call, because what the host had to say has changed."""
        self.replay = None
        self.warm_up = max(self.warm_up, 1)

    def __call__(self, *inputs: Tensor) -> Any:
        if not self.inputs:
            self.inputs = [tensor.clone() for tensor in inputs]
        fits = all(own.shape == given.shape for own, given in zip(self.inputs, inputs, strict=True))
        if not fits or not self.works:
            return self._run(inputs)
        if self.warm_up > 0:
            self.warm_up -= 1
            return self._run(inputs)
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        if self.replay is None:
            try:
                self.replay = self.graphs.record(lambda: self.function(*self.inputs))
            except RuntimeError as error:
                self.works = False
                self.failed(str(error).strip().partition("\n")[0])
                return self._run(inputs)
        return self.replay()

    def _run(self, inputs: tuple[Tensor, ...]) -> Any:
        return self.graphs.run(lambda: self.function(*inputs))
