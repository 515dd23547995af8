"""The published tables with the figures of the runs below some directories: `python -m common.results results`.

Prints them as Markdown; `--html FILE` also writes one page with curves, commands and links to the runs, `--svg FILE`
the curves as a picture. `--compare A B` says instead whether two experiments differ: two directories (or run.json
files), or two experiments below DIR.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common.atomic_write import write_text_atomically
from common.command_line import ArgumentParser, cli_main, output_file
from common.results.analysis import METRICS, parse_metrics
from common.results.compare import compare, find_side
from common.results.page import write_page
from common.results.pictures import draw_runs
from common.results.records import read_runs, unfinished_runs
from common.results.report import make_report
from common.results.reported import EXPERIMENTS, load_tables
from common.results.tables import render, render_runs
from common.run_record import NAME

TABLES_ALONE = ("all", "metrics", "html", "svg")  # flags that --compare has no use for


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m common.results", description=__doc__)
    add = parser.add_argument
    add("directories", nargs="*", type=Path, metavar="DIR", help="where to look for run.json files")
    add("--experiments", type=Path, default=EXPERIMENTS, help="published figures and plan")
    add("--all", action="store_true", help="also the published tables for which there are no runs")
    add("--metrics", default="", metavar="M,...", help=f"further columns, of the last epoch: {', '.join(METRICS)}")
    add(
        "--html",
        type=output_file("<!doctype html>"),
        metavar="FILE",
        help="also write one self-contained page with all tables",
    )
    add("--svg", type=output_file("<svg"), metavar="FILE", help="also draw the learning curves, the mean over seeds")
    add("--compare", nargs=2, metavar=("A", "B"), help="say whether two sets of runs differ (t-tests, effect size)")
    add("--across-budgets", action="store_true", help="compare runs of different data or budgets all the same")
    args = parser.parse_args()
    if not args.directories and not args.compare:
        parser.error("give a directory with runs")
    if files := [path for path in args.directories if path.is_file() and path.name != NAME]:
        parser.error(f"{files[0]} is neither a directory nor a {NAME}")
    if args.compare and (of_tables := [flag for flag in TABLES_ALONE if getattr(args, flag)]):
        parser.error(
            f"--{of_tables[0]} belongs to the tables, which --compare A B does not print: leave one of them out"
        )
    if args.across_budgets and not args.compare:
        parser.error("--across-budgets is for --compare A B")
    return args


@cli_main
def main() -> None:
    args = parse_arguments()
    if args.compare:
        a, b = (find_side(name, args.directories) for name in args.compare)
        print(compare(a, b, across_budgets=args.across_budgets), end="")
        return
    metrics = parse_metrics(args.metrics) if args.metrics else ()
    records, remarks = read_runs(args.directories)
    report = make_report(load_tables(args.experiments), records, remarks, unfinished=unfinished_runs(args.directories))
    if args.svg:
        write_text_atomically(args.svg, draw_runs(records))
    if args.html:
        write_page(report, args.html)
    print(render_runs(report), render(report, unmeasured=args.all, metrics=metrics), sep="\n", end="")


if __name__ == "__main__":
    main()
