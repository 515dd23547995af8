"""Values as published YAML files have them, and YAML that means harm."""

import copy
import json
import pickle
import time

import pytest
import yaml

from common.errors import UserError
from common.safe_yaml import MAX_DEPTH, read_yaml
from edkd.engine.cfg import CFG
from edkd.engine.node import Node


@pytest.fixture
def cfg() -> Node:
    return Node(
        {
            "SIZE": (32, 32),
            "SHAPES": [1, 8, 16],
            "RATES": [0.1, 0.2],
            "NAMES": ["a"],
            "ANY": [],
            "NOTHING": None,
            "T": 4.0,
            "K": 3,
            "FLAG": True,
            "NAME": "x",
            "SUB": {"A": 1},
        }
    )


def merged(cfg: Node, text: str, tmp_path) -> Node:
    (tmp_path / "a.yaml").write_text(text)
    cfg.merge_from_file(tmp_path / "a.yaml")
    return cfg


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("SIZE: (64, 48)", "SIZE", (64, 48)),
        ("SIZE: [64, 48]", "SIZE", (64, 48)),
        ('SIZE: "[64, 48]"', "SIZE", (64, 48)),
        ("SHAPES: (1, 2)", "SHAPES", [1, 2]),
        ("SHAPES: [1, 2.5, 3]", "SHAPES", [1, 2.5, 3]),
        ("SHAPES: [1.0, 2]", "SHAPES", [1, 2]),
        ("SHAPES: [[1, 2], [3]]", "SHAPES", [[1, 2], [3]]),
        ("SHAPES: []", "SHAPES", []),
        ("RATES: [1, 1e-3]", "RATES", [1.0, 1e-3]),
        ("NAMES: [a, 3]", "NAMES", ["a", "3"]),
        ("ANY: [1, b, 2.5, null]", "ANY", [1, "b", 2.5, None]),
        ("NOTHING: 4", "NOTHING", 4),
        ("NOTHING: 1e-4", "NOTHING", 1e-4),
        ("NOTHING: (1, 2)", "NOTHING", (1, 2)),
        ("NOTHING: [1, two]", "NOTHING", [1, "two"]),
        ("NOTHING: some words", "NOTHING", "some words"),
        ("NOTHING: true", "NOTHING", True),
        ("NOTHING: {B: 2}", "NOTHING", {"B": 2}),
        ("T: 1", "T", 1.0),
        ("T: 1e-4", "T", 1e-4),
        ("T: null", "T", None),
        ("T: None", "T", None),
        ("K: 2.0", "K", 2),
        ("FLAG: 'False'", "FLAG", False),
        ("NAME: 2024-01-02", "NAME", "2024-01-02"),
        ("NAME: 7", "NAME", "7"),
        ("NAME: None", "NAME", None),
        ("SUB:", "SUB", {"A": 1}),
        ("a: &x {A: 2}\nSUB: *x", "SUB", {"A": 2}),
        ("a: &x {A: 2}\nSUB:\n  <<: *x", "SUB", {"A": 2}),
    ],
)
def test_values(text, key, value, cfg, tmp_path):
    if text.startswith("a: "):
        cfg.a = Node({"A": 0})
    found = merged(cfg, text, tmp_path)[key]
    found = found.as_dict() if isinstance(found, Node) else found
    assert found == value
    assert type(found) is type(value)


