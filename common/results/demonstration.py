"""Table and page of the demonstration, which `./run_all.sh --quick` runs: methods that learn, on synthetic data.

`python -m common.results.demonstration results/demonstration --svg FILE` draws its learning curves as one picture.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from common.atomic_write import write_text_atomically
from common.command_line import ArgumentParser, cli_main, output_file, printable
from common.errors import UserError
from common.field_types import require_field_types
from common.results.curves import Plot, chart
from common.results.page import render_template
from common.results.pictures import Panel, render_panels
from common.results.records import Curve, Mean, Record, Unfinished, read_runs, unfinished_runs
from common.results.reported import EXPERIMENTS
from common.results.tables import markdown
from common.run_record import NAME as RECORD
from common.run_record import require_record
from common.safe_json import read_json_file

NAME = "demonstration"
PLAN = EXPERIMENTS / NAME  # its plan, budget and tables
TABLES = "tables.json"
ALONE, TEACHER = "student alone", "teacher"  # begin the names of such rows
NONE = "–"

HEAD = """Every figure is a test accuracy in percent after the last epoch, of small networks that were trained for
minutes on a SYNTHETIC dataset. They show that the papers' commands train something, and which way the methods go; they
say nothing about real images or any published figure, and with one seed a difference of a few points may be luck."""


@dataclasses.dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        name: what was trained, and the exit where a network has several.
        runs: one for each seed.
        accuracies: in percent, one for each run; empty where the run has failed or was not chosen.
        alone: the same of the student without a teacher; empty where the section has none.
        unfinished: where there are none, a run that did not come to its end.
    """

    name: str
    runs: tuple[Record, ...] = ()
    accuracies: tuple[float, ...] = ()
    alone: tuple[float, ...] = ()
    unfinished: Unfinished | None = None

    @property
    def is_teacher(self) -> bool:
        return self.name.startswith(TEACHER)

    @property
    def accuracy(self) -> str:
        if not self.accuracies:
            return self.unfinished.status if self.unfinished else "no finished run"
        data = "synthetic" if self.is_synthetic else "other data"
        return f"{Mean.of(list(self.accuracies))} ({data})"

    @property
    def is_synthetic(self) -> bool:
        return all(not run.conditions.published_data for run in self.runs)

    @property
    def gain(self) -> str:
        """Over the student alone."""
        if not self.accuracies or not self.alone or self.is_teacher or self.name.startswith(ALONE):
            return NONE
        return f"{statistics.fmean(self.accuracies) - statistics.fmean(self.alone):+.2f}"

    @property
    def training(self) -> str:
        return self.runs[0].conditions.training if self.runs else NONE


@dataclasses.dataclass(frozen=True)
class Section:
    """What one paper's methods did.

    Attributes:
        paper, title, compares: for people.
        lines: of its table.
        classes, images: of the dataset; None where nothing was run.
        messages: a line about each record that was left out, and each run that did not come to its end.
    """

    paper: str
    title: str
    compares: str
    lines: tuple[Line, ...]
    classes: int | None
    images: int | None
    messages: tuple[str, ...] = ()

    @property
    def data(self) -> str:
        if self.classes is None:
            return "Nothing came to its end." if any(line.unfinished for line in self.lines) else "Nothing was run."
        size = f"{self.classes} classes and {self.images} training images"
        return f"Synthetic dataset of {size}; chance level {100 / self.classes:.2f}."

    @property
    def has_alone(self) -> bool:
        return any(line.alone for line in self.lines)

    @property
    def columns(self) -> list[str]:
        return ["test accuracy", *([f"− {ALONE}"] if self.has_alone else []), "trained for"]

    def values(self, line: Line) -> list[str]:
        return [line.accuracy, *([line.gain] if self.has_alone else []), line.training]

    @property
    def curves(self) -> dict[str, Curve]:
        """Accuracy by epoch of each student's first run."""
        by_run = {line.runs[0].experiment: line for line in reversed(self.lines) if line.runs and not line.is_teacher}
        found = {line.name.partition(", exit")[0]: line.runs[0].curve() for line in reversed(by_run.values())}
        return {name: curve for name, curve in found.items() if curve is not None}

    @property
    def plot(self) -> Plot | None:
        curves = self.curves
        return chart(curves) if curves else None


def read_demonstration(directory: Path, plan: Path = PLAN) -> list[Section]:
    """What the runs below `directory` give.

    Args:
        directory: results of the budget; may be absent.
        plan: with the tables.
    """
    places = [directory] if directory.is_dir() else []
    records = read_runs(places)[0]
    unfinished = {(run.paper, run.experiment): run for run in unfinished_runs(places)}
    return [_section(content, records, unfinished) for content in read_json_file(plan / TABLES)]


class _Exit(TypedDict):
    exit: str
    last: float


