"""The estimate of what remains: images of a run, and which measurement tells their speed."""

import json
from pathlib import Path

import pytest

from common.plan.budgets import Budget
from common.plan.estimate import TeacherCache, duration, epoch_rates, estimate, images, measured_step
from common.plan.plan import PlannedRun
from common.plan.tasks import Task
from tests.results.records import write_run


def task(root: Path, *flags: str, experiment: str = "net --smooth", params: dict | None = None, **options) -> Task:
    run = PlannedRun("stub", experiment, ("train.py", *flags), "cifar100", **options)
    return Task(run, 0, Budget("any", "", generated=False), (), root / "any/seed_0/stub", root, params)


@pytest.mark.parametrize(
    ("flags", "params", "expected"),
    [
        ([], None, 200 * (50_000 + 10_000 / 3)),
        (["--epochs", "2"], None, 2 * (50_000 + 10_000 / 3)),
        (["--limit-train-batches", "10", "--limit-eval-batches", "3"], None, 200 * (640 + 64)),
        (["--limit-train-batches", "10", "-b", "16", "-b", "8"], None, 200 * (80 + 10_000 / 3)),
        (["--limit-train-batches", "10"], {"batch_size": 32}, 200 * (320 + 10_000 / 3)),
        (["--limit-train-batches", "10", "SOLVER.BATCH_SIZE", "4"], None, 200 * (40 + 10_000 / 3)),
        (["--limit-train-batches", "100000"], None, 200 * (50_000 + 10_000 / 3)),
    ],
)
def test_images_of_a_run(tmp_path, flags, params, expected):
    assert images(task(tmp_path, *flags, params=params), 200) == pytest.approx(expected)


def test_a_variant_takes_as_long_as_what_it_is_a_variant_of(tmp_path):
    table = {"stub net": {"epochs": 1}, "other net --smooth": {"epochs": 2}}
    assert measured_step(task(tmp_path), table) == {"epochs": 1}
    assert measured_step(task(tmp_path, experiment="networks"), table) is None
    assert measured_step(task(tmp_path), {**table, "stub net --smooth": {"epochs": 3}}) == {"epochs": 3}


def write(root: Path, rates: list[float], batches: int | None) -> None:
    """A finished run and the table of step times."""
    (root / "step_times.json").write_text(
        json.dumps(
            {"hardware": "an abacus", "date": "today", "runs": {"stub net": {"images_per_second": 10, "epochs": 3}}}
        )
    )
    directory = root / "results/other/seed_1/stub/somewhere"
    write_run(directory, "net --smooth", 0, 0, paper="stub", batches=batches)
    lines = [json.dumps({"epoch": i, "images_per_second": rate}) + "\n" for i, rate in enumerate(rates)]
    (directory / "metrics.jsonl").write_text("".join(lines))


@pytest.mark.parametrize(
    ("batches", "rate"), [(None, 100.0), (50, 100.0), (2, 10.0)], ids=["whole epochs", "long epochs", "a few steps"]
)
def test_finished_runs_of_any_budget_count_before_the_table(tmp_path, batches, rate):
    write(tmp_path, [1.0, 100.0, 90.0, 110.0], batches)
    hours = 3 * (50_000 + 10_000 / 3) / rate / 3600
    text = estimate([task(tmp_path)], tmp_path / "results", tmp_path)
    assert f"run after run, on a CPU: {duration(hours)} (stub {duration(hours)})" in text
    assert "expected on a GPU, in proportion to what an H100 took" in text
    assert f"{duration(hours / 78)} (H100)" in text
    assert f"{duration(hours / 78 * 52 / 8.1)} (T4 class)" in text
    assert "an abacus, today" in text
    assert (f"by finished runs in {tmp_path / 'results'}" in text) == (batches != 2)
    assert "never measured" not in text


def test_several_at_a_time_are_faster_at_best_by_their_number(tmp_path):
    write(tmp_path, [1.0], None)
    hours = 3 * (50_000 + 10_000 / 3) / 1.0 / 3600
    text = estimate([task(tmp_path)], tmp_path / "results", tmp_path, jobs=2)
    assert f"\n  2 at a time, at best, where as many cores are free: {duration(hours / 2)}\n" in text
    assert "at a time" not in estimate([task(tmp_path)], tmp_path / "results", tmp_path)


