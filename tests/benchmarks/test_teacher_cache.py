"""What the benchmark of remembered logits counts, and which of the plan's runs its ratios hold for."""

import json

import pytest

from benchmarks.teacher_cache import hit_rate, keep, planned_with
from common.data import Augmentation


def test_the_hit_rate_is_that_of_independent_draws():
    """Of V views n draws are expected to meet V (1 - (1 - 1/V)^n)."""
    few = hit_rate(400, Augmentation(padding=1, flip=True), epochs=30, seed=0)
    expected = 18 * (1 - (1 - 1 / 18) ** 30) / 30
    assert few.drawn == 12_000
    assert few.first == 0
    assert 1 - few.mean == pytest.approx(expected, rel=0.02)
    assert few.last == pytest.approx(1 - (1 - 1 / 18) ** 29, rel=0.1)
    again = hit_rate(400, Augmentation(padding=1, flip=True), epochs=30, seed=1)
    assert again.distinct != few.distinct


def test_ratios_are_kept_for_the_runs_of_the_pair(tmp_path, monkeypatch):
    names = planned_with("resnet56,resnet20")
    assert names == [f"edkd cifar100/{kind}/res56_res20" for kind in ("kd", "dkd", "edkd")]
    assert planned_with("resnet20,resnet56") == []
    runs = {names[0]: {"images_per_second": 1.0, "epochs": 240}, "edkd cifar100/at": {"images_per_second": 2.0}}
    (tmp_path / "step_times.json").write_text(json.dumps({"hardware": "h", "runs": runs}))
    monkeypatch.setattr("benchmarks.teacher_cache.EXPERIMENTS", tmp_path)
    keep("resnet56,resnet20", 1.554)
    kept = json.loads((tmp_path / "step_times.json").read_text())["runs"]
    assert kept[names[0]]["remembered"] == {"speedup": 1.55, "views": 162}
    assert "remembered" not in kept["edkd cifar100/at"]
    assert names[1] not in kept


def test_without_a_cache_there_is_nothing_to_measure(call):
    ended = call(["--teacher-cache", "off"], "benchmarks.teacher_cache")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)
