"""Regenerate the published tables: `python -m common.plan --budget quick`.

Runs what the plan (experiments/plan/) asks for under a budget (experiments/budgets.json): skips what is done, resumes
what was broken off, goes on past failures, and prints the tables. It can be stopped with Ctrl-C at any time; the same
command goes on from there.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from glob import escape as literal
from pathlib import Path
from typing import TYPE_CHECKING

from common.command_line import REPOSITORY, ArgumentParser, entry_point, natural, positive
from common.errors import UserError
from common.plan.budgets import Budget, load_budget
from common.plan.datasets import is_present, provide
from common.plan.estimate import estimate
from common.plan.executors import Executor, LocalExecutor, cpu_count
from common.plan.plan import PlannedRun, load_plan, select, with_released
from common.plan.seeds import seeds_of
from common.plan.tasks import State, Task, make_tasks, states
from common.results.page import render_page
from common.results.records import read_runs
from common.results.report import make_report
from common.results.reported import EXPERIMENTS, Table, load_tables
from common.results.tables import render

if TYPE_CHECKING:
    from common.plan.runner import Outcome


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _seeds(text: str) -> list[int]:
    words = _list(text)
    seeds = [natural(word) for word in words if word.isdecimal()]
    if not seeds or len(set(seeds)) < len(words):
        raise argparse.ArgumentTypeError(f"{text} is not a list of different seeds, such as 0,1,2")
    return seeds


def _version() -> str:
    """Name and version from pyproject.toml, which is there before anything is installed."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    return " ".join(re.search(rf'^{key} = "(.*)"', text, flags=re.MULTILINE).group(1) for key in ("name", "version"))


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m common.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    budgets = "paper (as published, the default), tenth, small, trial or quick"
    add("--version", action="version", version=_version())
    add("--budget", default="paper", metavar="NAME", help=budgets)
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
    add("--seeds", type=_seeds, metavar="S,...", help="seeds of every run (default: the budget's)")
    add("--jobs", type=positive, metavar="N", help="runs at a time, which share the cores (default: the budget's)")
    add(
        "--cluster",
        metavar="ADDRESS",
        help="run on a Ray cluster (docs/cluster.md): auto, HOST:PORT or ray://HOST:PORT",
    )
    add("--cpus-per-run", type=positive, default=1, metavar="N", help="on a cluster (default: 1)")
    add(
        "--gpus-per-run",
        type=float,
        metavar="F",
        help="on a cluster: 0.25 lets four runs share a GPU (default: 1, if any)",
    )
    add(
        "--dry-run", action="store_true", help="print commands, what is there, what is missing, an estimate; do nothing"
    )
    add("--output", type=Path, default=REPOSITORY / "results", metavar="DIR", help="default: results/")
    add("--data-dir", type=Path, default=REPOSITORY / "data", metavar="DIR", help="data sets (default: data/)")
    add("--experiments", type=Path, default=EXPERIMENTS, metavar="DIR", help="plan, budgets, parameters and figures")
    return parser.parse_args()


def list_cells(tables: Sequence[Table], tasks: Sequence[Task]) -> None:
    """Print which published cells the tasks give, and which cells of the same tables nothing gives."""
    planned = {task.run.key for task in tasks}
    shown = [table for table in tables if any((table.paper, cell.experiment) in planned for cell in table.cells)]
    cells = [(table, cell) for table in shown for cell in table.published_cells]
    given = [(table, cell) for table, cell in cells if (table.paper, cell.experiment) in planned]
    print(f"\npublished cells that these runs give: {len(given)} of {sum(len(t.published_cells) for t in tables)}")
    for table, cell in given:
        print(f"  {table.id} | {cell.row} | {cell.column}: {cell.experiment}")
    for table, cell in cells:
        if cell.missing:
            why = f" ({cell.note})" if cell.note else ""
            print(f"no run: {table.id} | {cell.row} | {cell.column}: {cell.missing}{why}")


