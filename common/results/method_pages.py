"""The generated parts of `docs/methods/`: `python -m common.results.method_pages`, with `--check` to only compare.

`docs/methods/pages.json` says for each page which methods, table cells and runs are its own. What stands between
`<!-- generated: NAME -->` and `<!-- end -->` is then written from the published figures, the plan, the configurations
and the measured runs:

    metrics         names of the metrics that every run logs, from the table in docs/methods/README.md
    configurations  the published parameter files of the method
    results         published figures and what was measured
    methods         (in the README) all methods with the networks that their published figures are of
"""

from __future__ import annotations

import argparse
import dataclasses
import fnmatch
import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from common.atomic_write import write_text_atomically
from common.command_line import REPOSITORY, ArgumentParser, cli_main
from common.errors import UserError
from common.results.records import Record, read_runs
from common.results.report import DOUBT, MARK, NONE, NOTE, BudgetTable, CellResult, Report, Section, make_report
from common.results.reported import EXPERIMENTS, Cell, Table, load_tables
from common.results.tables import markdown
from common.safe_json import read_json_file
from common.safe_yaml import read_yaml_file

PAGES = REPOSITORY / "docs" / "methods"
GENERATED = re.compile(r"(?<=<!-- generated: )(\w+) -->\n.*?(?=<!-- end -->)", re.DOTALL)
# columns of `configurations` for Tf-KD: what its losses and its schedule read
PARAMETERS = (
    *("alpha", "temperature", "reg_alpha", "reg_temperature", "multiplier"),
    *("learning_rate", "batch_size", "num_epochs"),
)
SOLVER = ("LR", "BATCH_SIZE", "EPOCHS")


@dataclasses.dataclass(frozen=True)
class Page:
    """What belongs to one page.

    Attributes:
        file: the page.
        methods: (paper, what its records call the method).
        cells: globs of (table, row, column).
        runs: pattern of "<paper> <experiment>" that measured runs of these methods must match to be the page's.
    """

    file: Path
    methods: tuple[tuple[str, str], ...]
    cells: tuple[tuple[str, str, str], ...]
    runs: str

    @property
    def text(self) -> str:
        return self.file.read_text(encoding="utf-8")

    @property
    def title(self) -> str:
        return self.text.partition("\n")[0].removeprefix("# ")

    def owns(self, table: Table, cell: Cell) -> bool:
        place = (table.id, cell.row, cell.column)
        return any(all(map(fnmatch.fnmatchcase, place, globs)) for globs in self.cells)

    def trained(self, record: Record) -> bool:
        """Whether a run trained by this page's method."""
        return (record.paper, record.method) in self.methods and bool(
            re.fullmatch(self.runs, f"{record.paper} {record.experiment}")
        )

    def table(self, table: Table) -> Table:
        return dataclasses.replace(table, cells=tuple(cell for cell in table.cells if self.owns(table, cell)))


def load_pages(directory: Path = PAGES) -> list[Page]:
    """The pages of `pages.json`, in its order.

    Raises:
        UserError: a page that is not there.
    """
    pages = []
    for name, content in read_json_file(directory / "pages.json").items():
        if not (directory / name).is_file():
            raise UserError(f"{directory / 'pages.json'} names {name}, which does not exist")
        methods = tuple(tuple(method.split()) for method in content["methods"])
        pages.append(
            Page(directory / name, methods, tuple(map(tuple, content.get("cells", ()))), content.get("runs", ".*"))
        )
    return pages


@dataclasses.dataclass(frozen=True)
class Sources:
    """Everything that pages are written from."""

    pages: Sequence[Page]
    tables: Sequence[Table]
    records: Sequence[Record]
    metrics: Sequence[str]

    @classmethod
    def read(cls, directory: Path = PAGES, experiments: Path = EXPERIMENTS) -> Sources:
        records, _ = read_runs([experiments / "measured"])
        section = (directory / "README.md").read_text(encoding="utf-8").partition("## Metrics of every run")[2]
        metrics = re.findall(r"^\| `([^`]+)`", section.partition("\n## ")[0], flags=re.MULTILINE)
        return cls(load_pages(directory), load_tables(experiments), records, metrics)


def results(page: Page, sources: Sources) -> str:
    """Published figures of the page's cells, and what was measured of them and beside them."""
    tables = [table for table in map(page.table, sources.tables) if table.cells]
    experiments = {(table.paper, cell.experiment) for table in tables for cell in table.cells}
    records = [r for r in sources.records if page.trained(r) or (r.paper, r.experiment) in experiments]
    report = make_report(tables, records)
    blocks = [block for section in report.sections for block in _section(section)]
    if not any(table.published_cells for table in tables):
        blocks.insert(0, "No figure of this method is in the published tables.")
    return "\n\n".join([*blocks, *_other_runs(report), *_legend(report)])