@dataclasses.dataclass(frozen=True)
class _Details:
    """What is shown here alone of a run's record.

    Raises:
        TypeError, ValueError: it is of another type or size.
    """

    exits: list[_Exit] | None
    classes: int | None
    images: int | None

    def __post_init__(self) -> None:
        require_field_types(self)
        if any(size is not None and size < 1 for size in (self.classes, self.images)):
            raise ValueError("a dataset of nothing")
        if not all(0 <= each["last"] <= 100.0001 for each in self.exits or ()):
            raise ValueError("an accuracy that is no percentage")


def _details(run: Record) -> _Details | None:
    """None where the record has something else there."""
    record = require_record(run.directory)
    try:
        return _Details(record.details.get("exits"), record.data.get("classes"), record.data.get("train_images"))
    except (TypeError, ValueError):
        return None


def _section(
    content: dict[str, Any], records: Sequence[Record], unfinished: Mapping[tuple[str, str], Unfinished]
) -> Section:
    runs: dict[str, tuple[Record, ...]] = {}
    details: dict[Path, _Details] = {}
    messages = []
    for _, experiment in content["rows"]:
        found = []
        for run in records:
            if (run.paper, run.experiment) != (content["paper"], experiment):
                continue
            if (of_run := _details(run)) is None:
                messages.append(f"Left out: {printable(run.directory / RECORD)} is not a complete record of a run.")
            else:
                found.append(run)
                details[run.directory] = of_run
        runs[experiment] = tuple(sorted(found, key=lambda run: run.seed))
    alone = next((_last(runs[experiment]) for name, experiment in content["rows"] if name.startswith(ALONE)), ())
    lines: list[Line] = []
    for name, experiment in content["rows"]:
        if runs[experiment]:
            lines += _lines(name, runs[experiment], details, alone)
            continue
        lines.append(Line(name, unfinished=(broken := unfinished.get((content["paper"], experiment)))))
        if broken:
            messages.append(f"{name}: {broken.status}: {broken.reason} ({printable(broken.directory)}).")
    first = next((details[found[0].directory] for found in runs.values() if found), _Details(None, None, None))
    paper, title, compares = (content[key] for key in ("paper", "title", "compares"))
    return Section(paper, title, compares, tuple(lines), first.classes, first.images, tuple(dict.fromkeys(messages)))


def _last(runs: Sequence[Record]) -> tuple[float, ...]:
    """Accuracies after the last epoch."""
    return tuple(run.last for run in runs if run.last is not None)


def _lines(
    name: str, runs: tuple[Record, ...], details: Mapping[Path, _Details], alone: tuple[float, ...]
) -> list[Line]:
    """One, or one for each exit of a network that has several, the same in all its `runs`."""
    exits = [details[run.directory].exits or [] for run in runs]
    if not all(exits) or len({tuple(each["exit"] for each in of_run) for of_run in exits}) > 1:
        return [Line(name, runs, _last(runs), alone)]
    return [
        Line(f"{name}, {rows[0]['exit'].replace('_', ' ')}", runs, tuple(row["last"] for row in rows), alone)
        for rows in zip(*exits, strict=True)
    ]


def render_text(sections: Sequence[Section]) -> str:
    """Markdown."""
    blocks = ["# Demonstration on synthetic data", HEAD]
    for section in sections:
        rows = [[line.name, *section.values(line)] for line in section.lines]
        blocks += [
            f"## {section.title}: {section.compares}",
            "\n".join([section.data, *section.messages]),
            markdown(["", *section.columns], rows, left=1),
        ]
    return "\n\n".join(blocks) + "\n"


def render_html(sections: Sequence[Section], steps: Sequence[tuple[str, str]] = ()) -> str:
    """The page; `steps` are what to do next, each with its command."""
    return render_template("demonstration.html", sections=sections, steps=steps, head=HEAD)


def render_svg(sections: Sequence[Section]) -> str:
    """All learning curves as one picture."""
    panels = [
        Panel(section.title, [f"accuracy in %, synthetic dataset, chance {100 / section.classes:g}"], section.curves)
        for section in sections
        if section.curves and section.classes
    ]
    return render_panels(panels, "Test accuracy by epoch of small networks on a synthetic dataset")


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m common.results.demonstration", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR", help="results of the demonstration")
    parser.add_argument("--svg", type=output_file("<svg"), metavar="FILE", help="also draw the learning curves")
    return parser.parse_args()


@cli_main
def main() -> None:
    args = parse_arguments()
    if not args.directory.is_dir():
        raise UserError(f"no directory {args.directory}: `./run_all.sh --quick` makes results/{NAME}")
    sections = read_demonstration(args.directory)
    if args.svg:
        write_text_atomically(args.svg, render_svg(sections))
    print(render_text(sections), end="")


if __name__ == "__main__":
    main()
