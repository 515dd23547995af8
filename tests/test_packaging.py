"""The house's own rules: one list of packages, who may import whom, and no GPU taken for granted."""

import importlib.metadata
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAPERS = ("tfkd", "edkd", "mtkd_rl", "mlkd")
SOURCES = [f for d in ("common", "benchmarks", *PAPERS) for f in sorted((REPOSITORY / d).rglob("*.py"))]


def normalized(requirement: str) -> tuple[str, ...]:
    name, _, bounds = re.match(r"([\w-]+)(\s*)(.*)", requirement).groups()
    return name.lower(), *sorted(bounds.replace(" ", "").split(","))


def test_requirements_are_those_of_the_package():
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    listed = [line for line in lines if line and not line.startswith(("#", "-e"))]
    declared = [r for r in importlib.metadata.requires("kd-reference") if "extra ==" not in r]
    assert sorted(map(normalized, listed)) == sorted(map(normalized, declared))
    assert lines[-1] == "-e ."


@pytest.mark.parametrize("paper", [p for p in PAPERS if (REPOSITORY / p).is_dir()])
def test_a_papers_requirements_point_to_the_root(paper):
    assert (REPOSITORY / paper / "requirements.txt").read_text() == "-e ..\n"


def imports(file: Path) -> set[str]:
    return set(re.findall(r"^\s*(?:from|import) (\w+)", file.read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("file", SOURCES, ids=lambda f: str(f.relative_to(REPOSITORY)))
def test_imports_run_downwards(file):
    floor = file.relative_to(REPOSITORY).parts[0]
    if floor == "benchmarks":
        return
    assert not imports(file) & (set(PAPERS) - {floor})


def test_no_gpu_is_taken_for_granted():
    assert not [f for f in SOURCES if re.search(r"\.cuda\(", f.read_text())]
    assert not [f for f in SOURCES if "weights_only=False" in f.read_text()]