def _section(section: Section) -> list[str]:
    table, blocks = section.table, []
    protocol = f", {section.protocol}" if table.published_cells else ""
    for i, part in enumerate(section.parts):
        lines = [line for line in part.lines if line.measured or (i == 0 and line.cell.published is not None)]
        if lines:
            blocks += _rows(section, part, lines)
    source = f"published figures: {table.source}{protocol}"
    head = f"**{table.title}** (`{table.id}`): {table.dataset}, {table.metric}; {source}."
    notes = [f"Note: {note}" for note in table.notes if table.published_cells]
    notes += [f"{NOTE} {'; '.join(cells)}: {note}." for note, cells in section.cell_notes.items()]
    return [head, *blocks, *notes] if blocks else []


def _rows(section: Section, part: BudgetTable, lines: Sequence[CellResult]) -> list[str]:
    rows = [{"row": line.cell.row, "column": line.cell.column, **section.values(part, line)} for line in lines]
    table = markdown(list(rows[0]), [list(row.values()) for row in rows], left=2)
    if not part.measured:
        return [table, "Nothing of this table has been measured yet."]
    provenance = "; ".join(f"{name}: {value}" for name, value in part.provenance.items())
    return [table, f"Measured{'' if part.as_published else f' {MARK}'}: {provenance}."]


def _other_runs(report: Report) -> list[str]:
    if not report.others:
        return []
    rows = [
        [
            *(f"`{line.cell.row}`", line.show("best"), line.show("last"), line.seeds, line.budget),
            *(line.measured.conditions.content, ", ".join(sorted({run.commit for run in line.measured.runs}))),
        ]
        for line in report.others
        if line.measured
    ]
    header = ["measured, of no published table", "best", "last", "seeds", "budget", "data", "commit"]
    return [markdown(header, rows, left=1)]


def _legend(report: Report) -> list[str]:
    """What the marks mean, for those that the page has."""
    parts = (part for section in report.sections for part in section.parts)
    runs = [*report.others, *(line for part in parts for line in part.lines)]
    small = any(line.conditions and not line.conditions.as_published for line in runs)
    misprints = dict.fromkeys(misprint for section in report.sections for misprint in section.misprints)
    return [
        *(
            [f"{MARK} Other data or another budget than the paper's: this does not reproduce the figure."]
            if small
            else []
        ),
        *(f"{DOUBT} {misprint}." for misprint in misprints),
    ]


def configurations(page: Page, sources: Sources) -> str:
    """A row for each published parameter file of the method."""
    blocks = []
    for paper in dict.fromkeys(paper for paper, _ in page.methods):
        rows = _CONFIGURATIONS[paper](page, sources)
        columns = sorted(dict.fromkeys(key for _, values in rows for key in values), key=SOLVER.__contains__)
        if columns:
            cells = [[f"`{file}`", *(_value(values.get(key)) for key in columns)] for file, values in rows]
            blocks.append(markdown(["file", *columns], cells, left=1))
    return "\n\n".join(blocks)


def _value(value: Any) -> str:
    return NONE if value is None else json.dumps(value).strip('"')


Rows = list[tuple[str, dict[str, Any]]]


def _parameter_files(page: Page, sources: Sources) -> Rows:
    """Tf-KD: the directories of the page's experiments, with what their `params.json` says."""
    names = [cell.experiment for table in map(page.table, sources.tables) for cell in table.published_cells]
    rows: Rows = []
    for name in dict.fromkeys(name.partition(" ")[0] for name in names if name):
        params = read_json_file(EXPERIMENTS / name / "params.json")
        networks = {"student": params["model_version"].removesuffix("_distill")}
        if params["teacher"] != "none":
            networks["teacher"] = params["teacher"]
        rows.append((name, {**networks, **{key: params[key] for key in PARAMETERS if key in params}}))
    return rows


def _yaml_files(page: Page, sources: Sources) -> Rows:
    """EDKD: the configurations with one of the page's methods, their own section's keys and the solver's size."""
    kinds, rows = [kind for paper, kind in page.methods if paper == "edkd"], []
    root = REPOSITORY / "edkd"
    for file in sorted((root / "configs").rglob("*.yaml")):
        content = read_yaml_file(file)
        solver, distiller = content["SOLVER"], content["DISTILLER"]
        kind = "DOT" if "dot" in solver.get("TRAINER", "") else distiller["TYPE"]
        if kind in kinds:
            networks = {"teacher": distiller.get("TEACHER"), "student": distiller["STUDENT"]}
            own = dict(_flat(solver if kind == "DOT" else {}, "DOT")) | dict(_flat(content, distiller["TYPE"]))
            rows.append((str(file.relative_to(root)), {**networks, **own, **{key: solver[key] for key in SOLVER}}))
    return rows


def _flat(content: dict[str, Any], key: str) -> Iterable[tuple[str, Any]]:
    """`KEY.SUBKEY` and value for all that lies below `content[key]`."""
    value = content.get(key, {})
    if not isinstance(value, dict):
        return [(key, value)]
    return [(f"{key}.{name}", inner) for below in value for name, inner in _flat(value, below)]


