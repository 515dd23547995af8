"""Odd records of runs: left out and named below the table; nothing hangs, the table and the plan come."""

import json
import math
import os
import re
from pathlib import Path

import pytest

from common.plan.estimate import epoch_rates, own_rates
from common.plan.tasks import read_records
from common.results.page import render_page
from common.results.records import read_runs
from common.results.report import make_report
from common.results.reported import load_tables
from common.results.tables import render
from common.run_record import RunRecord, Segment, read_record
from common.teacher_cache.rows import header_bytes
from edkd.engine.teachers import _own_run
from tests.results.records import BASELINE

SEGMENT = Segment(
    0,
    200,
    "2026-01-01T00:00:00+00:00",
    "c0ffee",
    {"torch": "2.11"},
    {"gpu": None, "cpu": "AMD EPYC", "threads": 2},
    {"device": "cpu", "amp": "off"},
)
GOOD = RunRecord(
    paper="tfkd",
    experiment=BASELINE,
    method="Baseline",
    student="resnet18",
    batch_size=128,
    seed=1,
    settings={"seed": 1, "limit_eval_batches": None},
    data={"name": "cifar100", "content": "published archive", "fingerprint": "a" * 32},
    budget={"epochs": 200, "published_epochs": 200, "published_batch_size": 128, "batches": None},
    command=["main.py"],
    directory="/some/where",
    status="done",
    started="2026-01-01T00:00:00+00:00",
    epochs_done=200,
    accuracy={"best": 75.0, "last": 74.0, "selected_by_validation": None},
    segments=[SEGMENT],
).to_json()
DEEP = {"within": None}
for _ in range(90):
    DEEP = {"within": DEEP}


def changed(*path: str | int, to: object) -> str:
    """The good record with another value at a place in it."""
    content = json.loads(json.dumps(GOOD))
    place = content
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(content)


def without(*path: str | int) -> str:
    content = json.loads(json.dumps(GOOD))
    place = content
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return json.dumps(content)


# what stands in run.json
TEXTS = {
    "nothing": "",
    "cut off": json.dumps(GOOD)[:300],
    "a list": "[]",
    "a number": "3",
    "null": "null",
    "a text": '"done"',
    "no text": b"\xff\xfe\x00done",
    "zeros": b"\0" * 4096,
    "deep lists": "[" * 100_000,
    "deep objects": '{"a":' * 100_000,
    "deep settings": changed("settings", "x", to=DEEP),
    "a key twice": json.dumps(GOOD)[:-1] + ', "seed": 2}',
    "thousands of digits": changed("seed", to="SEED").replace('"SEED"', "9" * 6000),
    "too large a number": changed("seconds", to="X").replace('"X"', "1e999"),
    "another version": changed("version", to=9),
    "a field too many": changed("surplus", to=1),
    **{f"without {key}": without(key) for key in ("paper", "experiment", "settings", "data", "budget", "segments")},
    **{f"{key} is null": changed(key, to=None) for key in GOOD if key not in ("method", "student", "batch_size")
       if GOOD[key] is not None and key != "accuracy"},
    **{f"{key} is a list": changed(key, to=[1]) for key in GOOD},
    **{f"{key} is an object": changed(key, to={"a": 1}) for key in GOOD if key not in ("settings", "details")
       if not isinstance(GOOD[key], dict) and key not in ("accuracy", "validation", "analysis")},
    "no segments": changed("segments", to=[]),
    **{
        f"segment's {key} is {value!r}": changed("segments", 0, key, to=value)
        for key, value in (
            ("commit", None),
            ("epochs", "3"),
            ("first_epoch", 1.5),
            ("runtime", None),
            ("runtime", []),
            ("runtime", {"device": 3}),
            ("runtime", {"device": "cpu", "amp": None}),
            ("hardware", "CPU"),
            ("hardware", {"cpu": ["a"]}),
            ("versions", None),
            ("execution", "fast"),
        )
    },
    "segment without hardware": without("segments", 0, "hardware"),
    "done without accuracy": changed("accuracy", to=None),
    "done without any accuracy": changed("accuracy", to={}),
    **{
        f"{place} {key} is {value!s:.12}": changed(place, key, to=value)
        for place, key, value in (
            *(("accuracy", "best", value) for value in ("75", [75], math.nan, math.inf, -1, 1e300, True, 10**40)),
            *(("data", "content", value) for value in (None, 3, ["a"])),
            *(("data", "fingerprint", value) for value in (None, 3, {})),
            ("data", "name", ["a"]),
            *(("budget", "epochs", value) for value in (None, "200", 2.5, [], True)),
            ("budget", "published_epochs", "many"),
            ("budget", "batches", "all"),
            ("budget", "published_batch_size", [128]),
            ("settings", "limit_eval_batches", []),
            ("settings", "limit_eval_batches", {"a": {}}),
        )
    },
    "a teacher that is none": changed("teachers", to=["resnet"]),
    "a teacher's origin": changed("teachers", to=[{"name": "a", "origin": 3}]),
    "a command of numbers": changed("command", to=[1, 2]),
}  # fmt: skip


