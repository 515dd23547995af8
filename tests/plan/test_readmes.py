"""Every command of the READMEs is in the plan, and `--budget smoke` leaves none of them out."""

import re
import shlex

import pytest

from common.command_line import REPOSITORY
from common.plan.budgets import load_budget
from common.plan.plan import load_plan, select
from common.results.reported import load_tables

PAPERS = ("tfkd", "edkd", "mtkd_rl", "mlkd")
# sections whose files a reader writes first, and one that says how its own figures were measured
OTHERS = ("Somebody else's distiller", "A distiller of your own", "Your own method", "Early exits")
INSTALLATION = ("setup.py develop",)


def sections(text: str) -> list[tuple[str, str]]:
    """(heading, content) of the sections of a page; the first has no heading."""
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return [("", parts[0]), *zip(parts[1::2], parts[2::2], strict=True)]


def commands(text: str) -> list[str]:
    """What the code blocks start with Python, without comments, the interpreter and `--resume` without a path."""
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [" ".join(strip(w[1:])) for w in words if w and w[0] in ("python", "python3")]


def strip(words: list[str]) -> list[str]:
    """Without what the runner adds to every command."""
    return words[:-1] if words[-1:] in (["--resume"], ["--overwrite"]) else words


def readme_commands() -> list[tuple[str, str, str]]:
    """(paper, page, command)."""
    first = re.findall(
        r"^\| \[`(\w+)/`\].*`python3? ([^`]+)` \|$", (REPOSITORY / "README.md").read_text(), re.MULTILINE
    )
    found = [(paper, "README.md", command) for paper, command in first]
    for paper in PAPERS:
        page = REPOSITORY / paper / "README.md"
        if page.is_file():
            for heading, content in sections(page.read_text()):
                if heading not in OTHERS:
                    found += [(paper, f"{paper}/README.md", command) for command in commands(content)]
    return [entry for entry in dict.fromkeys(found) if entry[2] not in INSTALLATION]


SMOKE = {
    (run.paper, " ".join(strip(list(run.command))))
    for run in select(load_plan(), load_tables(), left_out=list(load_budget("smoke").leaves_out))
}


@pytest.mark.parametrize(("paper", "page", "command"), readme_commands())
def test_smoke_runs_the_command(paper, page, command):
    assert (paper, command) in SMOKE, f"{page} has a command that --budget smoke does not run"


def test_the_pages_are_read():
    assert {paper for paper, _, _ in readme_commands()} == set(PAPERS)
    assert [paper for paper, page, _ in readme_commands() if page == "README.md"] == ["mtkd_rl", "tfkd", "mlkd", "edkd"]
    assert len(readme_commands()) > 40


@pytest.mark.parametrize("paper", PAPERS)
def test_a_readme_read_from_top_to_bottom_has_teachers_before_their_students(paper):
    """In this order, and with the budget `smoke`, tests/plan/test_smoke.py runs them in real processes."""
    runs = {" ".join(strip(list(run.command))): run for run in load_plan() if run.paper == paper}
    seen: set[str] = set()
    for _, page, command in [entry for entry in readme_commands() if entry[:2] == (paper, f"{paper}/README.md")]:
        run = runs[command]
        missing = set(run.depends_on) - seen
        assert not missing, f"{page}: '{command}' comes before what trains {', '.join(sorted(missing))}"
        seen.add(run.experiment)
