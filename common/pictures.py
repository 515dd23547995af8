"""Pictures as SVG files, by matplotlib: the same figures give the same bytes, and text stays text."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.atomic_write import write_text_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure  # slow to import


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches."""
    from matplotlib.figure import Figure

    return Figure((width, height), layout="constrained")


def svg(figure: Figure) -> str:
    """The figure as an SVG document."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "kd-reference",
            "font.family": "sans-serif",
            "text.parse_math": False,
        }
    ):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def write_svg(figure: Figure, file: Path) -> None:
    """Write the figure whole or not at all."""
    write_text_atomically(file, svg(figure))


def table_picture(
    blocks: Mapping[str, Sequence[Sequence[float | None]]], rows: Sequence[str], columns: Sequence[str]
) -> Figure:
    """Tables side by side, darker where a number is larger.

    Args:
        blocks: title -> numbers, a row of `rows` each, with one for each of `columns`; None is left empty. Each block
            has a scale of its own.
        rows, columns: their labels.
    """
    import numpy as np

    figure = new_figure(1.6 + 0.95 * len(columns) * len(blocks), 1.0 + 0.17 * len(rows))
    for position, (title, numbers) in enumerate(blocks.items()):
        axes = figure.add_subplot(1, len(blocks), position + 1)
        values = np.array([[np.nan if v is None else v for v in row] for row in numbers], dtype=float)
        values = values.reshape(len(rows), len(columns))
        known = values[np.isfinite(values)]
        low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
        axes.imshow(values, cmap="Blues", vmin=low, vmax=max(high, low + 1e-12), aspect="auto")
        axes.set_title(title, fontsize=9)
        axes.set_xticks(range(len(columns)), columns, fontsize=7)
        axes.xaxis.tick_top()
        axes.set_yticks(range(len(rows)), rows if position == 0 else [""] * len(rows), fontsize=7)
        axes.tick_params(length=0)
        for (y, x), value in np.ndenumerate(values):
            if np.isfinite(value):
                dark = value > (low + high) / 2
                axes.text(x, y, f"{value:.3f}", fontsize=6, ha="center", va="center", color="w" if dark else "k")
    return figure
