"""A GPU's first minutes: is what it computes right, is it captured, and how fast is it?

`python benchmarks/gpu_first_run.py --minutes 4 --output first_run` needs neither data, network nor installation. It
checks, the most important first: the steps of every method of every paper, captured or why not, fast against plain;
what the loop promises (learning rates, dropout, evaluation, checkpoints, precisions, captures that fail); the papers'
scripts; the figures of the published implementations; then, with the GPU to itself, the steps of each paper's setting
beside the rate of a matrix product, and memory layouts. What was not done in the first half of the time comes last.
Each check ends as one line; a check that fails, hangs or loses the GPU takes no other with it. Then a summary; exit
code 1 where a check failed or a check of correctness had no time. On a CPU it runs in miniature.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs from any directory, installed or not
    from common.interrupts import stop_in_imports

    stop_in_imports()

import torch

from benchmarks.first_run.conformance import CONFORMANCE
from benchmarks.first_run.layout_rows import LAYOUT_ROWS
from benchmarks.first_run.machinery import FAILURE_CHECKS, MACHINERY_CHECKS
from benchmarks.first_run.remembered import REMEMBERED_CHECKS
from benchmarks.first_run.scripts import SCRIPTS
from benchmarks.first_run.speed import MORE_SPEED, SPEED
from benchmarks.first_run.steps import BF16_STEPS, STEPS
from benchmarks.first_run.summary import everything, summary
from benchmarks.first_run.verdicts import ABSENT, FAILED, Check, Verdict, work
from benchmarks.first_run.workers import Pool, shards_of, worker_command
from benchmarks.timing import hardware
from common.command_line import ArgumentParser, cli_main, nonnegative_float, positive_int
from common.errors import UserError
from common.plan.executors import cpu_count
from common.training.runs import write_json
from common.training.runtime import resolve_device, use_tf32

CHECKS: dict[str, Check] = {
    **STEPS,
    **MACHINERY_CHECKS,
    **REMEMBERED_CHECKS,
    **FAILURE_CHECKS,
    **SCRIPTS,
    **BF16_STEPS,
    **CONFORMANCE,
    **SPEED,
    **LAYOUT_ROWS,
    **MORE_SPEED,
}
MOST_JOBS = 12  # processes that share a GPU
SHARE_OF_CORRECTNESS = 0.5  # of the time, before anything is measured
SECONDS_TO_END = 4.0  # for killing what runs and writing the last files
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
        *shards_of(loop, max(1, jobs // 4)),
        *([name] for name in failures),
        *([name] for name in parts["scripts /"]),
        *shards_of(parts["bf16 /"], jobs // 3),
        *shards_of(parts["figures /"], jobs // 2),
    ]


class Report:
    """Prints verdicts as they come and keeps them in files.

    Args:
        output: a directory that receives after each verdict all of them, as `verdicts.json`, `summary.md` and, with
            their tracebacks, `failures.txt`; None for none.
        device: that is looked at.
        facts: what the JSON file says besides.
        started: when, by `time.time`.
    """

    def __init__(self, output: Path | None, device: torch.device, facts: dict[str, Any], started: float) -> None:
        self.output, self.device, self.facts, self.started = output, device, facts, started
        self.verdicts: list[Verdict] = []

    def __call__(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        print(f"[{time.time() - self.started:5.1f}] {verdict}", flush=True)
        self.write()

    def write(self) -> None:
        """Bring the files up to date."""
        if self.output is None:
            return
        seconds = round(time.time() - self.started, 1)
        verdicts = [dataclasses.asdict(verdict) for verdict in self.verdicts]
        write_json(self.output / "verdicts.json", {**self.facts, "seconds": seconds, "verdicts": verdicts})
        about = [f"{name}: {value}" for name, value in self.facts.items()]
        lines = [*everything(self.verdicts, self.device), "", f"{', '.join(about)}; {seconds:.0f} s"]
        (self.output / "summary.md").write_text("\n".join(lines) + "\n")
        failures = [f"{v}\n{v.log}\n" for v in self.verdicts if v.status == FAILED]
        (self.output / "failures.txt").write_text("\n".join(failures))

    def end(self, left: Sequence[str]) -> int:
        """Print what came of all; returns the exit code.

        Args:
            left: names of the checks that had no time.
        """
        self.verdicts += [Verdict(name, ABSENT, OUT_OF_TIME) for name in left]
        self.write()
        print("\n" + "\n".join(summary(self.verdicts, self.device)))
        if left:
            print(f"{OUT_OF_TIME}: {'; '.join(left)}")
        print(f"{time.time() - self.started:.0f} s", flush=True)
        failed = any(verdict.status == FAILED for verdict in self.verdicts)
        return 1 if failed or any(not CHECKS[name].alone for name in left) else 0


def process_start() -> float:
    """When this process began, by `time.time`: importing PyTorch is a part of the time that a run may take."""
    now = time.time()
    with contextlib.suppress(OSError, ValueError, IndexError, AttributeError):  # Linux tells
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        began = now - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")
        if now - 600 < began < now:
            return began
    return now


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "--minutes",
        type=nonnegative_float,
        default=9.0,
        help="after which everything is over, imports and summary included",
    )
    add("--only", nargs="+", default=[], metavar="TEXT", help="checks that have one of these in their names")
    add("--list", action="store_true", help="print the names of the checks and leave")
    add("--output", type=Path, metavar="DIR", help="keep verdicts.json, summary.md and failures.txt there")
    add("--device", default="auto", help="auto (the first GPU where there is one), cpu, cuda:1 ...")
    add("--jobs", type=positive_int, help="processes at a time (default: one a core)")
    add("--miniature", action="store_true", help="as on a CPU: smaller batches, fewer steps")
    add("--worker", nargs="+", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.device = resolve_device(args.device)
    args.miniature = args.miniature or args.device.type == "cpu"
    return args


@cli_main
def main() -> None:
    started = process_start()
    args = parse_arguments()
    if args.worker:
        torch.set_num_threads(1)  # several processes share the cores
        torch.backends.cuda.matmul.allow_tf32 = False
        use_tf32(False)
        work(args.worker, CHECKS, args.device, args.miniature)
        return
    names = select(args.only)
    if args.list:
        print("\n".join(names))
        return
    if args.output:
        args.output.mkdir(parents=True, exist_ok=True)
    facts = {"hardware": hardware(), "device": str(args.device), "miniature": args.miniature}
    report = Report(args.output, args.device, facts, started)
    jobs = args.jobs or min(MOST_JOBS, cpu_count())
    print(f"{len(names)} checks on {args.device}, {jobs} processes | {facts['hardware']}", flush=True)
    command = [*worker_command(), "--device", str(args.device), *(["--miniature"] if args.miniature else [])]
    patience = 1.0 if args.device.type == "cuda" else 4.0
    pool = Pool(CHECKS, [*command, "--worker"], report, patience=patience)
    sys.exit(report.end(run_all(names, jobs, pool, started, 60 * args.minutes)))


def run_all(names: Sequence[str], jobs: int, pool: Pool, started: float, seconds: float) -> list[str]:
    """Correctness for its share of the time, then what is measured, then what is left of correctness.

    Returns:
        Names of the checks that had no time.
    """
    until = started + seconds - SECONDS_TO_END
    together = [name for name in names if not CHECKS[name].alone]
    alone = [name for name in names if CHECKS[name].alone]
    first = started + SHARE_OF_CORRECTNESS * seconds if alone else until
    left = pool.run(shards(together, jobs), jobs, first)
    left_alone = pool.run([alone], 1, until)
    return pool.run(shards([name for name in together if name in left], jobs), jobs, until) + left_alone


if __name__ == "__main__":
    main()
