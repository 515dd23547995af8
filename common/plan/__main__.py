"""Regenerate the published tables: `python -m common.plan --budget small`.

Runs what the plan (experiments/plan/) asks for under a budget (experiments/budgets.json): skips what is done, resumes
what was interrupted, goes on past failures, and prints the tables. It can be stopped with Ctrl-C at any time; the same
command resumes from there.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from glob import escape as literal
from pathlib import Path
from typing import TYPE_CHECKING

from common.atomic_write import write_text_atomically
from common.command_line import (
    REPOSITORY,
    ArgumentParser,
    cli_main,
    positive_float,
    positive_int,
    seed_number,
)
from common.errors import TrainingError, UserError
from common.plan.budgets import Budget, load_budget
from common.plan.checks import require_accepted
from common.plan.datasets import ensure_dataset, is_present
from common.plan.estimate import estimate
from common.plan.executors import Executor, LocalExecutor, cpu_count
from common.plan.plan import PlannedRun, load_plan, select, with_released
from common.plan.search import Search
from common.plan.search_table import describe, render_search
from common.plan.seeds import seeds_of
from common.plan.sweep import equal_trials, make_grids, parse_axes
from common.plan.tasks import State, Task, make_tasks, states
from common.results.analysis import parse_metrics
from common.results.demonstration import NAME, read_demonstration, render_html, render_text
from common.results.page import render_page
from common.results.records import read_runs, unfinished_runs
from common.results.report import Report, make_report
from common.results.reported import EXPERIMENTS, Table, load_tables
from common.results.tables import render
from common.run_record import SWEEPS

if TYPE_CHECKING:
    from common.plan.runner import RunSummary


NEXT = "./run_all.sh --budget small --dry-run"
SEARCH_SEEDS = (0, 1, 2)  # of what a search tests in the end, unless the command line says it


def _list(text: str) -> list[str]:
    parts = [part for part in text.split(",") if part]
    if not parts:
        raise argparse.ArgumentTypeError("its value is empty")
    return parts


def _seeds(text: str) -> list[int]:
    words = _list(text)
    seeds = [seed_number(word) for word in words if word.isdecimal()]
    if not seeds or len(set(seeds)) < len(words):
        raise argparse.ArgumentTypeError(f"{text} is not a list of different seeds, such as 0,1,2")
    return seeds


def _joined(words: Sequence[str]) -> list[str]:
    """The command line with what follows each `--sweep` put to it: its key may look like a flag."""
    joined: list[str] = []
    for word in words:
        if joined and joined[-1] == "--sweep":
            joined[-1] = f"--sweep={word}"
        else:
            joined.append(word)
    return joined


def _factor(text: str) -> int:
    factor = positive_int(text)
    if factor < 2:
        raise argparse.ArgumentTypeError(f"{text} keeps every trial: give 2 or more")
    return factor


def _version() -> str:
    """Name and version from pyproject.toml, which is there before anything is installed."""
    text = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    return " ".join(re.findall(r'^(?:name|version) = "(.*)"', text, flags=re.MULTILINE)[:2])


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(
        prog=os.environ.get("KD_COMMAND", "python -m common.plan"),
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    budgets = "paper (as published, the default), tenth, small, trial or smoke"
    add("--version", action="version", version=_version())
    add("--budget", metavar="NAME", help=budgets)
    add("--quick", action="store_true", help="a demonstration of minutes: small networks learn on synthetic data")
    add("--papers", type=_list, default=[], metavar="P,...", help="only these papers")
    add("--tables", type=_list, default=[], metavar="T,...", help="only these tables (patterns), such as tfkd/re-kd")
    add(
        "--cells",
        action="append",
        default=[],
        metavar="GLOB",
        help="only experiments ('base_experiments/*') or cells ('<table> <row> <column>') of this pattern; repeatable",
    )
    add(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY=V,...",
        help="search over a key of a YAML file, of params.json, or a flag ('--kd-T=2,4'), in trials that never see the "
        "test split (docs/tuning.md); repeatable; KEY=LOW:HIGH[:log] is drawn from",
    )
    add("--trials", type=positive_int, metavar="N", help="of each method, drawn at random (default: the smallest grid)")
    add("--halving", type=_factor, metavar="N", help="successive halving: compare early, and keep one trial in N")
    add("--metrics", default="", metavar="M,...", help="further columns of the tables: agreement,ece (docs/metrics.md)")
    add("--seeds", type=_seeds, metavar="S,...", help="seeds of every run (default: the budget's)")
    add("--jobs", type=positive_int, metavar="N", help="runs at a time, which share the cores (default: the budget's)")
    add(
        "--cluster",
        metavar="ADDRESS",
        help="run on a Ray cluster (docs/cluster.md): auto, HOST:PORT or ray://HOST:PORT",
    )
    add("--cpus-per-run", type=positive_int, default=1, metavar="N", help="on a cluster (default: 1)")
    add(
        "--gpus-per-run",
        type=positive_float,
        metavar="F",
        help="on a cluster: 0.25 lets four runs share a GPU (default: 1, if any)",
    )
    add(
        "--dry-run", action="store_true", help="print commands, what is there, what is missing, an estimate; do nothing"
    )
    add("--output", type=Path, default=REPOSITORY / "results", metavar="DIR", help="default: results/")
    add("--data-dir", type=Path, default=REPOSITORY / "data", metavar="DIR", help="datasets (default: data/)")
    add("--experiments", type=Path, default=EXPERIMENTS, metavar="DIR", help="plan, budgets, parameters and figures")
    args = parser.parse_args(_joined(sys.argv[1:]))
    if args.quick and (args.budget or args.tables or args.sweep or args.metrics):
        parser.error(
            "--quick has a plan, a budget and tables of its own: give it without --budget, --tables, --metrics and "
            "--sweep"
        )
    args.budget = args.budget or (NAME if args.quick else "paper")
    args.plan = args.experiments / NAME if args.quick else args.experiments
    if args.output.exists() and not args.output.is_dir():
        parser.error(f"argument --output: {args.output} is no directory")
    if (args.cpus_per_run != 1 or args.gpus_per_run is not None) and args.cluster is None:
        parser.error("--cpus-per-run and --gpus-per-run are for a cluster: give --cluster ADDRESS")
    if (args.trials or args.halving) and not args.sweep:
        parser.error("--trials and --halving are for a search: give --sweep KEY=VALUE,VALUE")
    if args.sweep and args.seeds and len(args.seeds) < 2:
        parser.error("--sweep compares published with tuned over seeds, and one seed shows no spread: give two or more")
    return args


def list_cells(tables: Sequence[Table], tasks: Sequence[Task]) -> None:
    """Print which published cells the tasks give, and which cells of the same tables nothing gives."""
    if not tables:
        return
    planned = {task.run.key for task in tasks}
    shown = [table for table in tables if any(table.key_of(cell) in planned for cell in table.cells)]
    cells = [(table, cell) for table in shown for cell in table.published_cells]
    given = [(table, cell) for table, cell in cells if table.key_of(cell) in planned]
    print(f"\npublished cells that these runs give: {len(given)} of {sum(len(t.published_cells) for t in tables)}")
    for table, cell in given:
        print(f"  {table.id} | {cell.row} | {cell.column}: {cell.experiment}")
    for table, cell in cells:
        if cell.missing:
            why = f" ({cell.note})" if cell.note else ""
            print(f"no run: {table.id} | {cell.row} | {cell.column}: {cell.missing}{why}")


def dry_run(tasks: Sequence[Task], output: Path, experiments: Path, jobs: int) -> None:
    """Print the commands in order, how far each is, what is missing, and how long the rest takes."""
    state = states(tasks)
    for number, task in enumerate(tasks, 1):
        waits = [need.run.experiment for need in task.depends_on if state[need] is not State.DONE]
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
    print(estimate([task for task in tasks if state[task] is not State.DONE], output, experiments, jobs))


def missing_networks(tasks: Sequence[Task], state: Mapping[Task, State]) -> list[str]:
    """Which networks other runs wait for: a line for teachers, one for students, each network once for all seeds."""
    untrained = {
        need.run.key: need.run
        for task in tasks
        for need in task.depends_on
        if need.run.trains and state[need] is not State.DONE
    }
    lines = []
    for kind, taught in (("teachers", False), ("students", True)):  # a student has teachers itself
        papers: dict[str, list[PlannedRun]] = {}
        for run in untrained.values():
            if bool(run.depends_on) is taught:
                papers.setdefault(run.paper, []).append(run)
        if papers:
            named = "; ".join(
                f"{paper}: {', '.join(_names(missing, whole=taught))}" for paper, missing in papers.items()
            )
            lines.append(f"missing {kind} (the plan trains them): {named}")
    return lines


def _names(runs: Sequence[PlannedRun], *, whole: bool) -> list[str]:
    """The runs' experiments, or of each its last part alone, with the number of datasets where those are several."""
    datasets: dict[str, set[str]] = {}
    for run in runs:
        name = run.experiment if whole else re.split(r"[ /]", run.experiment)[-1]
        datasets.setdefault(name, set()).add(run.dataset)
    return [f"{name} (on {len(of)} datasets)" if len(of) > 1 else name for name, of in datasets.items()]


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
    runs, released = load_plan(args.plan), []
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
    seeds = {run.key: tuple(args.seeds) for run in runs} if args.seeds else seeds_of(runs, tables, budget)
    where = {"output": args.output, "data": args.data_dir, "experiments": args.experiments}
    chosen, papers = {run.key for run in runs}, {run.paper for run in runs}
    replaced = [run for run in released if run.paper in papers and run.key not in chosen]
    return make_tasks(runs, seeds, budget, **where), replaced


