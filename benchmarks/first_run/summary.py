"""What a first run has found, for people: the tables of `benchmarks/README.md` in Markdown."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks import layouts
from benchmarks.first_run.verdicts import ABSENT, FAILED, NOTE, OK, Verdict

FIGURES_ONLY = ("speed /", "layouts /")


def summary(verdicts: Sequence[Verdict], device: torch.device) -> list[str]:
    """Failures and notes, then the tables of what was measured, then how many checks came to what."""
    lines = ["# First run on a GPU" if device.type == "cuda" else f"# First run, in miniature on {device}", ""]
    for status in (FAILED, NOTE):
        lines += [f"- {verdict}" for verdict in verdicts if verdict.status == status]
    lines += speed_table(verdicts) + layout_table(verdicts, device)
    counts = Counter(verdict.status for verdict in verdicts)
    return [*lines, "", ", ".join(f"{counts[status]} {status}" for status in (OK, NOTE, FAILED, ABSENT))]


def everything(verdicts: Sequence[Verdict], device: torch.device) -> list[str]:
    """The summary, then all checks of correctness in the order in which they ended."""
    rows = [
        [v.name, v.status, v.text.replace("|", "/"), f"{v.seconds:.1f}"]
        for v in verdicts
        if not v.name.startswith(FIGURES_ONLY) or v.status != OK
    ]
    return [*summary(verdicts, device), *table("Checks", ["check", "verdict", "found", "s"], rows)]


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """In Markdown, with its title; nothing without rows."""
    if not rows:
        return []
    lines = [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]
    return ["", f"## {title}", "", *lines]


def figures_of(verdicts: Sequence[Verdict], prefix: str) -> dict[str, dict[str, Any]]:
    """What the checks of a kind have measured, by the rest of their names."""
    return {v.name.removeprefix(prefix): v.figures for v in verdicts if v.name.startswith(prefix) and v.figures}


def speed_table(verdicts: Sequence[Verdict]) -> list[str]:
    """Steps of each paper's setting in each way, beside `--plain`."""
    measured = figures_of(verdicts, "speed / ")
    rows = []
    for name, own in sorted(measured.items(), key=lambda item: item[0].partition(",")[0]):  # a paper's together
        paper, _, way = name.partition(", ")
        rate = statistics.median(own["steps_per_second"])
        plain = measured.get(f"{paper}, plain")
        memory, size = own["execution"]["peak_memory_mib"], own["batch_size"]
        low, high = (size * of(own["steps_per_second"]) for of in (min, max))
        rows.append(
            [
                f"{own['setting']}, batch {size}",
                way,
                f"{size * rate:.0f} ({low:.0f} to {high:.0f})",
                f"{rate / statistics.median(plain['steps_per_second']):.2f}" if plain else "",
                f"{rate * own['flops_per_step'] * 1e-12:.2f}",
                f"{own['share']:.3f}",
                f"{memory['allocated']:.0f}" if memory else "",
                f"{own['execution']['layout']}, {own['execution']['step']}",
            ]
        )
    head = ["setting", "way", "images/s", "to plain", "TFLOP/s", "of a product", "peak MiB", "ran"]
    return table("Steps", head, rows)


def layout_table(verdicts: Sequence[Verdict], device: torch.device) -> list[str]:
    """Images per second in both layouts, and what they say of the table of layouts."""
    measured = [layouts.Row.of(content) for content in figures_of(verdicts, "layouts / ").values()]
    head = ["network", "convolutions", "precision"]
    head += [f"{mode}, {layout}" for mode in layouts.MODES for layout in (*layouts.FORMATS, "ratio")]
    rows = []
    for row in measured:
        cells = [row.network, row.kind, row.precision]
        for mode in layouts.MODES:
            cells += [f"{row.images_per_second[layout, mode]:.0f}" for layout in layouts.FORMATS]
            cells.append(f"{row.ratio(mode):.2f}")
        rows.append(cells)
    lines = table("Memory layouts, images/s", head, rows)
    return [*lines, "", *(f"- {line}" for line in layouts.report(measured, device))] if measured else []
