"""Print the published tables with the figures of the runs below some directories: `python -m common.results results`.

Reads the `run.json` files there and nothing else of the runs.
"""

from __future__ import annotations

from pathlib import Path

from common.command_line import ArgumentParser, entry_point
from common.results.records import read_runs
from common.results.reported import EXPERIMENTS, load_tables
from common.results.tables import render


@entry_point
def main() -> None:
    parser = ArgumentParser(prog="python -m common.results", description=__doc__)
    parser.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="where to look for run.json files")
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, help="published figures and plan")
    parser.add_argument("--all", action="store_true", help="also the published tables for which there are no runs")
    args = parser.parse_args()
    tables = load_tables(args.experiments)
    print(render(tables, *read_runs(args.directories), unmeasured=args.all), end="")


if __name__ == "__main__":
    main()