def test_what_was_never_measured_is_said(tmp_path):
    write(tmp_path, [1.0], None)
    tasks = [task(tmp_path, experiment="new"), task(tmp_path, experiment="an evaluation", trains=False)]
    text = estimate(tasks, tmp_path / "results", tmp_path)
    assert text == "no estimate of what remains: runs such as stub new (seed 0) were never measured"
    assert estimate([], tmp_path / "results", tmp_path / "nowhere").endswith(" 0 minutes")


def test_the_first_epoch_counts_only_where_it_is_alone(tmp_path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"epoch": 0, "images_per_second": 1.0}\n')
    assert epoch_rates(tmp_path) == [1.0]
    file.write_text('{"epoch": 0, "images_per_second": 1.0}\n{"epoch": 1, "images_per_second": 5.0}\n')
    assert epoch_rates(tmp_path) == [5.0]
    file.write_text("{")
    assert epoch_rates(tmp_path) == epoch_rates(tmp_path / "absent") == []


def test_the_estimate_says_whose_cpu_it_is(tmp_path, monkeypatch):
    write(tmp_path, [1.0], None)
    monkeypatch.setattr("common.plan.estimate.cpu_name", lambda: "an abacus")
    table = json.loads((tmp_path / "step_times.json").read_text())
    (tmp_path / "step_times.json").write_text(json.dumps({**table, "hardware": "an abacus (CPU), 1 thread"}))
    assert "on this machine's CPU: " in estimate([task(tmp_path)], tmp_path / "results", tmp_path)


def test_durations():
    assert [*map(duration, (0, 0.01, 0.5, 2, 1234))] == [
        *("0 minutes", "under a minute", "30 minutes", "2.0 hours", "1,234.0 hours")
    ]


def taught(root: Path, experiment: str, seed: int, *flags: str, teacher: str = "t") -> Task:
    run = PlannedRun("stub", experiment, ("train.py", *flags), "cifar100", published_needs=(teacher,))
    return Task(run, seed, Budget("any", "", generated=False), (), root / f"any/seed_{seed}/stub", root, None)


MEASURED = {"images_per_second": 10, "epochs": 240, "remembered": {"speedup": 2.0, "views": 162}}


def test_what_tasks_save_each_other_by_remembered_logits(tmp_path):
    """By the expected number of views that are new; runs of one seed draw the same."""
    cache = TeacherCache()
    first = cache.saved_share(taught(tmp_path, "kd", 0), MEASURED)
    distinct = 162 * (1 - (1 - 1 / 162) ** 240)
    assert first == pytest.approx((1 - distinct / 240) / 2)
    assert distinct * 50_000 == pytest.approx(6.27e6, rel=0.01)  # counted from real draws: 6.26 million
    same_views = cache.saved_share(taught(tmp_path, "edkd", 0), MEASURED)
    assert same_views == pytest.approx(1 / 2)
    more = cache.saved_share(taught(tmp_path, "kd", 1), MEASURED)
    both = 162 * (1 - (1 - 1 / 162) ** 480)
    assert more == pytest.approx((1 - (both - distinct) / 240) / 2)
    assert first < more < same_views
    assert cache.saved_share(taught(tmp_path, "kd", 0, teacher="other"), MEASURED) == pytest.approx(first)


@pytest.mark.parametrize("flags", [["--teacher-cache", "off"], ["--plain"]])
def test_nothing_is_saved_where_nothing_is_remembered(tmp_path, flags):
    assert TeacherCache().saved_share(taught(tmp_path, "kd", 0, *flags), MEASURED) == 0
    assert TeacherCache().saved_share(taught(tmp_path, "at", 0), {"images_per_second": 10, "epochs": 240}) == 0


def test_the_estimate_says_what_is_saved(tmp_path):
    runs = {"stub kd": MEASURED, "stub at": {"images_per_second": 10, "epochs": 240}}
    (tmp_path / "step_times.json").write_text(json.dumps({"hardware": "an abacus", "date": "today", "runs": runs}))
    tasks = [taught(tmp_path, "kd", 0), taught(tmp_path, "kd", 1), taught(tmp_path, "at", 0)]
    text = estimate(tasks, tmp_path / "results", tmp_path)
    training, testing = 240 * 50_000, 240 * 10_000 / 3
    both = 162 * (1 - (1 - 1 / 162) ** 480) * 50_000
    saved = (2 * training - both) / 2 / 10 / 3600
    assert f"remembered save {duration(saved)} of it already" in text
    assert f"on a CPU: {duration(3 * (training + testing) / 10 / 3600 - saved)} (" in text