def plant_text(content: str | bytes):
    def plant(directory: Path) -> None:
        (directory / "run.json").write_bytes(content if isinstance(content, bytes) else content.encode())

    return plant


def plant_link(target: str):
    return lambda directory: (directory / "run.json").symlink_to(target)


PLANTED = {
    **{name: plant_text(text) for name, text in TEXTS.items()},
    "a pipe": lambda directory: os.mkfifo(directory / "run.json"),
    "an endless device": plant_link("/dev/zero"),
    "a link to itself": plant_link("run.json"),
    "a link to nowhere": plant_link("nowhere"),
}


@pytest.fixture(scope="module")
def tables():
    return load_tables()


def shown(tables: list, root: Path) -> str:
    """Everything that reads records, on those below `root`; returns the tables."""
    report = make_report(tables, *read_runs([root]))
    assert "</html>" in render_page(report, root)
    read_records(root)
    own_rates(root)
    _own_run("resnet18", "cifar100", {root})
    return render(report)


def good_run(root: Path) -> Path:
    directory = root / "paper/seed_0/tfkd/good"
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(json.dumps(GOOD))
    return directory


@pytest.mark.parametrize("name", PLANTED)
def test_odd_records_are_left_out_and_named(name, tmp_path, tables):
    good_run(tmp_path)
    odd = tmp_path / "paper/seed_0/tfkd/odd"
    odd.mkdir()
    PLANTED[name](odd)
    text = shown(tables, tmp_path)
    assert "75.00" in text
    assert str(odd / "run.json") in text.partition("Left out: ")[2]


# what stands in metrics.jsonl
CURVES = {
    "nothing": "",
    "cut off": '{"epoch": 0, "test/accuracy": 1.0}\n{"epoch": 1, "te',
    "no text": b"\xff\xfe",
    "deep": "[" * 100_000,
    "a list": "[]\n",
    "numbers": "1\n2\n",
    "NaN": '{"epoch": 0, "test/accuracy": NaN}\n',
    "null": '{"epoch": 0, "test/accuracy": null}\n',
    "a text": '{"epoch": 0, "test/accuracy": "1"}\n',
    "no accuracy": '{"epoch": 0}\n',
    "too large": '{"epoch": 0, "test/accuracy": 1e308}\n{"epoch": 1, "test/accuracy": -1e308}\n',
    "an epoch that is none": '{"epoch": "first", "test/accuracy": 1.0}\n',
    "an epoch twice": '{"epoch": 0, "test/accuracy": 1.0}\n{"epoch": 0, "test/accuracy": 2.0}\n',
    "an epoch that is endless": '{"epoch": 1e999, "test/accuracy": 1.0}\n',
}


@pytest.mark.parametrize("name", [*CURVES, "a pipe", "a link to itself", "a directory"])
def test_odd_curves_are_left_out_and_named(name, tmp_path, tables):
    file = good_run(tmp_path) / "metrics.jsonl"
    if name == "a pipe":
        os.mkfifo(file)
    elif name == "a directory":
        file.mkdir()
    elif name == "a link to itself":
        file.symlink_to(file.name)
    else:
        content = CURVES[name]
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    text = shown(tables, tmp_path)
    assert "75.00" in text
    assert f"Left out: the curve in {file}" in text
    assert epoch_rates(file.parent) == []


