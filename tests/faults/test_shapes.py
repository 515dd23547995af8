"""Files of the plan and its tables that are valid JSON, and something else: one line that names the file."""

import json
import re
import shutil

import pytest

from common.command_line import REPOSITORY

SHAPES = ["null", "3", '"word"', "[]", "[1]", "{}", '{"x": 1}', '{"runs": 3}', '{"paper": "tfkd", "runs": [{}]}']
SHAPES += ['{"tables": [{}]}', '{"runs": {"x": {}}}', '{"smoke": 1}']
READERS = {
    "plan/tfkd.json": ["common.plan.__main__", "common.plan.cells"],
    "reported.json": ["common.plan.__main__", "common.plan.cells", "common.results.__main__"],
    "budgets.json": ["common.plan.__main__"],
    "step_times.json": ["common.plan.__main__"],
}
WORDS = {"common.plan.__main__": ["--budget", "smoke", "--dry-run"], "common.results.__main__": ["."]}


@pytest.fixture
def experiments(workspace):
    """A copy of `experiments/` without what it has measured."""
    ignored = shutil.ignore_patterns("measured", "weights")
    return shutil.copytree(REPOSITORY / "experiments", workspace.root / "experiments", symlinks=True, ignore=ignored)


@pytest.mark.parametrize("name", READERS)
def test_files_of_another_shape(name, experiments, call):
    for shape in SHAPES:
        (experiments / name).write_text(shape)
        assert json.loads(shape) == json.loads((experiments / name).read_text())
        for script in READERS[name]:
            ended = call([*WORDS.get(script, []), "--experiments", str(experiments)], script)
            assert ended.code == 2, (shape, ended)
            assert re.fullmatch(rf"error: [^\n]*({name}|no budget 'smoke')[^\n]*\n", ended.stderr), (shape, ended)


def test_a_directory_without_plans(workspace, call):
    for file in ("reported.json", "budgets.json"):
        shutil.copy(REPOSITORY / "experiments" / file, workspace.root)
    ended = call(["--budget", "smoke", "--dry-run", "--experiments", "."], "common.plan.__main__")
    assert ended.code == 2
    assert re.fullmatch(r"error: no plans in plan: --experiments is a directory like \S+\n", ended.stderr), ended