DEFAULTS = {
    "a whole number": 3,
    "a fraction": 4.0,
    "a truth value": True,
    "text": "x",
    "a tuple": (32, 32),
    "whole numbers": [1, 8],
    "fractions": [0.1, 0.2],
    "both": [1, 0.5],
    "words": ["a", "b"],
    "anything in a list": [],
    "nothing": None,
}
# how published files spell values, and what they mean by it
SPELLED = {
    "3": 3,
    "'3'": 3,
    "2.0": 2.0,
    "0.5": 0.5,
    "1e-4": 1e-4,
    "'1e-4'": 1e-4,
    "5.e-4": 5e-4,
    "1E3": 1e3,
    "-1": -1,
    "true": True,
    "False": False,
    "'True'": True,
    "some_word": "some_word",
    "'res32x4,res8x4'": "res32x4,res8x4",
    "''": "",
    "null": None,
    "None": None,
    "~": None,
    "[1, 2]": [1, 2],
    "(1, 2)": [1, 2],
    "'[1, 2]'": [1, 2],
    "\n- 1\n- 2": [1, 2],
    "[1, 0.5]": [1, 0.5],
    "(0.5, 1e-4)": [0.5, 1e-4],
    "[1e-4, 2]": [1e-4, 2],
    "[a, b]": ["a", "b"],
    "[]": [],
    "(32,)": [32],
}


def means(default, value):
    """What a key with this default holds after such a value; `UserError` where it cannot hold it."""
    kind = type(default)
    if value is None or default is None:
        return value
    if isinstance(value, list):
        return in_list(default, value) if isinstance(default, list | tuple) else UserError
    if isinstance(default, list | tuple):
        # words with commas are a list that was written without brackets
        return in_list(default, value.split(",")) if isinstance(value, str) and "," in value else UserError
    if kind is bool or isinstance(value, bool):
        return value if type(value) is kind else UserError
    if isinstance(value, str):
        return UserError
    if kind is int:
        return int(value) if value == int(value) else UserError
    return kind(value)


def as_text(value):
    """The same where the default is text: it stays as it is written."""
    if value is None or value == "None":
        return None
    return UserError if isinstance(value, list | bool) else str(value)


def in_list(default, values):
    kinds = {type(entry) for entry in default}
    if kinds == {str}:
        return type(default)(map(str, values))
    if kinds and any(isinstance(value, str) for value in values):
        return UserError
    if kinds == {float}:
        values = [float(value) for value in values]
    return type(default)(values)


@pytest.mark.parametrize("kind", DEFAULTS)
def test_every_spelling_for_every_default(kind, tmp_path):
    """Values as public files for mdistiller have them: all that a key can hold is taken, the rest refused by name."""
    default = DEFAULTS[kind]
    for spelled, value in SPELLED.items():
        if kind == "words" and "[1e-4" in spelled:
            continue  # a word in YAML, which stays as it is written
        expected = as_text(yaml.safe_load(spelled)) if kind == "text" else means(default, value)
        cfg = Node({"GROUP": {"KEY": default, "OTHER": 1}})
        (tmp_path / "a.yaml").write_text(f"GROUP:\n  KEY: {spelled.replace(chr(10), chr(10) + '    ')}\n")
        if expected is UserError:
            with pytest.raises(UserError, match=r"'GROUP.KEY' is .* not of type"):
                cfg.merge_from_file(tmp_path / "a.yaml")
            continue
        cfg.merge_from_file(tmp_path / "a.yaml")
        found = cfg.GROUP.KEY
        if default is None and isinstance(found, tuple):  # it takes the type that is written
            found = list(found)
        assert found == expected, spelled
        assert type(found) is type(expected), spelled
        assert cfg.GROUP.OTHER == 1
        json.dumps(cfg)  # as records hold it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("K: 2.5", "not of type int"),
        ("K: [1]", "not of type int"),
        ("K: true", "not of type int"),
        (f"K: {'9' * 900}", "not of type int"),
        (f"T: {'9' * 900}", "not of type float"),
        ("K: .inf", "not of type int"),
        ("FLAG: 1", "not of type bool"),
        ("NAME: [a]", "not of type str"),
        ("SHAPES: [one]", "not of type int"),
        ("SHAPES: 3", "not of type list"),
        ("SUB: 3", "group of keys"),
        ("SUB: {B: 1}", "unknown key 'SUB.B'"),
        ("? [1, 2]\n: 3", "no word"),
    ],
)
def test_wrong_values(text, message, cfg, tmp_path):
    with pytest.raises(UserError) as error:
        merged(cfg, text, tmp_path)
    assert message in str(error.value)
    assert len(str(error.value)) < 600


