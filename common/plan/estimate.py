"""How long the rest of a plan takes, from measured step times.

A run's images are those that it trains on and, as a forward pass alone, a third of those that it is tested on. How many
a second go through is known from the finished runs of the same experiment below the directory of results, under any
budget, else from `experiments/step_times.json` (`python -m benchmarks.step_times` measures that), there also from the
experiment whose variant it is: that of the same name without its last words.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.hardware import cpu_name
from common.plan.datasets import images_of
from common.plan.tasks import Task, read_records
from common.run_record import read_metrics
from common.safe_json import of_its_shape, read_json_file

STEP_TIMES = "step_times.json"
BATCH_SIZE_FLAGS = ("SOLVER.BATCH_SIZE", "--batch_size", "--batch-size", "-b")
BATCH_SIZE = 64  # published default of every script that has such a flag
FORWARD_SHARE = 1 / 3
# Times as fast as the CPU thread of `step_times.json` an H100 takes a step in float32, teacher included: 57 (EDKD,
# resnet20), 67 (MTKD-RL, ShuffleV2), 77 (Tf-KD, shufflenet_v2), 127 (EDKD, resnet8x4); their geometric mean
# (benchmarks/README.md). Other classes of GPUs in proportion to float32 rates in TFLOP/s, by NVIDIA's data sheets; the
# H100's is that of a product of matrices.
H100_SPEEDUP = 78
H100_TERAFLOPS = 52.0
GPU_CLASSES = {"T4 class": 8.1, "A100 class": 19.5, "H100": H100_TERAFLOPS}
ENOUGH_BATCHES = 10  # an epoch, for its speed to mean something


def estimate(tasks: Sequence[Task], output: Path, experiments: Path, jobs: int = 1) -> str:
    """The hours that `tasks` take, in words, with the hardware that this holds for.

    Args:
        tasks: those that are to be done.
        output: directory of results.
        experiments: with `step_times.json`.
        jobs: how many are to run at a time.
    """
    table = step_times(experiments)
    own, cache = own_rates(output), TeacherCache()
    hours: dict[str, float] = defaultdict(float)
    unknown, saved, by_own = [], 0.0, False
    for task in tasks:
        if not task.run.trains:
            continue
        measured = measured_step(task, table["runs"])
        if measured is None:
            unknown.append(task.name)
            continue
        share = cache.saved_share(task, measured)
        rate = own.get(f"{task.run.paper} {task.run.experiment}")
        by_own = by_own or rate is not None
        if rate is None:  # else what was measured had logits from the cache already
            rate = measured["images_per_second"]
            less = share * trained_images(task, measured["epochs"]) / rate / 3600
            hours[task.run.paper] -= less
            saved += less
        hours[task.run.paper] += images(task, measured["epochs"]) / rate / 3600
    if unknown and not hours:
        return f"no estimate of what remains: runs such as {unknown[0]} were never measured"
    papers = ", ".join(f"{paper} {duration(value)}" for paper, value in hours.items())
    total = sum(hours.values())
    where = "this machine's CPU" if table["hardware"].startswith(f"{cpu_name()} (CPU)") else "a CPU"
    lines = [f"estimate of what remains, run after run, on {where}: {duration(total)}" + (papers and f" ({papers})")]
    if jobs > 1 and hours:  # steps are measured with one thread each
        lines.append(f"  {jobs} at a time, at best, where as many cores are free: {duration(total / jobs)}")
    if hours:
        ours = f", and by finished runs in {output}" if by_own else ""
        lines.append(f"  by steps measured on {table['hardware']}, {table['date']}{ours}")
        on_h100 = total / H100_SPEEDUP
        gpus = (f"{duration(on_h100 * H100_TERAFLOPS / speed)} ({name})" for name, speed in GPU_CLASSES.items())
        lines.append(f"  expected on a GPU, in proportion to what an H100 took for four such steps: {', '.join(gpus)}")
    if saved:
        lines.append(f"  teachers' logits that are remembered save {duration(saved)} of it already (--teacher-cache)")
    if unknown:
        lines.append(f"  without {len(unknown)} runs that were never measured, such as {unknown[0]}")
    return "\n".join(lines)


def duration(hours: float) -> str:
    """For people: in minutes below an hour."""
    if 0 < 60 * hours < 1:
        return "under a minute"
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"


def step_times(experiments: Path) -> dict[str, Any]:
    """The content of `step_times.json`; a table without runs where there is none.

    Raises:
        UserError: it is something else.
    """
    if not (file := experiments / STEP_TIMES).is_file():
        return {"hardware": "nothing", "date": "never", "runs": {}}
    table = read_json_file(file)
    with of_its_shape(file, "table of step times"):
        runs = {
            name: {**run, "images_per_second": float(run["images_per_second"]), "epochs": int(run["epochs"])}
            for name, run in table["runs"].items()
        }
        return {"hardware": table["hardware"], "date": table["date"], "runs": runs}


def measured_step(task: Task, table: dict[str, Any]) -> dict[str, Any] | None:
    """What `step_times.json` has for a task."""
    words = task.run.experiment.split()
    names = (f"{task.run.paper} {' '.join(words[:n])}" for n in range(len(words), 0, -1))
    return next((table[name] for name in names if name in table), None)


def images(task: Task, published_epochs: int) -> float:
    """How many images a task trains on, and those that it is tested on at their share."""
    epochs, _, test = _amounts(task, published_epochs)
    return trained_images(task, published_epochs) + epochs * FORWARD_SHARE * test


def trained_images(task: Task, published_epochs: int) -> int:
    """How many images a task trains on, in all epochs."""
    epochs, train, _ = _amounts(task, published_epochs)
    return epochs * train


def _amounts(task: Task, published_epochs: int) -> tuple[int, int, int]:
    """Epochs, and images that are trained and tested on in each."""
    train, test = images_of(task.run.dataset, task.budget)
    options = dict(zip(task.arguments, task.arguments[1:], strict=False))  # of a flag given twice, the last counts
    batch_size = (task.params or {}).get("batch_size", BATCH_SIZE)
    batch_size = next((int(options[flag]) for flag in BATCH_SIZE_FLAGS if flag in options), batch_size)
    if limit := options.get("--limit-train-batches"):
        train = min(train, int(limit) * batch_size)
    if limit := options.get("--limit-eval-batches"):
        test = min(test, int(limit) * batch_size)
    epochs = int(options.get("--epochs", published_epochs))
    return min(epochs, task.until or epochs), train, test


class TeacherCache:
    """How much of the teachers' work tasks save each other, if none of it was done before.

    Runs with the same seed see the same views. Those of several seeds are drawn independently: of an image's V views,
    V (1 - (1 - 1/V)^n) are expected to have been seen after n draws.
    """

    def __init__(self) -> None:
        self._draws: dict[Any, dict[int, float]] = defaultdict(dict)  # teachers -> seed -> views drawn of an image

    def saved_share(self, task: Task, measured: dict[str, Any]) -> float:
        """The part of a task's training time that it saves; takes the task in.

        Args:
            task: comes after those that were asked about before.
            measured: its line in `step_times.json`. `remembered` is there where its teacher's logits can be: how many
                times as fast steps are that look them up, and the number of `views` of an image.
        """
        remembered = measured.get("remembered")
        options = dict(zip(task.arguments, task.arguments[1:], strict=False))
        if not remembered or "--plain" in task.arguments or options.get("--teacher-cache") == "off":
            return 0.0
        count, _ = images_of(task.run.dataset, task.budget)
        drawn = trained_images(task, measured["epochs"]) / count
        before = self._draws[task.run.dataset, task.teachers]
        unseen = (1 - 1 / remembered["views"]) ** sum(before.values())
        new = max(0.0, drawn - before.get(task.seed, 0.0))
        missing = remembered["views"] * unseen * (1 - (1 - 1 / remembered["views"]) ** new)
        before[task.seed] = before.get(task.seed, 0.0) + new
        return (1 - missing / drawn) * (1 - 1 / remembered["speedup"])


def total_epochs(task: Task, experiments: Path) -> int:
    """How many epochs a task's run has in the end, as far as its flags, parameters or a measurement say so.

    Raises:
        UserError: they do not.
    """
    options = dict(zip(task.arguments, task.arguments[1:], strict=False))
    measured = measured_step(task, step_times(experiments)["runs"])
    found = [options.get("--epochs"), (task.params or {}).get("num_epochs"), (measured or {}).get("epochs")]
    known = next((epochs for epochs in found if epochs is not None), None)
    if known is None:
        raise UserError(f"how many epochs {task.name} has is not known: take a budget that says so (--epochs)")
    return int(known)


def own_rates(output: Path) -> dict[str, float]:
    """Images per second of each experiment in the longer runs below `output`, the median over its epochs."""
    rates: dict[str, list[float]] = defaultdict(list)
    for home in sorted(output.glob("*/seed_*/*")):
        for experiment, found in read_records(home).items():
            on_cpu = all(segment.runtime["device"] == "cpu" for segment in found.record.segments)
            enough = (found.record.budget["batches"] or ENOUGH_BATCHES) >= ENOUGH_BATCHES
            if found.record.done and on_cpu and enough:
                rates[f"{home.name} {experiment}"] += epoch_rates(found.directory)
    return {key: statistics.median(values) for key, values in rates.items() if values}


def epoch_rates(directory: Path) -> list[float]:
    """Images per second of a run's epochs; the first one, which warms up, only where it is alone."""
    try:
        rates = [line.get("images_per_second") for line in read_metrics(directory)]
    except (OSError, ValueError):
        return []
    rates = [float(rate) for rate in rates if isinstance(rate, int | float) and rate > 0]
    return rates[1:] or rates