def make_search(args: argparse.Namespace, budget: Budget, tasks: Sequence[Task]) -> Search:
    """The search that `--sweep` asks for, over those of the chosen runs that have its keys."""
    runs, by_run = {task.run.key: task.run for task in tasks}, {(task.run.key, task.seed): task for task in tasks}
    needed = {(run.paper, need) for run in runs.values() for need in run.depends_on}
    named = bool(args.cells or args.tables)
    grids = make_grids(parse_axes(args.sweep), list(runs.values()), needed, args.experiments, budget, all_of_them=named)
    where = {"output": args.output, "data": args.data_dir, "experiments": args.experiments}
    trials = equal_trials(grids, args.trials, seed=0)
    needs = lambda run, seed: by_run[run.key, seed].depends_on  # noqa: E731
    return Search(grids, trials, budget, args.seeds, needs, args.halving, where)


def search_and_report(
    args: argparse.Namespace, search: Search, executor: Executor, metrics: Sequence[str], begun: float
) -> None:
    """Run a search and print its tables."""
    outcome = search.run(lambda tasks, needed_later: run(tasks, executor, needed_later))
    summary = f"{len(outcome.done)} runs done, {time.monotonic() - begun:.0f} s"
    if outcome.stopped:
        print(f"stopped: {summary}; the same command resumes from here")
        sys.exit(130)
    if outcome.broken:  # before all trials have ended there is nothing to choose from
        report_problems(outcome)
        print(f"{summary}; {outcome.broken}: the same command resumes from here")
        sys.exit(1)
    text, file = render_search(search, metrics), args.output / search.budget.name / SWEEPS / "tables.md"
    written, where = _write_all({file: lambda: text}, f"These tables: {file}")
    print(f"\n{text}\n{where}")
    report_problems(outcome)
    print(summary)
    if outcome.failed or outcome.blocked or not written:
        sys.exit(1)