def test_directories_in_a_circle_and_names_that_are_not_utf8(tmp_path, tables):
    (good_run(tmp_path) / "again").symlink_to(tmp_path)
    odd = os.fsencode(tmp_path) + b"/bad\xff"
    os.mkdir(odd)
    Path(os.fsdecode(odd + b"/run.json")).write_text("{")
    whole = os.fsencode(tmp_path) + b"/good\xfe"
    os.mkdir(whole)
    Path(os.fsdecode(whole + b"/run.json")).write_text(changed("seed", to=2))
    text = shown(tables, tmp_path)
    assert "bad\\xff/run.json" in text
    assert "75.00 ± 0.00" in text
    text.encode()


# --------------------------------------------------------------------------------------- files of teachers' logits

LOGITS = {
    "rows": 3,
    "row_bytes": 8,
    "teacher": None,
    "folded": False,
    "dataset": "cifar100",
    "key": {
        "weights": "a",
        "images": "b",
        "views": {"padding": 4, "flip": True, "mean": [0.5] * 3, "std": [0.5] * 3},
        "layout": "channels_last",
        "chunk": 2,
        "environment": {"device": "cpu", "processor": "p", "threads": 1, "torch": "2", "precision": "off"},
    },
}
ODD_LOGITS = {
    **{f"no {key}": {k: v for k, v in LOGITS.items() if k != key} for key in LOGITS},
    **{f"{key} is a list": {**LOGITS, key: [1]} for key in LOGITS},
    "views are a number": {**LOGITS, "key": {**LOGITS["key"], "views": 3}},
    "an environment of lists": {**LOGITS, "key": {**LOGITS["key"], "environment": {"torch": []}}},
    "deep": {**LOGITS, "key": DEEP},
    "NaN": {**LOGITS, "folded": math.nan},
    "many rows": {**LOGITS, "rows": 10**15},
    "more rows than bytes can be": {**LOGITS, "rows": 2**62, "row_bytes": 2**62},
    "more than 64 bits": {**LOGITS, "rows": 2**70},
    "long rows": {**LOGITS, "row_bytes": 10**15},
}


def plant_logits(header: dict):
    return lambda file: file.write_bytes(header_bytes(header) + b"\0" * 48)


PLANTED_LOGITS = {
    **{name: plant_logits(header) for name, header in ODD_LOGITS.items()},
    "a pipe": os.mkfifo,
    "a link to nowhere": lambda file: file.symlink_to("nowhere"),
    "a link to itself": lambda file: file.symlink_to(file.name),
    "a directory": Path.mkdir,
}


@pytest.mark.parametrize("name", PLANTED_LOGITS)
def test_odd_files_of_teachers_logits_are_named_beside_the_others(name, tmp_path, call):
    directory = tmp_path / ".cache/teachers"
    directory.mkdir(parents=True)
    for good in ("a", "z"):
        plant_logits(LOGITS)(directory / f"{good}.rows")
    PLANTED_LOGITS[name](directory / "odd.rows")
    ended = call(["list", "--data-dir", str(tmp_path)], "common.teacher_cache.__main__")
    assert (ended.code, ended.stderr) == (0, "")
    a, odd, z = ended.stdout.splitlines()
    assert ["0 of 3 rows" in line for line in (a, z)] == [True, True]
    assert re.fullmatch(r"odd: .* on the disk; cannot be used: .+", odd)
    ended = call(["verify", "--data-dir", str(tmp_path)], "common.teacher_cache.__main__")
    assert (ended.code, ended.stderr, ended.stdout.count("cannot be used")) == (1, "", 1)
    is_directory = name == "a directory"
    ended = call(["delete", "--all", "--data-dir", str(tmp_path)], "common.teacher_cache.__main__")
    assert (ended.code, ended.stderr, ended.stdout.count(": deleted")) == (int(is_directory), "", 3 - is_directory)
    assert [path.name for path in directory.iterdir()] == ["odd.rows"] * is_directory


def test_the_good_record_is_one(tmp_path):
    assert read_record(good_run(tmp_path)).to_json() == GOOD
    assert set(GOOD) == {"version", *RunRecord.__dataclass_fields__}
