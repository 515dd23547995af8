"""Accuracies at the exits, and the picture of them."""

from xml.etree import ElementTree

import pytest
import torch

from common.data import Batch
from common.training.runtime import Runtime
from mlkd.exits import ExitFigures, accuracies, picture, table
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
    assert lines[0].startswith("exit_1: 1.000 G multiply-adds (25% of the final exit's), test accuracy 40.00")


@pytest.mark.parametrize("figures", [FIGURES, [ExitFigures(n, 5, 12.5, 0.0) for n in EXITS]], ids=["rising", "equal"])
def test_picture(figures):
    """Well-formed, nothing from outside, all points within the frame, costs to the right and accuracies upwards."""
    svg = picture(figures, "a & b <c>")
    root = ElementTree.fromstring(svg)
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "")
    space = "{http://www.w3.org/2000/svg}"
    points = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{space}circle")]
    assert len(points) == 4
    assert all(70 <= x <= 600 and 50 <= y <= 340 for x, y in points)
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))
    words = "".join(text.text for text in root.iter(f"{space}text"))
    assert "a & b <c>" in words
    assert f"exit 1: {figures[0].best:.1f}" in words
