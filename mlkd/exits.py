"""What early exit buys: test accuracy and multiply-adds of every exit, as a table and as a picture."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

import torch
from torch import Tensor, nn

from common.results.curves import ticks
from common.training.runtime import Runtime, reduce_sum
from mlkd.student import EXITS, MultiResNetV2

Accuracies = dict[str, float]
"""Exit -> accuracy in percent; a network without early exits has `final` alone."""


@dataclasses.dataclass(frozen=True)
class ExitFigures:
    """One exit of a trained student.

    Attributes:
        exit: its name.
        multiply_adds: for one image, when nothing is computed that the exit does not need.
        best, last: test accuracy in percent of the chosen epoch's network and of the last one's.
    """

    exit: str
    multiply_adds: int
    best: float
    last: float


@torch.inference_mode()
def accuracies(student: MultiResNetV2, batches: Any, runtime: Runtime) -> Accuracies:
    """Accuracy of every exit in percent; the student is left in evaluation mode.

    Args:
        student: on the runtime's device.
        batches: to evaluate on.
        runtime: where.
    """
    student.eval()
    sums = torch.zeros(len(EXITS) + 1, dtype=torch.float64, device=runtime.device)
    for batch in batches.epoch():
        with runtime.autocast():
            heads = student.heads(batch.images)
        correct = [(heads[name].argmax(1) == batch.targets).sum() for name in EXITS]
        sums += torch.stack([*correct, correct[0].new_tensor(len(batch.targets))])
    *correct, count = reduce_sum(sums, runtime).tolist()
    return {name: 100 * hits / count for name, hits in zip(EXITS, correct, strict=True)}


def multiply_adds(student: MultiResNetV2, size: int) -> dict[str, int]:
    """Multiply-accumulates of convolutions and linear layers that each exit costs for one image of `size` pixels.

    Nothing is computed: shapes alone go through the network.
    """
    counts = dict.fromkeys(EXITS, 0)
    current = EXITS[0]

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts[current] += output.numel() * math.prod(module.weight.shape[1:])  # one output entry reads one filter

    hooks = [m.register_forward_hook(count) for m in student.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    state = {key: value.to("meta") for key, value in student.state_dict().items()}
    training = student.training
    student.eval()
    try:
        for current in EXITS:
            image = torch.empty(1, 3, size, size, device="meta", dtype=student.norm.weight.dtype)
            torch.func.functional_call(_OneExit(student, current), _under("student.", state), image)
    finally:
        student.train(training)
        for hook in hooks:
            hook.remove()
    return counts


class _OneExit(nn.Module):
    """A student that answers at one exit."""

    def __init__(self, student: MultiResNetV2, name: str) -> None:
        super().__init__()
        self.student, self.name = student, name

    def forward(self, images: Tensor) -> Tensor:
        return self.student.exit(images, self.name)


def _under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def table(figures: Sequence[ExitFigures]) -> list[str]:
    """The figures as lines for people."""
    whole = figures[-1].multiply_adds
    return [
        f"{f.exit}: {f.multiply_adds / 1e9:.3f} G multiply-adds ({f.multiply_adds / whole:.0%} of the final exit's), "
        f"test accuracy {f.best:.2f} (last epoch {f.last:.2f})"
        for f in figures
    ]


def picture(figures: Sequence[ExitFigures], title: str) -> str:
    """Accuracy of the chosen network over multiply-adds, as SVG that needs nothing else."""
    left, right, top, bottom, width, height = 70, 40, 50, 60, 640, 400
    costs = ticks(0, 1.1 * max(f.multiply_adds for f in figures) / 1e9)
    # half a point of room below and above also where all exits are alike
    accuracies = ticks(min(f.best for f in figures) - 0.5, max(f.best for f in figures) + 0.5)

    def x(cost: float) -> float:
        return left + (width - left - right) * cost / costs[-1]

    def y(accuracy: float) -> float:
        return height - bottom - (height - top - bottom) * (accuracy - accuracies[0]) / (accuracies[-1] - accuracies[0])

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"',
        ' font-family="sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{width / 2}" y="26" text-anchor="middle" font-size="15">{escape(title)}</text>',
        f'<text x="{width / 2}" y="{height - 14}" text-anchor="middle">multiply-adds an image, G</text>',
        f'<text transform="rotate(-90)" x="{-height / 2}" y="20" text-anchor="middle">test accuracy, %</text>',
    ]
    for accuracy in accuracies:
        parts += [
            f'<line x1="{left}" x2="{width - right}" y1="{y(accuracy):.1f}" y2="{y(accuracy):.1f}" stroke="#ddd"/>',
            f'<text x="{left - 8}" y="{y(accuracy) + 4:.1f}" text-anchor="end">{accuracy:g}</text>',
        ]
    for cost in costs:
        parts.append(f'<text x="{x(cost):.1f}" y="{height - bottom + 20}" text-anchor="middle">{cost:g}</text>')
    points = " ".join(f"{x(f.multiply_adds / 1e9):.1f},{y(f.best):.1f}" for f in figures)
    parts.append(f'<polyline points="{points}" fill="none" stroke="#4477aa" stroke-width="2"/>')
    for f in figures:
        at, name = f'x="{x(f.multiply_adds / 1e9):.1f}" y="{y(f.best) - 10:.1f}"', f.exit.replace("_", " ")
        halo = 'stroke="white" stroke-width="4" paint-order="stroke"'
        parts.append(f'<circle cx="{x(f.multiply_adds / 1e9):.1f}" cy="{y(f.best):.1f}" r="4" fill="#4477aa"/>')
        parts.append(f'<text {at} {halo} text-anchor="middle">{name}: {f.best:.1f}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
