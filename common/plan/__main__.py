"""Regenerate the published tables: `python -m common.plan --budget quick`.

Runs what the plan (experiments/plan/) asks for under a budget (experiments/budgets.json): skips what is done, resumes
what was broken off, goes on past failures, and prints the tables. It can be stopped with Ctrl-C at any time; the same
command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from common.command_line import REPOSITORY, ArgumentParser, entry_point, positive
from common.errors import UserError
from common.plan.budgets import load_budget
from common.plan.datasets import is_present, provide
from common.plan.plan import load_plan, select
from common.plan.runner import Outcome, Runner, cpu_count
from common.plan.tasks import State, Task, make_tasks
from common.results.records import read_runs
from common.results.reported import EXPERIMENTS, Table, load_tables
from common.results.tables import render


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _seeds(text: str) -> list[int]:
    seeds = [int(part) for part in _list(text)]
    if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
        raise argparse.ArgumentTypeError(f"{text} is not a list of different seeds, such as 0,1,2")
    return seeds


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m common.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--budget", default="paper", metavar="NAME", help="paper (as published, the default), small, trial or quick")
    add("--quick", action="store_const", const="quick", dest="budget", help="the same as --budget quick")
    add("--papers", type=_list, default=[], metavar="P,...", help="only these papers")
    add("--tables", type=_list, default=[], metavar="T,...", help="only these tables (patterns), such as tfkd/re-kd")
    add(
        "--cells",
        action="append",
        default=[],
        metavar="GLOB",
        help="only experiments ('base_experiments/*') or cells ('<table> <row> <column>') of this pattern; repeatable",
    )
    add("--seeds", type=_seeds, metavar="S,...", help="seeds (default: the budget's)")
    add("--jobs", type=positive, metavar="N", help="runs at a time, which share the cores (default: the budget's)")
    add("--dry-run", action="store_true", help="print the commands and what is there already; do nothing")
    add("--output", type=Path, default=REPOSITORY / "results", metavar="DIR", help="default: results/")
    add("--data-dir", type=Path, default=REPOSITORY / "data", metavar="DIR", help="data sets (default: data/)")
    add("--experiments", type=Path, default=EXPERIMENTS, metavar="DIR", help="plan, budgets, parameters and figures")
    return parser.parse_args()


def dry_run(tasks: Sequence[Task]) -> None:
    """Print the commands in order, how far each is, and what is missing."""
    states = {task: task.state() for task in tasks}
    for number, task in enumerate(tasks, 1):
        waits = [need.run.experiment for need in task.needs if states[need] is not State.DONE]
        print(f"[{number}/{len(tasks)}] {task.name}: {states[task].value}", end="")
        print(f", waits for {', '.join(waits)}" if waits else "")
        print(f"  {task.shell_command}")
    counts = Counter(state.value for state in states.values())
    print("\nruns: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for dataset, directory in sorted({(task.run.dataset, task.data_dir) for task in tasks}):
        if not is_present(dataset, directory):
            way = "is written" if tasks[0].budget.generated else "is downloaded"
            print(f"missing data: {dataset} in {directory} (it {way} when the plan starts)")
    untrained = {need.name for task in tasks for need in task.needs if states[need] is not State.DONE}
    if untrained:
        print(f"missing teachers (the plan trains them): {', '.join(sorted(untrained))}")


def run(tasks: Sequence[Task], jobs: int) -> Outcome:
    """Provide the data and execute the tasks."""
    missing = {}
    for dataset, directory in sorted({(task.run.dataset, task.data_dir) for task in tasks}):
        if problem := provide(dataset, directory, tasks[0].budget.generated):
            missing[dataset] = problem
    return Runner(tasks, jobs, missing).run()


def write_tables(tables: list[Table], directory: Path) -> None:
    """Print the tables of all runs below `directory`, and keep them there as `tables.md`."""
    text = render(tables, *read_runs([directory]))
    file = directory / "tables.md"
    temporary = file.with_name(".tables.md.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)
    print(f"\n{text}\nThese tables: {file}")


def report_problems(outcome: Outcome) -> None:
    """List what failed, with its log, and what could not be run."""
    for task, reason in outcome.failed.items():
        print(f"FAILED {task.name}: {reason}\n  log: {task.log}")
    for task, reason in outcome.blocked.items():
        print(f"BLOCKED {task.name}: {reason}")


@entry_point
def main() -> None:
    args = parse_arguments()
    begun = time.monotonic()
    budget = load_budget(args.budget, args.experiments)
    tables = load_tables(args.experiments)
    runs = select(
        load_plan(args.experiments), tables, papers=args.papers, table_patterns=args.tables, cell_patterns=args.cells
    )
    seeds = args.seeds or budget.seeds
    tasks = make_tasks(runs, seeds, budget, output=args.output, data=args.data_dir, experiments=args.experiments)
    jobs = args.jobs or min(budget.jobs, cpu_count())
    print(f"budget {budget.name}: {budget.description}\nruns: {len(tasks)}, {jobs} at a time")
    if args.dry_run:
        dry_run(tasks)
        return
    try:
        outcome = run(tasks, jobs)
    except OSError as error:
        raise UserError(f"cannot write {error.filename} ({error.strerror})") from error
    summary = f"{len(outcome.done)} of {len(tasks)} runs done, {time.monotonic() - begun:.0f} s"
    if outcome.stopped:
        print(f"stopped: {summary}; the same command goes on from here")
        sys.exit(130)
    write_tables(tables, args.output / budget.name)
    print(summary)
    report_problems(outcome)
    if outcome.failed or outcome.blocked:
        sys.exit(1)


if __name__ == "__main__":
    main()
