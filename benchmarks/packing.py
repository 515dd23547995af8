"""Images per second of several trainings at once on one device, by their number.

`python -m benchmarks.packing --script edkd --student resnet20` trains alone, `--teacher resnet32x4 --student resnet8x4`
by EDKD (from an untrained teacher, as fast as a trained one), `--script tfkd --student shufflenet_v2` a baseline of
Tf-KD. Flags that are not known here, such as `--amp bf16`, go to the script. Each training is a process of the script
on CIFAR-100, or the synthetic dataset where that is absent; they divide the cores and share a GPU. What counts
is the time spent in training steps, in whole epochs during which all were at it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks.timing import hardware, how_it_ran
from common.command_line import REPOSITORY, ArgumentParser, cli_main, positive_int
from common.errors import UserError
from common.models import create_model
from common.plan.budgets import load_budget
from common.plan.datasets import ensure_dataset, is_present
from common.plan.executors import cpu_count, start_process
from common.plan.progress import last_line
from common.run_record import find_records
from common.safe_json import read_json_file
from common.training.checkpoints import save_checkpoint
from common.training.runs import write_json

POLL_SECONDS = 0.1


def edkd_flags(args: argparse.Namespace, place: Path) -> list[str]:
    """Of `edkd/tools/train.py`, for a run in the directory `place`."""
    keys = ["DISTILLER.STUDENT", args.student, "LOG.WANDB", "False", "LOG.PREFIX", str(place)]
    if args.teacher:
        teacher = place / "teacher"
        save_checkpoint({"model": create_model(args.teacher, 100, family="mdistiller").state_dict()}, teacher)
        keys += ["DISTILLER.TYPE", "EDKD", "DISTILLER.TEACHER", args.teacher, "DISTILLER.TEACHER_CKPT", str(teacher)]
    return ["--cfg", "configs/cifar100/vanilla.yaml", *keys]


def tfkd_flags(args: argparse.Namespace, place: Path) -> list[str]:
    """Of `tfkd/main.py`, for a run in the directory `place`."""
    params = read_json_file(REPOSITORY / "experiments/base_experiments/base_resnet18/params.json")
    write_json(place / "params.json", {**params, "model_version": args.student})
    return ["--model_dir", str(place)]


SCRIPTS = {"edkd": ("edkd/tools/train.py", edkd_flags), "tfkd": ("tfkd/main.py", tfkd_flags)}


def train_together(commands: dict[Path, list[str]], threads: int, epochs: int) -> float:
    """Images per second of all commands together.

    Args:
        commands: directory of a run -> the command that trains it for `epochs` epochs.
        threads: of each.

    Raises:
        UserError: one of them failed, or they were too short to be at it together.
    """
    jobs, begun = {}, None
    try:
        for place, command in commands.items():
            jobs[place] = start_process(command, place, place / "log", threads, signal.SIGTERM)
        while max(map(len, rates := [finished_epochs(place) for place in jobs])) < epochs:
            if begun is None and all(rates):
                begun = [len(own) for own in rates]
            for place, job in jobs.items():
                if job.poll():
                    raise UserError(f"a training ended with exit code {job.poll()}: {last_line(place / 'log')}")
            time.sleep(POLL_SECONDS)
    finally:
        for job in jobs.values():
            job.terminate()
        for job in jobs.values():
            job.wait()
    return steady_rate(rates, begun or [len(own) for own in rates])


def finished_epochs(place: Path) -> list[float]:
    """Images per second of the epochs that the run in `place` has finished."""
    lines = [line for file in place.rglob("metrics.jsonl") for line in file.read_text().splitlines(keepends=True)]
    return [json.loads(line)["images_per_second"] for line in lines if line.endswith("\n")]


def steady_rate(rates: list[list[float]], begun: list[int]) -> float:
    """Images per second of all trainings together.

    Args:
        rates: training -> images per second of its epochs, until the first training had finished its last.
        begun: training -> its finished epochs when all had finished one. The next, which had begun before, is left out.

    Raises:
        UserError: no epoch of a training counts.
    """
    steady = [own[first + 1 :] for own, first in zip(rates, begun, strict=True)]
    if not all(steady):
        raise UserError("the trainings had no whole epoch together: give more --epochs")
    # epochs are of one size, so that the harmonic mean is images by seconds
    return sum(statistics.harmonic_mean(own) for own in steady)


def how_they_ran(places: Iterable[Path]) -> list[str]:
    """What the records of the runs in `places` say about how they computed, each way once."""
    records = [record for place in places for _, record in find_records(place)]
    executions = (record.segments[-1].execution for record in records)
    return sorted({how_it_ran(execution) for execution in executions if execution is not None})


def mps_is_on() -> bool:
    """Whether NVIDIA's Multi-Process Service runs, by which processes compute on a GPU at the same time."""
    names = []
    for process in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):  # it has just ended
            names.append(process.read_text())
    return "CUDA_MPS_PIPE_DIRECTORY" in os.environ or any(name.startswith("nvidia-cuda-mps") for name in names)


@cli_main
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--script", choices=list(SCRIPTS), default="edkd", help="whose training")
    parser.add_argument("--student", default="resnet20", help="network")
    parser.add_argument("--teacher", help="edkd: network")
    parser.add_argument(
        "--jobs",
        type=positive_int,
        nargs="+",
        default=[1, 2, 4],
        help="how many at a time, in turn; repeat them to see the spread",
    )
    parser.add_argument("--epochs", type=positive_int, default=6, help="of each training")
    parser.add_argument("--steps", type=positive_int, default=100, help="an epoch")
    args, more = parser.parse_known_args()
    if args.teacher and args.script != "edkd":
        parser.error("--teacher is for --script edkd: Tf-KD's setting is a baseline")
    script, flags = SCRIPTS[args.script]
    service = f", NVIDIA MPS {'on' if mps_is_on() else 'off'}" if torch.cuda.is_available() else ""
    what = " ".join([args.script, *filter(None, [args.teacher]), args.student, *more])
    length = ["--epochs", str(args.epochs), "--limit-train-batches", str(args.steps), "--limit-eval-batches", "1"]
    with tempfile.TemporaryDirectory() as scratch:
        data = REPOSITORY / "data"
        if not is_present("cifar100", data):
            data = Path(scratch, "data")
            ensure_dataset("cifar100", data, load_budget("smoke"))
        print(f"packing: {what} | {hardware()}{service}", flush=True)
        measured: list[float] = []
        for count in args.jobs:
            threads = max(1, cpu_count() // count)
            where = ["--data-dir", str(data), "--num-threads", str(threads)]
            commands = {}
            for number in range(count):
                place = Path(scratch, f"{len(measured)}.{number}")
                place.mkdir()
                run = [*flags(args, place), *length, *where, "--seed", str(number), *more]
                commands[place] = [sys.executable, str(REPOSITORY / script), *run]
            measured.append(train_together(commands, threads, args.epochs))
            rate, ratio = measured[-1], measured[-1] / measured[0]
            print(f"  {count} at a time, threads each: {threads} {rate:10.0f} images/s  ratio {ratio:.2f}", flush=True)
            for way in how_they_ran(commands):
                print(f"    ran: {way}", flush=True)


if __name__ == "__main__":
    main()