def jobs_of(args: argparse.Namespace, budget: Budget) -> int:
    """How many runs at a time on this machine."""
    return args.jobs or min(budget.jobs, cpu_count())


def make_executor(args: argparse.Namespace, budget: Budget) -> Executor:
    """The machines that the flags ask for."""
    if args.cluster is None:
        return LocalExecutor(jobs_of(args, budget))
    from common.plan.cluster import RayExecutor

    return RayExecutor(args.cluster, jobs=args.jobs, cpus=args.cpus_per_run, gpus=args.gpus_per_run)


def run(tasks: Sequence[Task], executor: Executor, needed_later: Collection[Task] = ()) -> RunSummary:
    """Provide the data and execute the tasks; the networks of `needed_later` are kept."""
    from common.plan.runner import Runner  # its display needs a package; what is above needs none

    missing = {}
    for dataset, directory in sorted({(task.run.dataset, task.data_dir) for task in tasks}):
        if problem := ensure_dataset(dataset, directory, tasks[0].budget):
            missing[dataset] = problem
    return Runner(tasks, executor, missing, needed_later).run()


def write_tables(tables: list[Table], output: Path, budget: str, metrics: Sequence[str] = ()) -> tuple[bool, str]:
    """Print the tables of a budget's runs and keep them beside these; make the page of all runs below `output`.

    Returns:
        Whether they could be written, and where they are, or why not.
    """
    here, file, page = output / budget, output / budget / "tables.md", output / "index.html"
    report = _report(tables, [here] if here.is_dir() else [])
    text = render(report, metrics=metrics)
    print(f"\n{text}")
    return _write_all(
        {file: lambda: text, page: lambda: render_page(_report(tables, [output]), output)},
        f"these tables: {file}, with curves and commands: {page}",
    )


