"""Records: what is written is read again, those of version 1 are converted, and what is no record is none."""

import json
from pathlib import Path

import pytest

from common.run_record import (
    SET_ASIDE,
    find_records,
    parse_record,
    read_record,
    split_teacher_files,
)
from tests.run_records import make_record


def test_what_is_written_is_read(tmp_path):
    record = make_record(status="done", accuracy={"last": 1.0, "best": 2.0}, details={"exits": [1]})
    (tmp_path / "run.json").write_text(json.dumps(record.to_json()))
    assert read_record(tmp_path) == record


# settings of each paper as version 1 had them, and what they are called now
FORMER = {
    "tfkd": (
        {"model_version": "resnet18_distill", "batch_size": 128, "method": "Distillation"},
        None,
        ("Distillation", "resnet18_distill", 128, [], {}),
    ),
    "edkd": (
        {"DISTILLER.TYPE": "KD", "DISTILLER.STUDENT": "resnet8", "DISTILLER.TEACHER": "resnet56", "teacher": "abc"},
        {"teacher": {"path": "/t", "origin": "released"}},
        ("KD", "resnet8", None, [{"path": "/t", "origin": "released", "name": "resnet56", "digest": "abc"}], {}),
    ),
    "edkd without a teacher": (
        {"DISTILLER.TYPE": "NONE", "DISTILLER.STUDENT": "resnet8", "DISTILLER.TEACHER": "resnet56", "teacher": None},
        {"teacher": None, "extra_parameters": 0},
        ("NONE", "resnet8", None, [], {"extra_parameters": 0}),
    ),
    "mtkd_rl": (
        {"method": "Averaging", "student": "s", "teachers": ["a", "b"], "batch_size": 64},
        {"teachers": [{"name": n, "path": f"/{n}", "digest": n * 3} for n in "ab"]},
        ("Averaging", "s", 64, [{"name": n, "path": f"/{n}", "digest": n * 3} for n in "ab"], {}),
    ),
    "mlkd": (
        {
            "method": "MultiLevel",
            "teachers": [{"name": "a", "checkpoint": "d1", "weight": 1.0}],
            "global_batch_size": 8,
        },
        {"teacher": [{"path": "/a", "origin": "given"}], "exits": []},
        ("MultiLevel", None, 8, [{"path": "/a", "origin": "given", "name": "a", "digest": "d1"}], {"exits": []}),
    ),
}


@pytest.mark.parametrize("paper", FORMER)
def test_records_of_version_1_are_converted(paper):
    settings, more, (method, student, batch_size, teachers, details) = FORMER[paper]
    content = {
        "paper": paper.split()[0],
        "experiment": "e",
        "settings": {**settings, "seed": 3},
        "runtime": {"device": "cpu", "amp": "off"},
        "data": {"content": "synthetic dataset (x)", "fingerprint": "f"},
        "budget": {"epochs": 2, "published_epochs": 240, "batches": None},
        "command": ["a.py"],
        "commit": "c0ffee",
        "hardware": {"cpu": "x", "gpu": None},
        "status": "done",
        "started": "2026",
        "accuracy": {"last": 1.0, "best": 1.0},
        "epochs_done": 2,
        **(more or {}),
    }
    record = parse_record(content)
    assert (record.method, record.student, record.batch_size, record.seed) == (method, student, batch_size, 3)
    assert record.teachers == teachers
    assert record.details == details
    assert record.budget["published_batch_size"] == batch_size, "nobody said otherwise"
    assert record.data["content"] == "synthetic dataset (x)"
    assert not any("abc" in str(value) or "d1" in str(value) for value in record.settings.values())
    (segment,) = record.segments
    assert (segment.first_epoch, segment.epochs, segment.commit) == (0, 2, "c0ffee")
    assert parse_record(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    "text", ["", "[]", "3", '{"status": "done"}', '{"version": 9}', '{"version": 2, "paper": 1}', '{"a": 1, "a": 2}']
)
def test_what_is_no_record_is_none(tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    assert read_record(tmp_path) is None


def test_runs_set_aside_are_passed_by(tmp_path: Path):
    for place in ("a", f"a/{SET_ASIDE}/1", "b/c"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "run.json").write_text(json.dumps(make_record().to_json()))
    assert [directory for directory, _ in find_records(tmp_path)] == [tmp_path / "a", tmp_path / "b/c"]


def test_digests_of_all_papers_settings_are_told_apart_from_the_rest():
    for settings, digests in (
        ({"DISTILLER.TEACHER": "t", "teacher": "a+b", "x": 1}, ["a", "b"]),
        ({"DISTILLER.TEACHER": "t", "teacher": None, "x": 1}, []),
        ({"teachers": ["a", "b"], "teacher_files": ["1", "2"]}, ["1", "2"]),
        ({"teachers": [{"name": "a", "checkpoint": "1", "weight": 2}]}, ["1"]),
        ({"teacher": "resnet18"}, []),  # Tf-KD: a network's name
    ):
        rest, found = split_teacher_files(settings)
        assert found == digests
        assert not {"teacher_files", "checkpoint"} & {*rest, *(key for t in rest.get("teachers", ()) for key in t)}
        assert split_teacher_files(rest)[0] == rest
