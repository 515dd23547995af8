"""What tools and hosts read of this repository is well formed and agrees with the rest of it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.command_line import REPOSITORY

DOCS = REPOSITORY / "docs"
TEMPLATES = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def read_yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def entries(text: str) -> list[str]:
    """The entries of a BibTeX file, or of a page that shows some."""
    return re.findall(r"^@\w+\{.*?^\}", text, flags=re.MULTILINE | re.DOTALL)


def titles(entry: str) -> str:
    return re.search(r"^  title = \{(.*)\},$", entry, flags=re.MULTILINE)[1]


class TestCitation:
    citation = REPOSITORY / "CITATION.cff"

    def test_the_four_papers_are_its_references(self):
        content = read_yaml(self.citation)
        assert content["cff-version"] == "1.2.0"
        assert {"message", "title", "authors", "version", "license"} <= content.keys()
        assert [r["title"] for r in content["references"]] == [
            titles(entry) for entry in entries((DOCS / "references.bib").read_text())[:4]
        ]
        assert all(r["authors"] and r["repository-code"] for r in content["references"])

    def test_it_names_the_package_as_it_is(self):
        project = (REPOSITORY / "pyproject.toml").read_text()
        content = read_yaml(self.citation)
        assert f'version = "{content["version"]}"' in project
        assert f'license = "{content["license"]}"' in project
        assert content["title"].startswith(re.search(r'^name = "(.*)"$', project, flags=re.MULTILINE)[1])

    def test_the_page_shows_the_same_entries(self):
        known = entries((DOCS / "references.bib").read_text())
        *four, ours = entries((DOCS / "citing.md").read_text())
        assert four == known[:4]
        assert titles(ours) == read_yaml(self.citation)["title"]

    def test_keys_and_links_of_references_are_unique(self):
        text = (DOCS / "references.bib").read_text()
        for found in (re.findall(r"^@\w+\{([^,]+),", text, flags=re.MULTILINE), re.findall(r"\d{4}\.\d{4,5}", text)):
            assert len(found) == len(set(found)) > 4


class TestChecks:
    def test_hooks_are_what_run_tests_runs_first(self):
        (local,) = read_yaml(REPOSITORY / ".pre-commit-config.yaml")["repos"]
        assert local["repo"] == "local"
        script = (REPOSITORY / "run_tests.sh").read_text()
        for hook in local["hooks"]:
            words = hook["entry"].removesuffix(" --force-exclude")
            assert f"-m {words} " in script
        assert [hook["id"] for hook in local["hooks"]] == ["ruff-check", "ruff-format", "basedpyright"]

    def test_hosted_ci_runs_the_same_script(self):
        content = read_yaml(REPOSITORY / ".github" / "workflows" / "ci.yml")
        (job,) = content["jobs"].values()
        assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
        assert (REPOSITORY / ".ci" / "run").stat().st_mode & 0o111
        oldest = re.search(r'requires-python = ">=([\d.]+)"', (REPOSITORY / "pyproject.toml").read_text())[1]
        assert job["strategy"]["matrix"]["python"][0] == oldest


@pytest.mark.parametrize("file", [f for f in TEMPLATES if f.name != "config.yml"], ids=lambda file: file.stem)
def test_issue_forms(file):
    form = read_yaml(file)
    assert form["name"]
    assert form["description"]
    ids = [field["id"] for field in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in form["body"])


def test_there_are_issue_forms_and_a_pull_request_template():
    assert len(TEMPLATES) > 2
    text = (REPOSITORY / ".github" / "pull_request_template.md").read_text()
    assert all((REPOSITORY / name).exists() for name in re.findall(r"`([\w./]+)`", text) if "/" in name or "." in name)
