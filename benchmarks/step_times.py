"""How fast each experiment of the plan trains here; `python -m benchmarks.step_times` fills `step_times.json`.

Runs the plan's commands under the budget `trial` (real data, two epochs of two batches, of which the second epoch
counts), one at a time, and collects what their `metrics.jsonl` say. Variants of an experiment, which compute the same
networks, are left out. `./run_all.sh --dry-run` makes its estimate from the file, which lies in `experiments/`; what is
not measured again stays in it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from common.command_line import REPOSITORY, ArgumentParser, cli_main
from common.errors import UserError
from common.hardware import cpu_name
from common.plan.estimate import STEP_TIMES, epoch_rates
from common.plan.plan import PlannedRun, load_plan
from common.plan.tasks import read_records
from common.results.reported import EXPERIMENTS
from common.safe_json import read_json_file
from common.training.runs import write_json


def without_variants(runs: list[PlannedRun]) -> list[PlannedRun]:
    """The runs whose name does not begin with all words of another's."""
    words = {(run.paper, *run.experiment.split()) for run in runs}

    def is_variant(run: PlannedRun) -> bool:
        own = (run.paper, *run.experiment.split())
        return any(own[:n] in words for n in range(2, len(own)))

    return [run for run in runs if run.trains and not is_variant(run)]


def collect(output: Path) -> tuple[dict[str, Any], list[str]]:
    """Experiment -> images per second and published epochs of the finished runs below `output`; and their hardware."""
    runs, hardware = {}, set()
    for home in sorted(output.glob("*/seed_0/*")):
        for experiment, found in sorted(read_records(home).items(), key=lambda item: item[0]):
            rates, record = epoch_rates(found.directory), found.record
            if record.done and rates:
                segment = record.segments[-1]
                on_gpu = segment.runtime.get("device") == "cuda"
                count = segment.hardware.get("threads")
                threads = f"{count} thread{'' if count == 1 else 's'}"
                hardware.add(segment.hardware.get("gpu") if on_gpu else f"{cpu_name()} (CPU), {threads}")
                runs[f"{home.name} {experiment}"] = {
                    "images_per_second": round(statistics.median(rates), 2),
                    "epochs": record.budget.get("published_epochs"),
                }
    return runs, sorted(hardware)


def escaped(name: str) -> str:
    """A shell pattern for exactly this name."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


@cli_main
def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=REPOSITORY / "results" / "step_times", help="where runs go")
    parser.add_argument("--only", nargs="+", metavar="PAPER", help="measure only these papers")
    args = parser.parse_args()
    runs = [run for run in without_variants(load_plan()) if not args.only or run.paper in args.only]
    cells = [word for run in runs for word in ("--cells", escaped(run.experiment))]
    papers = ["--papers", ",".join(args.only)] if args.only else []
    where = ["--output", str(args.output), "--jobs", "1"]
    command = [sys.executable, "-m", "common.plan", "--budget", "trial", *papers, *where, *cells]
    if subprocess.run(command, cwd=REPOSITORY).returncode == 130:
        sys.exit(130)
    measured, hardware = collect(args.output)
    if not measured:
        raise UserError("no run came to its end: nothing was measured")
    load = f"load average {os.getloadavg()[2]:.1f} on {os.cpu_count()} cores"  # who else was at work meanwhile
    file = EXPERIMENTS / STEP_TIMES
    before = read_json_file(file)["runs"] if file.is_file() else {}
    write_json(
        file,
        {
            "hardware": f"{' and '.join(hardware)}, {load}",
            "date": time.strftime("%Y-%m-%d"),
            "runs": dict(sorted({**before, **{n: {**before.get(n, {}), **m} for n, m in measured.items()}}.items())),
        },
    )
    print(f"{len(measured)} experiments measured: {file}")


if __name__ == "__main__":
    main()