def test_what_was_declared_as_none_stays_free(cfg):
    cfg.merge_from_list(["NOTHING", "3"])
    cfg.merge_from_list(["NOTHING", "words"])
    twin = cfg.clone()
    twin.merge_from_list(["NOTHING", "(1, 2)"])
    assert (cfg.NOTHING, twin.NOTHING) == ("words", (1, 2))


def test_new_keys_where_they_are_allowed():
    cfg = Node({"A": Node(new_allowed=True), "B": {"C": 1}})
    cfg.merge_from_mapping({"A": {"ANY": 3, "DEEP": {"X": 1}}})
    assert (cfg.A.ANY, cfg.A.DEEP.X) == (3, 1)
    with pytest.raises(UserError, match=r"unknown key 'B\.D'"):
        cfg.clone().merge_from_mapping({"B": {"D": 1}})


class TestWhatCodeAsksOfANode:
    """Distillers read, copy and print their configuration as they do a yacs one, which is a dictionary."""

    def test_reading(self, cfg):
        assert cfg.get("K") == cfg["K"] == cfg.K == 3
        assert cfg.get("L", 5) == getattr(cfg, "L", 5) == 5
        assert "K" in cfg
        assert not hasattr(cfg, "L")
        for exception in (AttributeError, KeyError):
            with pytest.raises(exception, match="no configuration key 'L' here: SIZE"):
                _ = cfg.L
            with pytest.raises(exception, match="no configuration key 'L' here: SIZE"):
                _ = cfg["L"]

    def test_as_a_dictionary(self, cfg):
        assert isinstance(cfg, dict)
        assert dict(**cfg.SUB) == {**cfg.SUB} == dict(cfg.SUB) == {"A": 1}
        assert dict(cfg.items())["SUB"] is cfg.SUB
        assert list(cfg)[:2] == list(cfg.keys())[:2] == ["SIZE", "SHAPES"]
        assert (len(cfg.SUB), list(cfg.SUB.values())) == (1, [1])
        assert dict(cfg.leaves())["SUB.A"] == 1
        assert json.loads(json.dumps(cfg.SUB)) == {"A": 1}
        assert yaml.safe_load(cfg.dump())["SIZE"] == [32, 32]
        assert "'K': 3" in str(cfg)

    def test_frozen_and_not(self, cfg):
        cfg.freeze()
        assert cfg.is_frozen()
        for change in ("cfg['K'] = 4", "cfg.K = 4", "cfg.SUB.A = 4", "cfg.SUB['B'] = 4"):
            with pytest.raises(AttributeError, match="frozen"):
                exec(change, {"cfg": cfg})
        for twin in (cfg.clone(), copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
            assert type(twin) is Node
            assert twin == cfg
            twin.defrost()
            twin.SUB.A = 4
            twin.merge_from_list(["NOTHING", "words", "K", 5])
            assert (twin.SUB.A, twin.K, twin.NOTHING, cfg.SUB.A, cfg.K) == (4, 5, "words", 1, 3)
        cfg.defrost()
        cfg.SUB.A = 4
        assert not cfg.is_frozen()

    def test_merging_another_one(self, cfg):
        cfg.merge_from_other_cfg(Node({"SUB": Node({"A": 7})}))
        assert cfg.SUB.A == 7
        cfg.SUB.set_new_allowed(True)
        assert cfg.SUB.is_new_allowed()
        cfg.merge_from_other_cfg(Node({"SUB": {"B": 8}}))
        assert cfg.SUB.B == 8


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("resnet56", "resnet56"),
        ("[resnet56, resnet110]", ["resnet56", "resnet110"]),
        ("resnet56,resnet110", ["resnet56", "resnet110"]),
        ("[resnet56]", "resnet56"),
    ],
)
def test_one_teacher_or_several(text, value, tmp_path):
    for cfg in (CFG.clone(), merged(CFG.clone(), "DISTILLER: {TEACHER: [a, b]}", tmp_path)):
        cfg.merge_from_list(["DISTILLER.TEACHER", text])
        assert value == cfg.DISTILLER.TEACHER
    with pytest.raises(UserError, match="not of type str"):
        merged(CFG.clone(), "DISTILLER: {STUDENT: [a, b]}", tmp_path)


