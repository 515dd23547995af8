"""What early exit buys: test accuracy and MACs of every exit, as a table and as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.pictures import new_figure
from common.training.progress import count_of, progress
from common.training.runtime import Runtime, reduce_sum
from mlkd.student import EXITS, MultiResNetV2

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # slow to import

POLICY = "early exit by confidence, as its threshold moves"
POLICY_STEPS, NEVER = 101, 1.01  # thresholds: quantiles of the confidences, and one that none reaches

Accuracies = dict[str, float]
"""Exit -> accuracy in percent; a network without early exits has `final` alone."""


@dataclasses.dataclass(frozen=True)
class ExitFigures:
    """One exit of a trained student.

    Attributes:
        exit: its name.
        multiply_adds: MACs for one image, when nothing is computed that the exit does not need.
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
    total = count_of(batches)
    for batch in progress(batches.epoch(), total, "evaluating each exit", show=runtime.is_main, delay=1):
        with runtime.autocast():
            heads = student.heads(batch.images)
        correct = [(heads[name].argmax(1) == batch.targets).sum() for name in EXITS]
        sums += torch.stack([*correct, correct[0].new_tensor(len(batch.targets))])
    *correct, count = reduce_sum(sums, runtime).tolist()
    return {name: 100 * hits / count for name, hits in zip(EXITS, correct, strict=True)}


def count_macs(student: MultiResNetV2, size: int, *, earlier_heads: bool = False) -> dict[str, int]:
    """MACs of convolutions and linear layers that each exit costs for one image of `size` pixels, by PyTorch's counter.

    Nothing is computed: shapes alone go through the network.

    Args:
        student: on any device.
        size: of the images.
        earlier_heads: also what the exits before cost, whose logits a policy has looked at by then.
    """
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    state = {f"student.{key}": value.to("meta") for key, value in student.state_dict().items()}
    dtype, training = next(student.parameters()).dtype, student.training
    student.eval()
    try:
        image = torch.empty(1, 3, size, size, device="meta", dtype=dtype)
        with FlopCounterMode(display=False) as counter:
            torch.func.functional_call(_AllExits(student), state, image)
    finally:
        student.train(training)
    counts = counter.get_flop_counts()

    def macs(part: str) -> int:
        return sum(counts[f"{_AllExits.__name__}.student.{part}"].values()) // 2  # a multiplication and an addition

    heads = [macs(f"bottleneck{i}_1") + macs(f"middle_fc{i}") for i in range(len(EXITS) - 1)] + [macs("head")]
    costs, trunk = {}, macs("stem")
    for i, name in enumerate(EXITS):
        trunk += macs(f"stages{i}")
        costs[name] = trunk + (sum(heads[: i + 1]) if earlier_heads else heads[i])
    return costs


class _AllExits(nn.Module):
    """A student that answers at all exits."""

    def __init__(self, student: MultiResNetV2) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.student.heads(images)


@dataclasses.dataclass(frozen=True)
class PolicyPoint:
    """A student that leaves each image at the first exit whose confidence, the largest probability, is enough.

    Attributes:
        threshold: of the confidence; above 1 every image goes to the end.
        accuracy: on the test set, in percent.
        multiply_adds: MACs for one image, on average, with all heads that it has passed.
        shares: exit -> images that leave there, in percent.
    """

    threshold: float
    accuracy: float
    multiply_adds: float
    shares: dict[str, float]


def early_exit_policy(logits: Mapping[str, Tensor], targets: Tensor, costs: Mapping[str, int]) -> list[PolicyPoint]:
    """The policy as its threshold moves from 0 (all leave at the first exit) to beyond 1 (none leaves early).

    Args:
        logits: of every exit, [N, K].
        targets: [N].
        costs: MACs of each exit with all heads before it.
    """
    confidences = torch.stack([logits[name].double().softmax(1).amax(1) for name in EXITS])
    hits = torch.stack([logits[name].argmax(1) == targets for name in EXITS]).double()
    cost = torch.tensor([costs[name] for name in EXITS], dtype=torch.float64)
    steps = torch.linspace(0, 1, POLICY_STEPS, dtype=torch.float64)
    thresholds = [0.0, *torch.quantile(confidences[:-1].flatten(), steps).unique().tolist(), NEVER]
    points = []
    for threshold in thresholds:
        leaves = confidences >= threshold
        leaves[-1] = True
        chosen = leaves.double().argmax(0)  # the first
        accuracy = 100 * float(hits.gather(0, chosen[None]).mean())
        shares = torch.bincount(chosen, minlength=len(EXITS)).double() / len(targets)
        shown = dict(zip(EXITS, (100 * shares).tolist(), strict=True))
        points.append(PolicyPoint(threshold, accuracy, float((shares * cost).sum()), shown))
    return points


def table(figures: Sequence[ExitFigures]) -> list[str]:
    """The figures as lines for people."""
    whole = figures[-1].multiply_adds
    return [
        f"{f.exit}: {f.multiply_adds / 1e9:.3f} G MACs ({f.multiply_adds / whole:.0%} of the final exit's), "
        f"test accuracy {f.best:.2f} (last epoch {f.last:.2f})"
        for f in figures
    ]


def picture(figures: Sequence[ExitFigures], title: str, policy: Sequence[PolicyPoint] = ()) -> Figure:
    """Accuracy of the chosen network over MACs, of its exits and of a policy among them."""
    figure = new_figure(6.4, 4.0)
    axes = figure.add_subplot(title=title, xlabel="MACs per image, G", ylabel="test accuracy, %")
    if policy:
        costs = [point.multiply_adds / 1e9 for point in policy]
        axes.plot(costs, [point.accuracy for point in policy], color="#cc6644", label=POLICY)
        axes.legend(loc="lower right")
    costs, accuracies = [f.multiply_adds / 1e9 for f in figures], [f.best for f in figures]
    axes.plot(costs, accuracies, marker="o", color="#4477aa")
    for f, cost in zip(figures, costs, strict=True):
        name = f"{f.exit.replace('_', ' ')}: {f.best:.1f}"
        axes.annotate(name, (cost, f.best), (0, 8), textcoords="offset points", ha="center", fontsize=9)
    axes.margins(0.12, 0.15)
    axes.set_xlim(left=0)
    axes.grid(axis="y", color="#dddddd")
    return figure
