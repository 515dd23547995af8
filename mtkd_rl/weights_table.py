"""The agent's mean weights of each class, as JSON and as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from common.training.checkpoints import write_atomically
from common.training.runs import write_json
from mtkd_rl.methods import MultiTeacherRL

NAME = "teacher_weights"
ROW, COLUMN, LABELS, HEAD = 16, 92, 150, 70  # pixels
DARK = (8, 81, 156)  # colour of the largest weight; the smallest is white


def write_weights_table(method: MultiTeacherRL, classes: Sequence[str], directory: Path) -> None:
    """Write `teacher_weights.json` and `.svg` of the epoch just trained; classes that it did not see are left out."""
    names, M = method.teacher_names, len(method.teachers)
    rows = {
        name: {"logits": dict(zip(names, row[:M], strict=True)), "features": dict(zip(names, row[M:], strict=True))}
        for name, row in zip(classes, method.record.weights_by_class.tolist(), strict=True)
        if row[0] == row[0]  # else not a number: no sample of this class
    }
    write_json(directory / f"{NAME}.json", {"teachers": names, "classes": rows})
    picture = draw(names, {name: [*row["logits"].values(), *row["features"].values()] for name, row in rows.items()})
    write_atomically(directory / f"{NAME}.svg", lambda temporary: temporary.write_text(picture))


def draw(teachers: Sequence[str], rows: dict[str, list[float]]) -> str:
    """An SVG table, a row a class: the teachers' weights for logits, then for features; darker is larger."""
    largest = max((value for row in rows.values() for value in row), default=1)
    smallest = min((value for row in rows.values() for value in row), default=0)
    span = largest - smallest or 1
    parts = [_text(LABELS + i * COLUMN * len(teachers) + 4, 20, f"weights for {k}") for i, k in enumerate(KINDS)]
    parts += [_text(LABELS + i * COLUMN + 4, HEAD - 12, name) for i, name in enumerate([*teachers, *teachers])]
    for y, (label, row) in enumerate(rows.items()):
        top = HEAD + y * ROW
        parts.append(_text(4, top + 12, label))
        for x, value in enumerate(row):
            parts.append(_cell(LABELS + x * COLUMN, top, value, (value - smallest) / span))
    width, height = LABELS + 2 * len(teachers) * COLUMN, HEAD + len(rows) * ROW
    style = "<style>text{font:11px sans-serif}</style>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">{style}'
        f'<rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


KINDS = ("logits", "features")


def _text(x: int, y: int, text: str, colour: str = "black") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}">{escape(text)}</text>'


def _cell(x: int, y: int, value: float, shade: float) -> str:
    colour = ",".join(str(round(255 + (c - 255) * shade)) for c in DARK)
    box = f'<rect x="{x}" y="{y}" width="{COLUMN - 1}" height="{ROW - 1}" fill="rgb({colour})"/>'
    return box + _text(x + 28, y + 12, f"{value:.3f}", "white" if shade > 0.5 else "black")
