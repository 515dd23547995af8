"""A GPU's first minutes: is what it computes right, is it captured, and how fast is it?

`PYTHONPATH=. python benchmarks/gpu_first_run.py --minutes 4 --output first_run.json` needs neither data nor network. It
checks, the most important first: the steps of every method of every paper, captured or why not, fast against plain;
what the loop promises (learning rates, dropout, evaluation, checkpoints, precisions, captures that fail); the papers'
scripts; the figures of the published implementations; then, with the GPU to itself, memory layouts and the steps of
each paper's setting beside the rate of a matrix product. One line a check as it ends, then a summary; exit code 1 where
a check failed or a check of correctness had no time. On a CPU it runs in miniature.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.first_run.conformance import CONFORMANCE
from benchmarks.first_run.layout_rows import LAYOUT_ROWS
from benchmarks.first_run.machinery import FAILURE_CHECKS, MACHINERY_CHECKS
from benchmarks.first_run.scripts import SCRIPTS
from benchmarks.first_run.speed import SPEED
from benchmarks.first_run.steps import BF16_STEPS, STEPS
from benchmarks.first_run.verdicts import ABSENT, FAILED, NOTE, OK, Check, Verdict, work
from benchmarks.first_run.workers import Pool, shards_of, worker_command
from benchmarks.timing import hardware
from common.command_line import ArgumentParser, entry_point, positive
from common.errors import UserError
from common.training.runs import write_json
from common.training.runtime import use_tf32

CHECKS: dict[str, Check] = {
    **STEPS,
    **MACHINERY_CHECKS,
    **FAILURE_CHECKS,
    **SCRIPTS,
    **BF16_STEPS,
    **CONFORMANCE,
    **SPEED,
    **LAYOUT_ROWS,
}
MOST_JOBS = 14  # processes that share a GPU
OUT_OF_TIME = "out of time"


def select(patterns: Sequence[str]) -> list[str]:
    """Names of the checks that contain one of the patterns; all without patterns.

    Raises:
        UserError: a pattern that fits none.
    """
    for pattern in patterns:
        if not any(pattern in name for name in CHECKS):
            raise UserError(f"--only {pattern}: no check has that in its name (--list prints them)")
    return [name for name in CHECKS if not patterns or any(pattern in name for pattern in patterns)]


def shards(names: Sequence[str], jobs: int) -> list[list[str]]:
    """Checks that may share the device, divided among processes: the important ones first, each failure by itself.

    Args:
        names: selected.
        jobs: processes at a time.
    """
    parts = {
        prefix: [name for name in names if name.startswith(prefix) and not CHECKS[name].alone]
        for prefix in ("steps /", "loop /", "scripts /", "bf16 /", "figures /")
    }
    failures = [name for name in parts["loop /"] if name in FAILURE_CHECKS]
    loop = [name for name in parts["loop /"] if name not in FAILURE_CHECKS]
    if jobs < 4:  # starting a process costs more than it saves
        together = [*parts["steps /"], *loop, *parts["scripts /"], *parts["bf16 /"], *parts["figures /"]]
        return [*shards_of(together, jobs), *([name] for name in failures)]
    return [
        *shards_of(parts["steps /"], jobs // 2),
        *shards_of(loop, max(1, jobs // 5)),
        *([name] for name in failures),
        *([name] for name in parts["scripts /"]),
        *shards_of(parts["bf16 /"], jobs // 3),
        *shards_of(parts["figures /"], jobs // 2),
    ]


class Report:
    """Prints verdicts as they come and keeps them in a file.

    Args:
        output: receives all of them as JSON after each one; None for none.
        facts: what the file says besides.
    """

    def __init__(self, output: Path | None, facts: dict[str, Any]) -> None:
        self.output, self.facts = output, facts
        self.verdicts: list[Verdict] = []
        self.started = time.time()

    def __call__(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        print(f"[{time.time() - self.started:5.1f}] {verdict}", flush=True)
        if self.output:
            content = [dataclasses.asdict(one) for one in self.verdicts]
            write_json(
                self.output, {**self.facts, "seconds": round(time.time() - self.started, 1), "verdicts": content}
            )

    def summary(self) -> int:
        """Print what came of all, failures and notes again; returns the exit code."""
        print("\nsummary")
        for status in (NOTE, FAILED):
            for verdict in self.verdicts:
                if verdict.status == status:
                    print(f"  {verdict}")
        counts = collections.Counter(verdict.status for verdict in self.verdicts)
        left = [v.name for v in self.verdicts if v.status == ABSENT and v.text == OUT_OF_TIME]
        if left:
            print(f"  {OUT_OF_TIME}: {'; '.join(left)}")
        words = ", ".join(f"{counts[status]} {status}" for status in (OK, NOTE, FAILED, ABSENT))
        print(f"{words}; {time.time() - self.started:.0f} s", flush=True)
        incomplete = [name for name in left if not CHECKS[name].alone]
        return 1 if counts[FAILED] or incomplete else 0


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--minutes", type=float, default=9.0, help="after which everything is over, summary included")
    add("--only", nargs="+", default=[], metavar="TEXT", help="checks that have one of these in their names")
    add("--list", action="store_true", help="print the names of the checks and leave")
    add("--output", type=Path, metavar="FILE", help="write the verdicts as JSON, too")
    add("--device", default="auto", help="auto (the first GPU where there is one), cpu, cuda:1 ...")
    add("--jobs", type=positive, help="processes at a time (default: one a core)")
    add("--miniature", action="store_true", help="as on a CPU: smaller batches, fewer steps")
    add("--worker", nargs="+", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda:0" if torch.cuda.is_available() else "cpu"
    args.miniature = args.miniature or args.device == "cpu"
    return args


@entry_point
def main() -> None:
    args = parse_arguments()
    if args.worker:
        torch.set_num_threads(1)  # several processes share the cores
        torch.backends.cuda.matmul.allow_tf32 = False
        use_tf32(False)
        work(args.worker, CHECKS, torch.device(args.device), args.miniature)
        return
    names = select(args.only)
    if args.list:
        print("\n".join(names))
        return
    until = time.time() + 60 * args.minutes - 2
    report = Report(args.output, {"hardware": hardware(), "device": args.device, "miniature": args.miniature})
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = args.jobs or min(MOST_JOBS, cores)
    print(f"{len(names)} checks on {args.device}, {jobs} processes | {hardware()}", flush=True)
    command = [*worker_command(), "--device", args.device, *(["--miniature"] if args.miniature else [])]
    pool = Pool(CHECKS, [*command, "--worker"], report, until)
    pool.run(shards(names, jobs), jobs)
    pool.run([[name for name in names if CHECKS[name].alone]], 1)
    sys.exit(report.summary())


if __name__ == "__main__":
    main()
