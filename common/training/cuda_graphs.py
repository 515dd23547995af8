"""Work on a GPU that is captured once and replayed: its hundreds of launches become one.

The networks of these papers are so small that a GPU computes faster than Python can tell it what to do; a CUDA graph
takes Python out of the step. Captured are kernels and the addresses they work on, so everything that a step reads or
writes besides its inputs stays where it is, and numbers of the host are those of the capture.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from common.errors import TrainingError
from common.training.gpu_memory import explained_out_of_memory
from common.training.runtime import Runtime

# A capture that a kernel has broken cannot be ended. From this version on PyTorch cleans up after it; before, the
# allocator and (until 2.12) the generator of random numbers stay inside the capture for good.
CLEANS_UP = (2, 14)


def graphs_blocker(runtime: Runtime) -> str | None:
    """Why a run has no CUDA graphs at all; None where it has."""
    if runtime.device.type != "cuda":
        return "no GPU"
    if runtime.plain:
        return "--plain"
    return None if runtime.graphs else "--no-graphs"


class CaptureError(RuntimeError):
    """A capture that failed; says what stopped it.

    Attributes:
        recoverable: whether this process can go on computing on its GPU.
    """

    def __init__(self, cause: BaseException, recoverable: bool) -> None:
        super().__init__(" ".join(str(cause).strip().partition("\n")[0].split()) or type(cause).__name__)
        self.recoverable = recoverable


class CudaGraphs:
    """Captures CUDA graphs, which share their memory.

    Args:
        device: a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self._open_pool()

    def _open_pool(self) -> None:
        """Memory for all graphs, kept open by a graph of its own.

        Graphs are given up before the next are captured. A pool whose last graph is gone is closed, and up to PyTorch
        2.11 at least, not even a `torch.cuda.MemPool` keeps its part in pinned memory open (seen on an H100).
        """
        self.pool, self._keeper = torch.cuda.graph_pool_handle(), torch.cuda.CUDAGraph()
        with torch.cuda.stream(self.stream):
            self._keeper.capture_begin(pool=self.pool, capture_error_mode="thread_local")
            torch.zeros(1, device=self.device)
            self._keeper.capture_end()

    def run(self, function: Callable[[], Any]) -> Any:
        """Call `function` on the stream that captures, as autograd wants it before a capture."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            result = function()
        current.wait_stream(self.stream)
        return result

    def capture(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """What calls `function` again, with the same result tensors each time; it has not been executed yet.

        Not by `torch.cuda.graph`: where a capture cannot be ended, that leaves its stream the current one, and its
        error hides the cause.

        Raises:
            CaptureError: the stream is the one of before again.
        """
        gc.collect()  # now: graphs that are given up give memory back, which must not happen within a capture
        torch.cuda.synchronize(self.device)
        torch.cuda.empty_cache()  # what the warm-up took, the pool needs
        graph, result, cause, ended = torch.cuda.CUDAGraph(), None, None, True
        with torch.cuda.stream(self.stream):
            try:
                # thread_local: a thread that pins batches meanwhile is none of our business
                graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                result = function()
            except Exception as error:
                cause = error
            try:
                graph.capture_end()  # also after a failure: the stream has to leave the capture
            except RuntimeError as error:
                cause, ended = cause or error, False
        if cause is not None:
            raise CaptureError(cause, self._recovered(graph, ended)) from cause

        def replay() -> Any:
            graph.replay()
            return result

        return replay

    def _recovered(self, graph: torch.cuda.CUDAGraph, ended: bool) -> bool:
        """Whether stream, allocator and generator work after a failed capture, by trying them."""
        if not ended and torch_version() < CLEANS_UP:
            return False
        try:
            graph.reset()
            self._open_pool()  # what the old one holds, steps without a graph need
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
            with torch.random.fork_rng([self.device]):
                torch.rand(1, device=self.device)
            torch.cuda.synchronize(self.device)
        except RuntimeError:
            return False
        return not torch.cuda.is_current_stream_capturing()


def torch_version() -> tuple[int, int]:
    """Major and minor number."""
    major, minor, *_ = torch.__version__.split(".")
    return int(major), int(minor)


class GraphedCallable:
    """`function`, called as it is at first, then captured and replayed.

    Inputs of other shapes than the first ones (the last batch of an epoch) are never captured. Where the capture fails,
    `function` is called as it is from then on.

    Args:
        function: of tensors. Its result holds no part of an autograd graph and is valid until the next call.
        graphs: what captures.
        what: is called, for messages: "steps", "evaluation".
        warm_up: calls before the capture, in which memory is laid out and kernels are chosen.
        report: told in one line where the capture fails.
        way_out: what to do where the process cannot go on after that.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        graphs: CudaGraphs,
        what: str,
        warm_up: int,
        report: Callable[[str], None] = lambda message: None,
        way_out: str = "--no-graphs",
    ) -> None:
        self.function, self.graphs, self.what, self.warm_up, self.report = function, graphs, what, warm_up, report
        self.way_out = way_out
        self.inputs: list[Tensor] = []
        self.replay: Callable[[], Any] | None = None
        self.failure: str | None = None

    @property
    def status(self) -> str:
        """How calls run now: "captured", "warming up", or "eager: " and the reason."""
        if self.failure is not None:
            return f"eager: {self.failure}"
        return "captured" if self.replay else "warming up"

    def invalidate(self) -> None:
        """Capture again after the next call, because what the host had to say has changed."""
        self.replay = None
        self.warm_up = max(self.warm_up, 1)

    def __call__(self, *inputs: Tensor) -> Any:
        """Raises:
        TrainingError: the GPU's memory is full, or its state is lost after a failed capture.
        """
        if not self.inputs:
            self.inputs = [tensor.clone() for tensor in inputs]
        if self.failure is not None:
            return self._run(inputs, self.what)
        if any(own.shape != given.shape for own, given in zip(self.inputs, inputs, strict=True)):
            return self._run(inputs, f"{self.what} on a batch of another size")
        if self.warm_up > 0:
            self.warm_up -= 1
            return self._run(inputs, f"{self.what} before their capture")
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        if self.replay is None:
            self._capture()
        return self.replay() if self.replay else self._run(inputs, self.what)

    def _run(self, inputs: tuple[Tensor, ...], what: str) -> Any:
        with explained_out_of_memory(what, graphs=self.failure is None):
            return self.graphs.run(lambda: self.function(*inputs))

    def _capture(self) -> None:
        try:
            self.replay = self.graphs.capture(lambda: self.function(*self.inputs))
        except CaptureError as error:
            if not error.recoverable:
                raise TrainingError(
                    f"{self.what} cannot be captured as a CUDA graph ({error}), and PyTorch {torch.__version__} cannot "
                    f"go on in this process: use {self.way_out}"
                ) from error
            self.failure = str(error)
            self.report(f"{self.what}: not captured as a CUDA graph: {error}")