def _json_files(paper: str) -> Callable[[Page, Sources], Rows]:
    def read(page: Page, sources: Sources) -> Rows:
        """The file that pins the method's hyperparameters."""
        rows = []
        for file in sorted((EXPERIMENTS / paper).glob("*.json")):
            if file.stem in {PINNED.get(method) for method in page.methods}:
                rows.append((str(file.relative_to(REPOSITORY)), read_json_file(file)["hyperparameters"]))
        return rows

    return read


# (paper, method) -> the file below experiments/<paper>/ that holds its hyperparameters
PINNED = {
    ("mtkd_rl", "Averaging"): "aver",
    ("mtkd_rl", "MultiTeacherRL"): "mtkd_rl",
    ("mtkd_rl", "Baseline"): "teacher",
    ("mlkd", "MultiLevel"): "ensemble",
}
_CONFIGURATIONS = {
    "tfkd": _parameter_files,
    "edkd": _yaml_files,
    "mtkd_rl": _json_files("mtkd_rl"),
    "mlkd": _json_files("mlkd"),
}


def metrics(page: Page, sources: Sources) -> str:
    """The names that the table of the README explains; a page of its own on validation has no test set by epoch."""
    validates = "`validation/" in page.text.partition("<!-- generated: metrics -->")[0]
    names = [f"`{name}`" for name in sources.metrics if not (validates and name.startswith("test/"))]
    optional = [name.replace("test/", "validation/") for name in names if name.startswith("`test/")]
    also = f",\nwith `--val-fraction` also {', '.join(optional)}" if optional else ""
    explained = "([explained here](README.md#metrics-of-every-run))"
    return f"With every other run here it logs {', '.join(names)}{also}\n{explained}."


def methods(sources: Sources) -> str:
    """One row a method: its page, and the networks that its published figures or files are of."""
    rows = []
    for page in sources.pages:
        papers = ", ".join(f"[`{paper}/`](../../{paper})" for paper in dict.fromkeys(p for p, _ in page.methods))
        rows.append([f"[{page.title}]({page.file.name})", papers, "; ".join(_networks(page, sources)) or NONE])
    header = ["method", "where", "networks (teacher / student) with a published command, file or figure"]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _networks(page: Page, sources: Sources) -> list[str]:
    pairs = []
    for table in map(page.table, sources.tables):
        if table.paper != "edkd":  # whose configurations are more than its tables
            pairs += map(_pair, table.cells)
    if any(paper == "edkd" for paper, _ in page.methods):
        for file, values in _yaml_files(page, sources):
            dataset = file.split("/")[1]
            pair = " / ".join(filter(None, (values["teacher"], values["student"])))
            pairs.append(pair if dataset == "cifar100" else f"{pair} ({dataset})")
    return list(dict.fromkeys(pairs))


def _pair(cell: Cell) -> str:
    """Teacher and student, or the network alone; a teacher may stand in the column, notes in the row."""
    teacher = re.search(r"\[(.*)\]", cell.column)
    return (f"{teacher[1]} / " if teacher else "") + re.sub(r" \(.*?\)", "", cell.row)


BLOCKS: dict[str, Callable[[Page, Sources], str]] = {
    "metrics": metrics,
    "configurations": configurations,
    "results": results,
}


def render(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """`text` with its generated parts as they are to be.

    Raises:
        UserError: a part of unknown name.
    """

    def fill(found: re.Match[str]) -> str:
        if found[1] not in blocks:
            raise UserError(f"nothing is generated as '{found[1]}': one of {', '.join(blocks)}")
        return f"{found[1]} -->\n\n{blocks[found[1]]()}\n\n"

    return GENERATED.sub(fill, text)


def stale(sources: Sources, directory: Path = PAGES) -> dict[Path, str]:
    """The pages that are not as they are to be, and what they are to be."""
    readme = directory / "README.md"
    wanted = {readme: render(readme.read_text(encoding="utf-8"), {"methods": lambda: methods(sources)})}
    for page in sources.pages:
        blocks = {name: (lambda make=make, page=page: make(page, sources)) for name, make in BLOCKS.items()}
        wanted[page.file] = render(page.text, blocks)
    return {file: text for file, text in wanted.items() if text != file.read_text(encoding="utf-8")}


def parse_arguments() -> argparse.Namespace:
    parser = ArgumentParser(prog="python -m common.results.method_pages", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 2 where a page is out of date")
    return parser.parse_args()


@cli_main
def main() -> None:
    args = parse_arguments()
    changed = stale(Sources.read())
    if args.check and changed:
        names = ", ".join(file.name for file in changed)
        raise UserError(f"out of date: {names}; run python -m common.results.method_pages")
    for file, text in changed.items():
        write_text_atomically(file, text)
        print(f"wrote {file.relative_to(REPOSITORY)}")


if __name__ == "__main__":
    main()
