"""How much of a GPU's memory a run takes, and one line where a run takes more memory than there is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from common.errors import TrainingError, is_out_of_memory, memory_shortage

MIB = 2**20


def peak_memory(device: torch.device) -> dict[str, float] | None:
    """The most that this process has held since it began or since `reset_peak_memory`, in MiB; None on a CPU.

    Returns:
        `allocated` in tensors, `reserved` from the device; what a captured graph keeps for its replays is in the second
        alone.
    """
    if device.type != "cuda":
        return None
    peaks = {
        "allocated": torch.cuda.max_memory_allocated(device),
        "reserved": torch.cuda.max_memory_reserved(device),
    }
    return {name: round(peak / MIB, 1) for name, peak in peaks.items()}


def reset_peak_memory(device: torch.device) -> None:
    """Begin a new peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


@contextlib.contextmanager
def explained_out_of_memory(what: str, *, graphs: bool) -> Iterator[None]:
    """Turn running out of memory, of a GPU or of the host, into one line.

    Args:
        what: needed it.
        graphs: whether a captured graph holds memory beside it.

    Raises:
        TrainingError: says what to lower.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        ways = ["a smaller batch size", "--amp bf16"]
        if graphs:
            ways.append("--no-graphs, which does not keep a captured step's memory beside that of other steps")
        raise TrainingError(f"{what}: {memory_shortage(error)}; take {', or '.join(ways)}") from error
