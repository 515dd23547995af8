"""A key that stands twice is refused with the lines of both, wherever people write JSON or YAML."""

import pytest

from common.errors import UserError
from common.safe_json import read_json_file, read_json_text
from common.safe_yaml import read_yaml, read_yaml_file
from tests.processes import CNN, snapshot

# text -> key and lines of the message
JSON = {
    "side by side": ('{"a": 1, "a": 2}', "a", 1, 1),
    "on lines": ('{\n "a": 1,\n "b": 2,\n "a": 3\n}', "a", 2, 4),
    "equal values": ('{"a": 1,\n"a": 1}', "a", 1, 2),
    "a block": ('{"S": {"x": 1},\n\n"S": {"y": 2}}', "S", 1, 3),
    "below": ('{"o": [1, {"k": [],\n"k": {}}]}', "k", 1, 2),
    "the empty key": ('{"": 1,\n"": 2}', "", 1, 2),
    "escaped": ('{"ab": 1,\n"\\u0061b": 2}', "ab", 1, 2),
    "after strings with braces": ('{"x": "} {\\" [",\n"x" : ":"}', "x", 1, 2),
    "a colon on the next line": ('{"x"\n: 1, "x": 2}', "x", 1, 2),
}
GOOD_JSON = ['{"a": {"k": 1}, "b": {"k": 1}}', '[{"k": 1}, {"k": 2}]', '{"a": "a", "b": "a"}', '{"a": 1, "A": 2}']

YAML = {
    "on lines": ("a: 1\nb: 2\na: 3\n", "a", 1, 3),
    "a block": ("SOLVER:\n  LR: 1\nKD:\n  T: 4\nSOLVER:\n  EPOCHS: 3\n", "SOLVER", 1, 5),
    "below": ("S:\n  LR: 1\n  LR: 1\n", "LR", 2, 3),
    "in one line": ("S: {LR: 1, LR: 2}\n", "LR", 1, 1),
    "quoted": ("a: 1\n'a': 2\n", "a", 1, 2),
    "in a list": ("- a: 1\n  a: 2\n", "a", 1, 2),
    "another spelling": ("16: a\n0x10: b\n", "0x10", 1, 2),
    "another word": ("yes: a\ntrue: b\n", "true", 1, 2),
}
GOOD_YAML = ["a: {k: 1}\nb: {k: 1}\n", "1: a\n'1': b\n", "x: &x {k: 1}\ny: {<<: *x, k: 2}\n"]


@pytest.mark.parametrize(("text", "key", "first", "second"), JSON.values(), ids=JSON)
def test_json(text, key, first, second):
    with pytest.raises(ValueError, match=f"^the key '{key}' stands twice, in lines {first} and {second}$"):
        read_json_text(text)


@pytest.mark.parametrize("text", GOOD_JSON)
def test_json_that_is_good(text):
    read_json_text(text)


@pytest.mark.parametrize(("text", "key", "first", "second"), YAML.values(), ids=YAML)
def test_yaml(text, key, first, second):
    with pytest.raises(ValueError, match=f"the key '{key}' stands twice, in lines {first} and {second}"):
        read_yaml(text)


@pytest.mark.parametrize("text", GOOD_YAML)
def test_yaml_that_is_good(text):
    read_yaml(text)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (read_json_file, JSON["on lines"][0]),
        (read_yaml_file, YAML["on lines"][0]),
    ],
)
def test_files_are_named(read, text, tmp_path):
    file = tmp_path / "written.text"
    file.write_text(text)
    with pytest.raises(UserError, match=f"{file} is not valid (JSON|YAML): the key 'a' stands twice, in lines"):
        read(file)


def test_the_hyperparameters_of_a_run(workspace, call):
    file = workspace.experiment(CNN) / "params.json"
    file.write_text(file.read_text().replace("{", '{"learning_rate": 0.5,\n', 1))
    before = snapshot(workspace.root)
    ended = call(workspace.arguments(CNN))
    assert ended.code == 2
    assert "params.json is not valid JSON: the key 'learning_rate' stands twice, in lines 1 and " in ended.stderr
    assert snapshot(workspace.root) == before


def test_the_configuration_of_a_run(call, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("SOLVER:\n  LR: 0.1\nDISTILLER:\n  STUDENT: resnet8\nSOLVER:\n  EPOCHS: 2\n")
    ended = call(["--cfg", str(file)], "edkd.tools.train")
    assert ended.code == 2
    assert f"{file} is not valid YAML: the key 'SOLVER' stands twice, in lines 1 and 5" in ended.stderr