HOSTILE = {
    "deep lists": ("a: " + "[" * 20_000, "nested deeper"),
    "deep mappings": ("{a: " * 5_000, "nested deeper"),
    "deep sequences": ("- " * 10_000, "nested deeper"),
    "anchors that multiply": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12)),
        "anchors written out",
    ),
    "an anchor in itself": ("a: &a [*a]", "refers to itself"),
    "digits": ("KD: {TEMPERATURE: " + "9" * 20_000 + "}", "20000 characters"),
    "digits of a fraction": ("KD: {TEMPERATURE: 0." + "9" * 20_000 + "}", "characters"),
    "hundreds of digits": ("SOLVER: {EPOCHS: " + "9" * 900 + "}", "not of type int"),
    "base sixty": ("SOLVER: {EPOCHS: " + ":".join(["59"] * 300) + "}", "not of type int"),
    "very long": ("# " + "x" * 200_000, "more than a configuration has"),
    "many values": ("a: [" + "1, " * 9_000 + "]", "values"),
    "a key twice": ("KD:\n  TEMPERATURE: 1\n\n  TEMPERATURE: 2\n", "'TEMPERATURE' stands twice, in lines 2 and 4"),
    "a group twice": (
        "SOLVER: {LR: 1}\nKD: {TEMPERATURE: 1}\nSOLVER: {EPOCHS: 2}",
        "'SOLVER' stands twice, in lines 1 and 3",
    ),
    "a date that is none": ("EXPERIMENT: {NAME: !!timestamp 2001-99-99}", "month"),
    "code": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "not a truth value": ("a: !!bool x", "cannot be read"),
    "two documents": ("a: 1\n---\nb: 2", "single document"),
    "bytes": ("\udc80", None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_get_one_line(name, tmp_path):
    text, message = HOSTILE[name]
    file = tmp_path / "a.yaml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    started = time.process_time()
    with pytest.raises(UserError) as error:
        CFG.clone().merge_from_file(file)
    assert time.process_time() - started < 30  # not forever
    assert str(error.value).startswith(str(file))
    assert message is None or message in str(error.value)
    assert len(str(error.value)) < 700


@pytest.mark.parametrize("text", ["[" * 5000, "(" * 900, "9" * 100_000, "{a: " * 300, "&a [*a]"])
def test_hostile_overrides_get_one_line(text):
    with pytest.raises(UserError):
        CFG.clone().merge_from_list(["SOLVER.LR_DECAY_STAGES", text])


def test_the_depth_that_is_allowed():
    value = read_yaml("[" * (MAX_DEPTH - 1) + "1" + "]" * (MAX_DEPTH - 1))
    for _ in range(MAX_DEPTH - 1):
        (value,) = value
    assert value == 1


def test_counts_beyond_use_are_refused(run_script, tmp_path):
    ended = run_script("train", "DISTILLER.STUDENT", "resnet8", "SOLVER.EPOCHS", "1e9", "LOG.PREFIX", tmp_path / "o")
    assert ended.code == 2
    assert "SOLVER.EPOCHS is 1000000000" in ended.stderr
    ended = run_script("train", "DISTILLER.STUDENT", "resnet8", "SOLVER.LR", "None", "LOG.PREFIX", tmp_path / "o")
    assert ended.code == 2
    assert "SOLVER.LR is None, but must be given" in ended.stderr
