"""Rows of `benchmarks/layouts.py`, one a check."""

from __future__ import annotations

from functools import partial

import torch

from benchmarks import layouts
from benchmarks.first_run.training import EAGER
from benchmarks.first_run.verdicts import AbsentError, Check, Finding, Place


def check_layout_row(network: str, precision: str, place: Place) -> Finding:
    """Both layouts, eager and replayed; a note where the table of layouts has the slower one."""
    if place.device.type == "cpu" and precision == "tf32":
        raise AbsentError("a CPU has no TensorFloat-32")
    torch.backends.cudnn.benchmark = True  # as runs have it
    amount = {"batch_size": 2, "rounds": 1, "seconds": 0.0} if place.miniature else layouts.QUICK
    row = layouts.measure(network, precision, EAGER.runtime(place.device), **amount)
    (line,) = layouts.report([row], place.device)
    rates = ", ".join(f"{layout} {mode} {rate:.0f}" for (layout, mode), rate in row.images_per_second.items())
    fell_back = {how for (_, mode), how in row.how.items() if layouts.MODES[mode] and how != "captured"}
    text = f"{rates} images/s; {line}{'; replayed: ' + '; '.join(fell_back) if fell_back else ''}"
    return Finding(text, row.content(), note=row.contradicts(place.device))


LAYOUT_ROWS = {
    f"layouts / {network}, {precision}": Check(partial(check_layout_row, network, precision), alone=True, limit=180.0)
    for network in layouts.NETWORKS
    for precision in layouts.WAYS
}
