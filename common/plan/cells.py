"""Every published cell with the command, the settings and the protocol that it maps to: `docs/cells.md`.

`python -m common.plan.cells > docs/cells.md` makes the page from the plan, the parameter files and `reported.json`.
Settings are what the command's `params.json` or YAML file says, over what its script takes where these say nothing
(`experiments/<paper>/*.json`), under the overrides on the command line.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from common.command_line import REPOSITORY, ArgumentParser, cli_main
from common.plan.budgets import load_budget
from common.plan.plan import PlannedRun, load_plan
from common.plan.seeds import seeds_of
from common.results.report import DOUBT, NONE, NOTE, CellResult, Section
from common.results.reported import EXPERIMENTS, PROTOCOLS, Cell, Table, load_tables, plan_files
from common.results.tables import markdown
from common.safe_json import of_its_shape, read_json_file

HEAD = f"""# Every published cell

Made by `python -m common.plan.cells > docs/cells.md` from the plan; a test holds it against
`experiments/reported.json`. Commands are typed in the paper's directory. Protocol: which epoch the published figure is
of. Seeds: how many the budget `paper` runs, with `--seed 0`, `--seed 1` and so on; a `seed` among the settings is the
script's own. {DOUBT} marks figures that are very likely misprints, {NOTE} cells with a note below their table."""


class Settings:
    """What commands train by, read from files.

    Args:
        experiments: directory of plan and parameters.
    """

    def __init__(self, experiments: Path) -> None:
        self.root = experiments.parent
        self.plans = {}
        for file in reversed(plan_files(experiments).values()):
            plan = read_json_file(file)
            with of_its_shape(file, "plan"):
                self.plans[plan["paper"]] = plan
        self.pinned = {
            paper: [
                content
                for file in sorted((experiments / paper).glob("*.json"))
                if "hyperparameters" in (content := read_json_file(file))
            ]
            for paper in self.plans
        }

    def of(self, run: PlannedRun) -> dict[str, Any]:
        """Names and values, those of its own files first."""
        own = {**self._parameters(run), **self._configuration(run), **self._copied(run)}
        return own | {key: value for key, value in self._defaults(run).items() if key not in own}

    def _defaults(self, run: PlannedRun) -> dict[str, Any]:
        """What the script takes where nothing says otherwise."""
        found = [
            content["hyperparameters"]
            for content in self.pinned[run.paper]
            if run.command[0] in shlex.split(content.get("command", ""))
            and fnmatchcase(run.experiment, content.get("experiments", "*"))
        ]
        return {key: value for hyperparameters in found for key, value in hyperparameters.items()}

    def _parameters(self, run: PlannedRun) -> dict[str, Any]:
        """The keys of its `params.json` that it reads."""
        if run.parameters is None:
            return {}
        params, command = read_json_file(self.root / run.parameters / "params.json"), " ".join(run.command)
        reads = self.plans[run.paper].get("reads", {"": list(params)})
        return {key: params[key] for part, keys in reads.items() if part in command for key in keys}

    def _configuration(self, run: PlannedRun) -> dict[str, Any]:
        """Its YAML file, flat, and the overrides of the command line."""
        flag = self.plans[run.paper].get("configuration")
        if flag not in run.command:
            return {}
        from common.safe_yaml import read_yaml_file

        file, *overrides = run.command[run.command.index(flag) + 1 :]
        content = read_yaml_file(REPOSITORY / run.paper / file)
        content.pop("EXPERIMENT", None)
        return {**_flat(content), **dict(zip(overrides[::2], overrides[1::2], strict=True))}

    def _copied(self, run: PlannedRun) -> dict[str, Any]:
        """The lists of files that it is given, such as an ensemble's."""
        contents = [read_json_file(REPOSITORY / file) for _, file in run.copy_files]
        return {key: value for content in contents for key, value in content.items()}


def _flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def render(experiments: Path = EXPERIMENTS) -> str:
    """The page."""
    tables, runs = load_tables(experiments), load_plan(experiments)
    settings, by_key = Settings(experiments), {run.key: run for run in runs}
    seeds = seeds_of(runs, tables, load_budget("paper", experiments))
    cells = [(table, cell) for table in tables for cell in table.published_cells]
    planned = Counter(table.key_of(cell) in by_key for table, cell in cells)[True]
    blocks = [HEAD, f"{planned} of {len(cells)} cells have a command."]
    for table in tables:
        rows = []
        for cell in table.published_cells:
            run = by_key.get(table.key_of(cell))
            rows.append(_row(table, cell, run, settings.of(run) if run else {}, len(seeds[run.key]) if run else 0))
        header = ["row", "column", "published", "command", "settings", "protocol", "seeds"]
        section = Section(table, ())
        blocks += [
            f"## {table.title} (`{table.id}`)",
            f"{table.dataset}, {table.metric}. Published figures: {table.source}; {section.protocol}.",
            markdown(header, rows, left=2),
            *(f"{DOUBT} {misprint}." for misprint in section.misprints),
            *(f"{NOTE} {'; '.join(names)}: {note}." for note, names in section.cell_notes.items()),
            *(f"Note: {note}" for note in table.notes),
        ]
    return "\n\n".join(blocks) + "\n"


def _row(table: Table, cell: Cell, run: PlannedRun | None, settings: dict[str, Any], seeds: int) -> list[str]:
    published = CellResult(table.paper, cell).published
    protocol = PROTOCOLS[cell.protocol] or "not known: best and last are both compared"
    if run is None:
        return [cell.row, cell.column, published, NONE, cell.missing or NONE, protocol, NONE]
    command = f"`python {shlex.join(run.command)}`"
    return [cell.row, cell.column, published, command, _in_words(settings), protocol, str(seeds)]


def _in_words(settings: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m common.plan.cells", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--experiments", type=Path, default=EXPERIMENTS, metavar="DIR", help="plan and figures")
    return parser.parse_args(arguments)


@cli_main
def main() -> None:
    print(render(parse_arguments().experiments), end="")


if __name__ == "__main__":
    main()
