"""Interleaved timing of two ways of doing the same."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from common.hardware import cpu_name


def interleave(sides: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Run the sides in turn, one warm-up round first.

    Args:
        sides: name -> a function that does a piece of work and returns how much it was: images, or operations.
        rounds: measurements of each side.

    Returns:
        Images, or operations, per second of each measurement.
    """
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for measured in range(-1, rounds):
        for name, work in sides.items():
            started = time.perf_counter()
            amount = work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if measured >= 0:
                rates[name].append(amount / (time.perf_counter() - started))
    return rates


def report(title: str, rates: dict[str, list[float]]) -> None:
    """Print the median, spread and ratio to the first side."""
    print(f"{title} | {hardware()}, {torch.get_num_threads()} threads, {len(next(iter(rates.values())))} rounds")
    medians = {name: statistics.median(values) for name, values in rates.items()}
    reference = next(iter(medians.values()))
    for name, values in rates.items():
        spread = f"{min(values):.0f} to {max(values):.0f}"
        print(f"  {name:30} {medians[name]:10.0f} images/s  ({spread})  ratio {medians[name] / reference:.2f}")


def how_it_ran(execution: dict[str, Any]) -> str:
    """What a run's record says about how it computed (`Trainer.execution`), in a line."""
    memory = execution["peak_memory_mib"]
    parts = [f"steps {execution['step']}", execution["layout"], execution["precision"]]
    if memory:
        parts.append(f"peak memory {memory['allocated']:.0f} MiB allocated, {memory['reserved']:.0f} MiB reserved")
    return ", ".join(parts)


def hardware() -> str:
    """What measured, with which versions, and when."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    versions = f"torch {torch.__version__}, python {platform.python_version()}"
    return f"{cpu_name()}, {gpu}, {versions}, {time.strftime('%Y-%m-%d')}"
