"""One batch: losses, gradients, update; eager, or replayed from a CUDA graph."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from common.data import Batch
from common.training.cuda_graphs import CudaGraphs, GraphedCallable, graphs_blocker
from common.training.data_parallel import data_parallel
from common.training.epoch_sums import EpochSums
from common.training.fast_path import (
    capture_blocker,
    keep_implementation,
    keep_parameter_layout,
    use_fused,
    use_fused_loss_scaling,
)
from common.training.method import Method, StepOutput
from common.training.runtime import Runtime
from common.training.schedules import Schedule
from common.training.teacher_pass import TeacherPass

WARM_UP_STEPS = 3  # before a step is captured; what PyTorch's documentation of CUDA graphs does


@dataclasses.dataclass(frozen=True)
class Optimization:
    """How weights are updated.

    Attributes:
        make_optimizer: builds the optimizer from the trainable parameters.
        schedule: learning rate by position.
        epochs: how many to train.
        accumulation_steps: batches whose gradients are summed before each update; the last batch of an epoch updates
            with whatever has come together.
    """

    make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    schedule: Schedule
    epochs: int
    accumulation_steps: int = 1


class TrainingStep:
    """What is done with each batch.

    Args:
        method: losses and student, on the device.
        optimization: of its weights.
        runtime: device, precision, ranks.
        layout: of images in memory.
        report: takes what a person should know about how steps run.

    Attributes:
        optimizer, scaler: of the run.
        graphs: where steps and evaluations may be captured; None where they cannot.
        graphed: the step as it is replayed; None where each one is eager.
        sums: what the log shows of the epoch.
        teacher_pass: computes teachers' logits ahead of each epoch; None where steps do (`remember_teachers`).
    """

    def __init__(
        self,
        method: Method,
        optimization: Optimization,
        runtime: Runtime,
        layout: torch.memory_format,
        report: Callable[[str], None],
    ) -> None:
        self.method, self.optimization, self.runtime, self.layout = method, optimization, runtime, layout
        self.optimizer = optimization.make_optimizer(method.trainable_parameters())
        keep_parameter_layout(self.optimizer)
        keep_implementation(self.optimizer)
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.amp == "fp16")
        self._forward = self._wrapped()
        self._report = report
        self._epoch = 0  # that is being trained
        self._phase: float | None = None  # of it: steps of one phase are the same
        self.sums = EpochSums(runtime)
        self.teacher_pass: TeacherPass | None = None
        if runtime.device.type == "cuda" and not runtime.plain:
            use_fused(self.optimizer)
            if self.scaler.is_enabled():
                use_fused_loss_scaling(self.optimizer)
        self.graphed: GraphedCallable | None = None
        self._blocker = graphs_blocker(runtime)
        self.graphs = CudaGraphs(runtime.device) if self._blocker is None else None
        if self.graphs is not None:
            self._blocker = capture_blocker(method, self.optimizer, runtime, optimization.accumulation_steps)
            if self._blocker is None:
                self.capture(self.graphs)
            else:
                report(f"steps: not captured as a CUDA graph: {self._blocker}")

    def _wrapped(self) -> nn.Module:
        module: nn.Module = self.method
        if self.runtime.compile:
            module = torch.compile(self.method)  # pyright: ignore[reportAssignmentType]  # of a module a module
        return data_parallel(module, self.method.trainable_parameters()) if self.runtime.distributed else module

    @contextlib.contextmanager
    def surroundings(self) -> Iterator[None]:
        """PyTorch's own settings while steps are taken; they are put back."""
        with contextlib.ExitStack() as stack:
            if self.runtime.compile:
                stack.enter_context(compiler_settings(self.runtime.device))
            if self.runtime.distributed:
                stack.enter_context(warnings.catch_warnings())
                # of 1 x 1 convolutions, whose gradients are laid out alike in both memory formats
                warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
            yield

    def capture(self, graphs: CudaGraphs, warm_up: int = WARM_UP_STEPS) -> None:
        """Replay steps from a capture, made after `warm_up` eager ones; the learning rate then lies on the device."""
        self.device_lr = torch.zeros((), device=self.runtime.device)
        way_out = "--no-graphs, or leave graph_capturable out of the method"
        self.graphed = GraphedCallable(self.update, graphs, "steps", warm_up, self._report, way_out)

    @property
    def status(self) -> str:
        """How steps run: "captured", "warming up", or "eager: " and the reason."""
        return self.graphed.status if self.graphed else f"eager: {self._blocker}"

    def begin_epoch(self, epoch: int) -> None:
        """Sums at zero; what was captured of earlier epochs stays where steps are the same."""
        self._epoch, before = epoch, self._phase
        self._phase = min(epoch, self.method.epoch_dependent_until)
        if self._phase == before:
            self.sums.reset()
            return
        self.sums = EpochSums(self.runtime)  # losses may have other names now
        self.invalidate()

    def state_was_replaced(self) -> None:
        """Forget what was captured: it works on other tensors."""
        self._phase = None

    def invalidate(self) -> None:
        """Let the next step be captured anew."""
        if self.graphed:
            self.graphed.invalidate()

    def __call__(self, batch: Batch, iteration: int, iterations: int) -> StepOutput:
        """Take the step of batch `iteration` of `iterations` of the epoch.

        Returns:
            Its logits and losses, detached; a replay overwrites them.
        """
        self.set_lr(self.optimization.schedule(self._epoch, iteration, iterations))
        if self.teacher_pass and not self.teacher_pass.advance(len(batch.targets)):
            self.invalidate()
        if self.graphed:
            output = self.graphed(*batch.inputs)
        else:
            summed = self.optimization.accumulation_steps
            output = self.update(
                *batch.inputs,
                # ranks average their gradients; with shares of unequal size each counts by its samples
                loss_weight=len(batch.targets) * self.runtime.world_size / batch.global_size,
                zero_grad=iteration % summed == 0,
                step=(iteration + 1) % summed == 0 or iteration + 1 == iterations,
            )
        self.method.after_step(self._epoch, iteration, iterations)
        return output

    def set_lr(self, lr: float) -> None:
        """Update by this learning rate from now on."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.graphed:
            self.device_lr.fill_(lr)

    def update(
        self,
        images: Tensor,
        targets: Tensor,
        indices: Tensor,
        *strong_images: Tensor,
        loss_weight: float = 1.0,
        zero_grad: bool = True,
        step: bool = True,
    ) -> StepOutput:
        """Losses and gradients of a batch, and what the optimizer makes of them; all of it on the device.

        Args:
            images, targets, indices, strong_images: the `inputs` of a `Batch`.
            loss_weight: by which the losses are scaled.
            zero_grad: forget the gradients of the batches before.
            step: let the optimizer have its turn.
        """
        views = [view.contiguous(memory_format=self.layout) for view in (images, *strong_images)]
        if self.teacher_pass:
            self.teacher_pass.batch.show(views[0])
        with self.runtime.autocast():
            output = self._forward(views[0], targets, indices, self._epoch, *views[1:])
        if zero_grad:
            self.optimizer.zero_grad(set_to_none=True)
        weighted = {name: loss if loss_weight == 1 else loss * loss_weight for name, loss in output.losses.items()}
        self.method.backward({name: self.scaler.scale(loss) for name, loss in weighted.items()}, self.optimizer)
        if step:
            self._step_optimizer()
        detached = StepOutput(output.logits.detach(), {name: loss.detach() for name, loss in output.losses.items()})
        self.sums.update(detached, targets)
        self.method.after_update(output.transition)
        return detached

    def _step_optimizer(self) -> None:
        lrs = [group["lr"] for group in self.optimizer.param_groups]
        if self.graphed:
            for group in self.optimizer.param_groups:
                group["lr"] = self.device_lr
        try:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        finally:
            for group, lr in zip(self.optimizer.param_groups, lrs, strict=True):
                group["lr"] = lr  # a number again: checkpoints hold it


def compiler_settings(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Settings of `torch.compile` for steps on a device."""
    from torch._inductor import config, cpu_vec_isa  # slow to import

    settings: dict[str, int] = {"fallback_random": True}  # dropout masks as without compilation
    if device.type == "cpu":
        # PyTorch 2.14 keeps what it compiled for the next process, but not for which instruction set: under another
        # (ATEN_CPU_CAPABILITY) it would write past the ends of its arrays. These settings are part of its key.
        settings["cpp.simdlen"] = cpu_vec_isa.pick_vec_isa().bit_width()
    return config.patch(settings)