def dry_run(tasks: Sequence[Task], output: Path, experiments: Path) -> None:
    """Print the commands in order, how far each is, what is missing, and how long the rest takes."""
    state = states(tasks)
    for number, task in enumerate(tasks, 1):
        waits = [need.run.experiment for need in task.needs if state[need] is not State.DONE]
        print(f"[{number}/{len(tasks)}] {task.name}: {state[task].value}", end="")
        print(f", waits for {', '.join(waits)}" if waits else "")
        print(f"  {task.shell_command}")
    counts = Counter(each.value for each in state.values())
    print("\nruns: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for dataset, directory in sorted({(task.run.dataset, task.data_dir) for task in tasks}):
        if not is_present(dataset, directory):
            way = "is written" if tasks[0].budget.generated else "is downloaded"
            print(f"missing data: {dataset} in {directory} (it {way} when the plan starts)")
    for line in missing_networks(tasks, state):
        print(line)
    print(estimate([task for task in tasks if state[task] is not State.DONE], output, experiments))


def missing_networks(tasks: Sequence[Task], state: Mapping[Task, State]) -> list[str]:
    """Which networks other runs wait for: a line for teachers, one for students, each network once for all seeds."""
    untrained = {
        need.run.key: need.run
        for task in tasks
        for need in task.needs
        if need.run.trains and state[need] is not State.DONE
    }
    lines = []
    for kind, taught in (("teachers", False), ("students", True)):  # a student has teachers itself
        papers: dict[str, list[PlannedRun]] = {}
        for run in untrained.values():
            if bool(run.needs) is taught:
                papers.setdefault(run.paper, []).append(run)
        if papers:
            named = "; ".join(
                f"{paper}: {', '.join(_names(missing, whole=taught))}" for paper, missing in papers.items()
            )
            lines.append(f"missing {kind} (the plan trains them): {named}")
    return lines


def _names(runs: Sequence[PlannedRun], *, whole: bool) -> list[str]:
    """The runs' experiments, or of each its last part alone, with the number of data sets where those are several."""
    datasets: dict[str, set[str]] = {}
    for run in runs:
        name = run.experiment if whole else re.split(r"[ /]", run.experiment)[-1]
        datasets.setdefault(name, set()).add(run.dataset)
    return [f"{name} (on {len(of)} data sets)" if len(of) > 1 else name for name, of in datasets.items()]


def by_hand() -> str:
    """The commands that train a first network by hand, beginning with how to activate this very environment."""
    steps = []
    activate = Path(sys.prefix, "bin", "activate")
    if activate.is_file() and os.environ.get("VIRTUAL_ENV") != sys.prefix:
        steps.append(f"source {activate}")
    if str(REPOSITORY) in os.environ.get("PYTHONPATH", "").split(os.pathsep):  # the checkout is not installed there
        steps.append(f"export PYTHONPATH={REPOSITORY}")
    steps += [f"cd {REPOSITORY / 'tfkd'}", "python main.py --model_dir experiments/base_experiments/base_resnet18/"]
    return " && ".join(steps)


def chosen_tasks(
    args: argparse.Namespace, budget: Budget, tables: Sequence[Table]
) -> tuple[list[Task], list[PlannedRun]]:
    """The tasks that the flags choose, and the runs whose place published networks take, as far as data are real."""
    runs, released = load_plan(args.experiments), []
    if not budget.generated:
        runs, released = with_released(runs)
    runs = select(
        runs,
        tables,
        papers=args.papers,
        table_patterns=args.tables,
        cell_patterns=args.cells,
        left_out=[*budget.leaves_out, *(literal(run.name) for run in released)],
    )
    seeds = dict.fromkeys((run.key for run in runs), args.seeds) if args.seeds else seeds_of(runs, tables, budget)
    where = {"output": args.output, "data": args.data_dir, "experiments": args.experiments}
    chosen, papers = {run.key for run in runs}, {run.paper for run in runs}
    replaced = [run for run in released if run.paper in papers and run.key not in chosen]
    return make_tasks(runs, seeds, budget, **where), replaced


def make_executor(args: argparse.Namespace, budget: Budget) -> Executor:
    """The machines that the flags ask for."""
    if args.cluster is None:
        return LocalExecutor(args.jobs or min(budget.jobs, cpu_count()))
    from common.plan.cluster import RayExecutor

    return RayExecutor(args.cluster, jobs=args.jobs, cpus=args.cpus_per_run, gpus=args.gpus_per_run)


def run(tasks: Sequence[Task], executor: Executor) -> Outcome:
    """Provide the data and execute the tasks."""
    from common.plan.runner import Runner  # its display needs a package; what is above needs none

    missing = {}
    for dataset, directory in sorted({(task.run.dataset, task.data_dir) for task in tasks}):
        if problem := provide(dataset, directory, tasks[0].budget.generated):
            missing[dataset] = problem
    return Runner(tasks, executor, missing).run()


def write_tables(tables: list[Table], output: Path, budget: str) -> None:
    """Print the tables of a budget's runs and keep them beside these; make the page of all runs below `output`."""
    text = render(make_report(tables, *read_runs([output / budget])))
    _write(output / budget / "tables.md", text)
    _write(output / "index.html", render_page(make_report(tables, *read_runs([output])), output))
    print(f"\n{text}\nThese tables: {output / budget / 'tables.md'}, with curves and commands: {output / 'index.html'}")


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(file)


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
    tasks, released = chosen_tasks(args, budget, tables)
    print(f"budget {budget.name}: {budget.description}\nruns: {len(tasks)}")
    for replaced in released:
        print(f"published network in place of {replaced.paper} {replaced.experiment}: {replaced.released}")
    if args.dry_run:
        list_cells(tables, tasks)
        dry_run(tasks, args.output, args.experiments)
        return
    executor = make_executor(args, budget)
    print(f"at a time: {executor.jobs}")
    try:
        outcome = run(tasks, executor)
    except OSError as error:
        raise UserError(f"cannot write {error.filename} ({error.strerror})") from error
    summary = f"{len(outcome.done)} of {len(tasks)} runs done, {time.monotonic() - begun:.0f} s"
    if outcome.stopped:
        print(f"stopped: {summary}; the same command goes on from here")
        sys.exit(130)
    write_tables(tables, args.output, budget.name)
    print(summary)
    report_problems(outcome)
    print(f"by hand: {by_hand()}")
    if outcome.failed or outcome.blocked:
        sys.exit(1)


if __name__ == "__main__":
    main()
