"""`worklog.txt`: a block per epoch, in the published form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.atomic_write import write_text_atomically

RULE = "-" * 25
# published name -> name in metrics.jsonl
FIGURES = {
    "train_acc": "train/accuracy",
    "train_loss": "train/loss",
    "test_acc": "test/accuracy",
    "test_acc_top5": "test/top5",
    "test_loss": "test/loss",
}


def epoch_figures(line: dict[str, float]) -> dict[str, float]:
    """The published figures of one epoch of `metrics.jsonl`."""
    part = "test" if "test/accuracy" in line else "validation"  # of runs that do not look at the test split
    figures = {name: line[key.replace("test/", f"{part}/")] for name, key in FIGURES.items()}
    return {"lr": line["learning_rate"], **figures}


def write_worklog(file: Path, history: Sequence[dict[str, float]], epochs: int) -> None:
    """Write the whole log again, so that a resumed run has each epoch once.

    Args:
        file: `worklog.txt`.
        history: lines of `metrics.jsonl`.
        epochs: of the whole run; the best accuracy is added when they are over.
    """
    blocks = []
    for line in history:
        figures = "".join(f"{name}: {value:.2f}\n" for name, value in epoch_figures(line).items())
        blocks.append(f"{RULE}\nepoch: {line['epoch'] + 1}\n{figures}{RULE}\n")
    if len(history) == epochs:
        blocks.append(f"best_acc: {max(epoch_figures(line)['test_acc'] for line in history):.2f}\n{RULE}\n")
    write_text_atomically(file, "".join(blocks))
