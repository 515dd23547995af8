"""What an analysis says, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.results.tables import markdown

NONE = "–"
COLUMNS = {
    "agreement": "agreement, %",
    "agreement_where_teacher_wrong": "where the teacher is wrong, %",
    "kl": "KL",
    "kl_at_temperature": "KL at its temperature",
}


def render(result: Mapping[str, Any]) -> str:
    """The analysis as Markdown."""
    data = result["data"]
    blocks = [f"{data['name']} ({data['content']}), {result['images']} test images"]
    outputs = [(student, *output) for student in result["students"] for output in _outputs(student)]
    rows = [["student", label, *_own(figures)] for _, label, figures in outputs]
    rows += [["teacher", name, *_own(figures)] for name, figures in result["teachers"].items()]
    header = ["", "network", "accuracy, %", "NLL", "ECE, %", "best temperature", "ECE after it, %"]
    blocks.append(markdown(header, rows, left=2))
    rows = [
        [label, name, *(_show(fidelity[key]) for key in COLUMNS), _of_train(student, figures, name)]
        for student, label, figures in outputs
        for name, fidelity in figures["fidelity"].items()
    ]
    if rows:
        header = ["student", "teacher", *COLUMNS.values(), "agreement on training images, %"]
        blocks.append(markdown(header, rows, left=2))
    rows = [[s["label"], _show(s["train"]["accuracy"]), str(s["train"]["images"])] for s in _with_train(result)]
    if rows:
        blocks.append(markdown(["student", "accuracy on training images, %", "of so many"], rows, left=1))
    if "comparison" in result:
        blocks.append(_comparison(result["comparison"], *(student["label"] for student in result["students"])))
    return "\n\n".join(blocks) + "\n"


def _outputs(student: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Label and figures on the test split of a student, and of each of its earlier exits before it."""
    exits = student["test"].get("exits", {})
    named = [(f"{student['label']}, {name}", figures) for name, figures in exits.items()]
    return [*named, (student["label"], student["test"])]


def _with_train(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [student for student in result["students"] if "train" in student]


def _own(figures: Mapping[str, Any]) -> list[str]:
    words = [_show(figures["accuracy"]), _show(figures["nll"], 4), _show(figures["ece"])]
    return [*words, _show(figures.get("optimal_temperature"), 3), _show(figures.get("ece_at_optimal_temperature"))]


def _of_train(student: Mapping[str, Any], figures: Mapping[str, Any], teacher: str) -> str:
    """On the training split the final output alone is compared."""
    is_final = figures is student["test"]
    return _show(student["train"]["agreement"][teacher]) if is_final and "train" in student else NONE


def _show(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def _comparison(found: Mapping[str, Any], a: str, b: str) -> str:
    low, high = found["interval"]
    verdict = "they differ" if found["p"] < 0.05 else "no difference shown"
    classes = ", ".join(f"{name} {gap:+.1f}" for name, gap in found["classes"].items())
    return "\n".join(
        [
            f"A: {a}\nB: {b}",
            f"- give the same class to {found['agreement']:.2f} % of the images",
            f"- right: both {found['both']}, A alone {found['only_a']}, B alone {found['only_b']}, neither "
            f"{found['neither']} ({found['neither_and_different']} of these with different classes)",
            f"- B − A: {found['difference']:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}; "
            f"McNemar's exact test: p = {found['p']:.2g}, {verdict} (of these two networks, whatever other seeds give)",
            f"- classes with the largest differences in accuracy, B − A: {classes}",
        ]
    )
