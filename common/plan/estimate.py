"""How long the rest of a plan takes, from measured step times.

A run's images are those that it trains on and, as a forward pass alone, a third of those that it is tested on. How many
a second go through is known from the finished runs of the same experiment below the directory of results, under any
budget, else from `experiments/step_times.json` (`python -m benchmarks.step_times` measures that), there also from the
experiment whose variant it is: that of the same name without its last words.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.hardware import cpu_name
from common.plan.datasets import images_of
from common.plan.tasks import Task, read_records
from common.results.reported import read_data

STEP_TIMES = "step_times.json"
BATCH_SIZE_FLAGS = ("SOLVER.BATCH_SIZE", "--batch_size", "--batch-size", "-b")
BATCH_SIZE = 64  # published default of every script that has such a flag
FORWARD_SHARE = 1 / 3
# float32 rates in TFLOP/s: of a product of matrices beside the measured steps (benchmarks/README.md) ...
CPU_TERAFLOPS = 0.165
# ... and of classes of GPUs, by NVIDIA's data sheets
GPU_CLASSES = {"(T4 class, 8.1 TFLOP/s)": 8.1, "(A100 class, 19.5 TFLOP/s)": 19.5}
ENOUGH_BATCHES = 10  # an epoch, for its speed to mean something


def estimate(tasks: Sequence[Task], output: Path, experiments: Path) -> str:
    """The hours that `tasks` take, in words, with the hardware that this holds for.

    Args:
        tasks: those that are to be done.
        output: directory of results.
        experiments: with `step_times.json`.
    """
    file = experiments / STEP_TIMES
    table = read_data(file) if file.is_file() else {"hardware": "nothing", "date": "never", "runs": {}}
    own = own_rates(output)
    hours: dict[str, float] = defaultdict(float)
    unknown = []
    for task in tasks:
        if not task.run.trains:
            continue
        measured = measured_step(task, table["runs"])
        if measured is None:
            unknown.append(task.name)
            continue
        rate = own.get(f"{task.run.paper} {task.run.experiment}", measured["images_per_second"])
        hours[task.run.paper] += images(task, measured["epochs"]) / rate / 3600
    papers = ", ".join(f"{paper} {duration(value)}" for paper, value in hours.items())
    total = sum(hours.values())
    where = "this machine's CPU" if table["hardware"].startswith(f"{cpu_name()} (CPU)") else "a CPU"
    lines = [f"estimate of what remains, run after run, on {where}: {duration(total)}" + (papers and f" ({papers})")]
    if hours:
        lines.append(f"  by steps measured on {table['hardware']}, {table['date']}, and by finished runs in {output}")
        gpus = (f"{duration(total * CPU_TERAFLOPS / speed)} {name}" for name, speed in GPU_CLASSES.items())
        lines.append(f"  expected on a GPU, not measured, in proportion to float32 rates: {', '.join(gpus)}")
    if unknown:
        lines.append(f"  without {len(unknown)} runs that were never measured, such as {unknown[0]}")
    return "\n".join(lines)


def duration(hours: float) -> str:
    """For people: in minutes below an hour."""
    if 0 < 60 * hours < 1:
        return "under a minute"
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


def measured_step(task: Task, table: dict[str, Any]) -> dict[str, Any] | None:
    """What `step_times.json` has for a task."""
    words = task.run.experiment.split()
    names = (f"{task.run.paper} {' '.join(words[:n])}" for n in range(len(words), 0, -1))
    return next((table[name] for name in names if name in table), None)


def images(task: Task, published_epochs: int) -> float:
    """How many images a task trains on, and those that it is tested on at their share."""
    train, test = images_of(task.run.dataset, task.budget.generated)
    options = dict(zip(task.arguments, task.arguments[1:], strict=False))  # of a flag given twice, the last counts
    batch_size = (task.params or {}).get("batch_size", BATCH_SIZE)
    batch_size = next((int(options[flag]) for flag in BATCH_SIZE_FLAGS if flag in options), batch_size)
    if limit := options.get("--limit-train-batches"):
        train = min(train, int(limit) * batch_size)
    if limit := options.get("--limit-eval-batches"):
        test = min(test, int(limit) * batch_size)
    return int(options.get("--epochs", published_epochs)) * (train + FORWARD_SHARE * test)


def own_rates(output: Path) -> dict[str, float]:
    """Images per second of each experiment in the longer runs below `output`, the median over its epochs."""
    rates: dict[str, list[float]] = defaultdict(list)
    for home in sorted(output.glob("*/seed_*/*")):
        for experiment, record in read_records(home).items():
            on_cpu = record.content.get("runtime", {}).get("device", "cpu") == "cpu"
            if record.done and on_cpu and (record.content["budget"]["batches"] or ENOUGH_BATCHES) >= ENOUGH_BATCHES:
                rates[f"{home.name} {experiment}"] += epoch_rates(record.directory / "metrics.jsonl")
    return {key: statistics.median(values) for key, values in rates.items() if values}


def epoch_rates(file: Path) -> list[float]:
    """Images per second of the epochs in a `metrics.jsonl`; the first one, which warms up, only where it is alone."""
    try:
        rates = [json.loads(line)["images_per_second"] for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError, KeyError):
        return []
    return rates[1:] or rates