def _report(tables: list[Table], directories: Sequence[Path]) -> Report:
    return make_report(tables, *read_runs(directories), unfinished=unfinished_runs(directories))


def write_demonstration(plan: Path, output: Path) -> tuple[bool, str]:
    """Print the table of the demonstration and keep it beside its runs, with a page; returns as `write_tables`."""
    sections = read_demonstration(output / NAME, plan)
    text, page = render_text(sections), output / NAME / "index.html"
    print(f"\n{text}")
    return _write_all(
        {output / NAME / "tables.md": lambda: text, page: lambda: render_html(sections, next_steps())},
        f"the same with curves: {page}\nnext: {NEXT}",
    )


def _write_all(files: Mapping[Path, Callable[[], str]], where: str) -> tuple[bool, str]:
    try:
        for file, content in files.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(file, content(), writer=str(os.getpid()))  # another plan may be writing the same
    except OSError as error:
        return False, f"error: cannot write {error.filename or next(iter(files))} ({error.strerror})"
    except (UserError, TrainingError) as error:
        return False, f"error: {error}"
    return True, where


def next_steps() -> list[tuple[str, str]]:
    """What to do after the demonstration, in words and as a command."""
    return [
        ("Real data, all methods, networks for a laptop: what it would run, and for how long", NEXT),
        ("A first network by hand", by_hand()),
    ]


def report_problems(outcome: RunSummary) -> None:
    """List what failed, with its log, and what could not be run."""
    for task, reason in outcome.failed.items():
        print(f"FAILED {task.name}: {reason}\n  log: {task.log}")
    for task, reason in outcome.blocked.items():
        print(f"BLOCKED {task.name}: {reason}")


@cli_main
def main() -> None:
    args = parse_arguments()
    begun = time.monotonic()
    budget = load_budget(args.budget, args.plan)
    tables = [] if args.quick else load_tables(args.experiments)
    metrics = parse_metrics(args.metrics) if args.metrics else ()
    if args.sweep:
        args.seeds = args.seeds or list(SEARCH_SEEDS)
    tasks, released = chosen_tasks(args, budget, tables)
    search = make_search(args, budget, tasks) if args.sweep else None
    if search:
        require_accepted(search.trials)
        tasks = list(dict.fromkeys([*search.first_tasks, *search.last_tasks]))
    print(f"budget {budget.name}: {budget.description}\nruns: {len(tasks)}")
    for replaced in released:
        print(f"published network in place of {replaced.paper} {replaced.experiment}: {replaced.released}")
    if args.dry_run:
        if search:
            print(describe(search))
        else:
            list_cells(tables, tasks)
        dry_run(tasks, args.output, args.plan, jobs_of(args, budget) if args.cluster is None else 1)
        return
    executor = make_executor(args, budget)
    print(f"at a time: {executor.jobs}")
    if search:
        return search_and_report(args, search, executor, metrics, begun)
    outcome = run(tasks, executor)
    summary = f"{len(outcome.done)} of {len(tasks)} runs done, {time.monotonic() - begun:.0f} s"
    if outcome.stopped:
        print(f"stopped: {summary}; the same command resumes from here")
        sys.exit(130)
    if args.quick:
        written, where = write_demonstration(args.plan, args.output)
    else:
        written, where = write_tables(tables, args.output, budget.name, metrics)
    closing = [where, f"by hand: {by_hand()}"]
    opening = [] if args.quick and written else closing  # the demonstration ends with what to do next
    print(*opening, sep="\n", end="\n" * bool(opening))
    report_problems(outcome)
    print(f"{summary}; {outcome.broken}: the same command resumes from here" if outcome.broken else summary)
    if not opening:
        print(*closing, sep="\n")
    if outcome.failed or outcome.blocked or outcome.broken or not written:
        sys.exit(1)


if __name__ == "__main__":
    main()
