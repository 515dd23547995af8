"""Accuracies at the exits, and the picture of them."""

from xml.etree import ElementTree

import pytest
import torch

from common.data import Batch
from common.pictures import svg
from common.training.runtime import Runtime
from mlkd.exits import ExitFigures, accuracies, early_exit_policy, picture, table
from mlkd.student import EXITS


class Always(torch.nn.Module):
    """Says class i at the i-th exit."""

    def heads(self, images):
        return {name: torch.eye(4)[[i] * len(images)] for i, name in enumerate(EXITS)}


class Targets:
    def epoch(self):
        for targets in ([0, 0, 0, 1, 2], [1, 0, 3]):
            yield Batch(torch.zeros(len(targets), 1), torch.tensor(targets), None, len(targets))


def test_accuracies():
    found = accuracies(Always(), Targets(), Runtime(torch.device("cpu")))
    assert found == {"exit_1": 50.0, "exit_2": 25.0, "exit_3": 12.5, "final": 12.5}


FIGURES = [ExitFigures(name, 10**9 * (i + 1), 40.0 + 10 * i, 39.0) for i, name in enumerate(EXITS)]


def test_table():
    lines = table(FIGURES)
    assert len(lines) == 4
    assert lines[0].startswith("exit_1: 1.000 G MACs (25% of the final exit's), test accuracy 40.00")


@pytest.mark.parametrize("figures", [FIGURES, [ExitFigures(n, 5, 12.5, 0.0) for n in EXITS]], ids=["rising", "equal"])
def test_picture(figures):
    """Well-formed, nothing from outside, the same bytes each time, costs to the right and accuracies upwards."""
    drawn = picture(figures, "a & b <c>")
    text = svg(drawn)
    assert text == svg(picture(figures, "a & b <c>"))
    root = ElementTree.fromstring(text)
    (line,) = drawn.axes[0].lines
    assert list(zip(*line.get_data(), strict=True)) == [(f.multiply_adds / 1e9, f.best) for f in figures]
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a & b <c>", f"exit 1: {figures[0].best:.1f}"} <= set(words)
    assert not [
        value for element in root.iter() for key, value in element.items() if key.endswith("href") and value[0] != "#"
    ]


def test_the_policy_by_a_loop():
    """Each image leaves at the first exit that is confident enough, and pays for all that it has passed."""
    random = torch.Generator().manual_seed(0)
    targets = torch.randint(3, (50,), generator=random)
    logits = {name: (i + 1) * torch.randn(50, 3, generator=random) for i, name in enumerate(EXITS)}
    costs = dict(zip(EXITS, (10, 30, 60, 100), strict=True))
    points = early_exit_policy(logits, targets, costs)
    assert [p.threshold for p in points] == sorted(p.threshold for p in points)
    assert [p.multiply_adds for p in points] == sorted(p.multiply_adds for p in points)
    assert (points[0].multiply_adds, points[-1].multiply_adds) == (10, 100)
    for point in (points[0], points[20], points[50], points[-1]):
        hits = cost = 0
        for i, target in enumerate(targets.tolist()):
            for name in EXITS:
                confidence, predicted = logits[name][i].double().softmax(0).max(0)
                if confidence >= point.threshold or name == "final":
                    hits, cost = hits + (int(predicted) == target), cost + costs[name]
                    break
        assert point.accuracy == pytest.approx(100 * hits / 50)
        assert point.multiply_adds == pytest.approx(cost / 50)
        assert sum(point.shares.values()) == pytest.approx(100)
