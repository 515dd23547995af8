"""The house's own rules: one list of packages, who may import whom, and no GPU taken for granted."""

import ast
import graphlib
import importlib.metadata
import re
from collections.abc import Set
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


def module_name(file: Path) -> str:
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path, modules: Set[str]) -> set[str]:
    """Those of `modules` that a file imports, wherever in it."""
    found = set()
    package = module_name(file).split(".")[: None if file.name == "__init__.py" else -1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found.update(name if (name := f"{base}.{alias.name}") in modules else base for alias in node.names)
    return (found & modules) - {module_name(file)}


@pytest.mark.slow
def test_imports_run_downwards_and_in_no_circle():
    """`common` knows no paper, papers do not know each other, and no module needs itself."""
    files = {module_name(file): file for file in SOURCES}
    graph = {name: imports(file, files.keys()) for name, file in files.items()}
    upwards = [
        (name, other)
        for name, others in graph.items()
        for other in others
        if (floor := name.split(".")[0]) != "benchmarks" and other.split(".")[0] in {*PAPERS, "benchmarks"} - {floor}
    ]
    assert len(graph["edkd.tools.train"]) > 5, "imports are seen"
    assert not upwards
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the modules of a circle


def test_no_gpu_is_taken_for_granted():
    assert not [f for f in SOURCES if re.search(r"\.cuda\(", f.read_text())]
    # the converter's own unpickler makes nothing but plain containers
    assert [f.name for f in SOURCES if "weights_only=False" in f.read_text()] == ["convert_checkpoint.py"]
