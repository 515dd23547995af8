"""Two versions of somebody's method are two experiments, wherever their difference lies."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from common.own_code import construct, load_class, provenance

MINE = "class Mine(Exception):\n    def __init__(self):\n        self.value = {}\n"
BESIDE = "import os\nHERE = os.path.dirname(os.path.abspath(__file__)) + os.sep\n"
SPEC = "import importlib.util as u\ns = u.spec_from_file_location('c', HERE + 'c.py')\nc = u.module_from_spec(s)\n"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def module(name: str):
    return lambda place, value: write(place / name, f"V = {value}")


# the method's file, its text and value, and what writes its constant beside it
WAYS = {
    "a module by runpy": ("import runpy\nV = runpy.run_path(HERE + 'c.py')['V']", "V", module("c.py")),
    "a module by its path": (f"{SPEC}s.loader.exec_module(c)", "c.V", module("c.py")),
    "a module by a variable": ("import importlib\nn = 'c'\nc = importlib.import_module(n)", "c.V", module("c.py")),
    "a source that is executed": ("exec(open(HERE + 'c.py').read())", "V", module("c.py")),
    "JSON": ("import json\nV = json.load(open(HERE + 'c.json'))", "V", lambda p, v: write(p / "c.json", str(v))),
    "JSON below": ("import json\nV = json.load(open(HERE + 'a/c'))", "V", lambda p, v: write(p / "a/c", str(v))),
    "JSON above": ("import json\nV = json.load(open(HERE + '../c'))", "V", lambda p, v: write(p / "../c", str(v))),
    "an array": ("import numpy\nV = numpy.load(HERE + 'c.npy')", "V", lambda p, v: np.save(p / "c.npy", v)),
    "text, as bytes": ("V = os.read(os.open(HERE + 'c', 0), 9)", "V", lambda p, v: write(p / "c", str(v))),
    "text, by pathlib": ("import pathlib", "pathlib.Path(HERE, 'c').read_text()", lambda p, v: write(p / "c", str(v))),
}


@pytest.fixture
def version(tmp_path, monkeypatch):
    """What is told apart of the class `Mine` in a file, imported anew and made."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a change within a second would not be seen

    def version(file: Path) -> tuple[dict, dict]:
        for name in set(sys.modules) - before:
            del sys.modules[name]
        kind = load_class(f"{file}:Mine", "--method", Exception, "tfkd")
        construct("Mine", kind)
        return provenance(kind)

    yield version
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize("way", WAYS)
def test_constants_that_a_method_reads_are_part_of_it(way, version, tmp_path):
    text, value, write_constant = WAYS[way]
    file = tmp_path / "mine/mine.py"
    write(file, f"{BESIDE}{text}\n{MINE.format(value)}")
    found = []
    for constant in (1, 2, 1):
        write_constant(file.parent, constant)
        found.append(version(file))
    assert found[0] == found[2]
    assert found[0][0]["own_code"] != found[1][0]["own_code"]
    assert len(found[0][1]["own_files"]) == 2


def test_a_method_beside_installed_packages_is_told_apart(version, tmp_path):
    file = tmp_path / "site-packages/mine.py"
    write(file, MINE.format(1))
    first, _ = version(file)
    write(file, MINE.format(2))
    assert version(file)[0]["own_code"] != first["own_code"]


def test_what_a_method_writes_and_what_others_read_is_no_part_of_it(version, tmp_path):
    file = tmp_path / "mine/mine.py"
    reads = "open('/proc/self/stat').read()\nimport json, colorsys\nopen(HERE + 'log', 'a').write('x')\n"
    write(file, f"{BESIDE}{reads}{MINE.format(1)}")
    first = version(file)
    with open(tmp_path / "mine/unrelated.json", "w") as stream:
        json.dump(1, stream)
    (tmp_path / "mine/unrelated.json").read_text()
    assert version(file) == first
    assert list(first[1]["own_files"]) == [str(file)]
