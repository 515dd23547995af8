"""The plan on a real Ray cluster of this machine: two workers, of which one dies in the middle of a run."""

import json
import signal
import time

import pytest

from tests.plan.test_runner import ALONE, SMOOTH, STUDENT, TEACHER, Plan

ray = pytest.importorskip("ray", reason="Ray, the extra 'cluster', is not installed")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """A head that runs nothing, and two workers of one core."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    cluster.workers = [cluster.add_node(num_cpus=1) for _ in range(2)]
    yield cluster
    cluster.shutdown()


def test_a_dead_worker_costs_nothing_but_time(cluster, tmp_path):
    calm, disturbed = Plan(tmp_path / "calm"), Plan(tmp_path / "disturbed")
    assert calm.run()[0] == 0

    release = tmp_path / "release"
    for directory in ("base/alone", "base/teacher"):
        disturbed.set(directory, until=str(release))
    process = disturbed.start("--cluster", cluster.address)
    deadline = time.monotonic() + 240
    while disturbed.calls(ALONE) + disturbed.calls(TEACHER) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    cluster.remove_node(cluster.workers.pop(), allow_graceful=False)
    # Nothing ends before the loss was noticed, however long Ray takes for it.
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "its worker was lost" in line:
            break
    release.touch()
    rest, _ = process.communicate(timeout=300)
    output = "".join(lines) + rest

    assert process.returncode == 0, output
    assert output.count("its worker was lost") == 1
    assert "4 of 4 runs done" in output
    assert sorted(disturbed.calls(d) for d in (TEACHER, STUDENT, SMOOTH, ALONE)) == [1, 1, 1, 2]
    assert disturbed.tables() == calm.tables()


def test_ctrl_c_stops_the_runs_of_the_cluster(cluster, tmp_path):
    plan = Plan(tmp_path)
    plan.set("base/alone", sleep=60)
    process = plan.start("--cluster", cluster.address, "--cells", "base/alone")
    deadline = time.monotonic() + 120
    while not plan.calls(ALONE) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    record = json.loads((plan.workspace() / ALONE / "run.json").read_text())
    assert record["status"] == "stopped", "the run was told to stop, and had time to write it down"


def test_a_search_on_the_cluster_is_stopped_and_goes_on(cluster, tmp_path):
    """Its rungs, its choice and its tests; in the end it has found what one on this machine finds."""
    release = tmp_path / "release"
    search = ["--cells", "base/alone", "--sweep", "alpha=0,1,2", "--halving", "3", "--seeds", "0,1"]
    plan, local = Plan(tmp_path / "cluster"), Plan(tmp_path / "local")
    for each in (plan, local):
        each.set("base/alone", alpha=1, until=str(release))
    trials = plan.root / "out/smoke/sweeps/base_alone/trial"
    process = plan.start("--cluster", cluster.address, *search)
    deadline = time.monotonic() + 120
    while not list(trials.rglob("run.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "the same command resumes from here" in output
    stopped = [json.loads(file.read_text())["status"] for file in trials.rglob("run.json")]
    assert set(stopped) == {"stopped"}, "each was told to stop, and had time to write it down"

    release.touch()
    code, output = plan.run("--cluster", cluster.address, *search)
    assert code == 0, output
    assert "chosen by validation: base/alone: alpha 2" in output
    assert local.run(*search)[0] == 0
    tables = [(each.root / "out/smoke/sweeps/tables.md").read_text() for each in (plan, local)]
    assert tables[0] == tables[1]


def test_bad_clusters_are_one_line(cluster, tmp_path):
    plan = Plan(tmp_path)
    for arguments, complaint in (
        (["--cluster", "127.0.0.1:1"], "no Ray cluster answers there"),
        (
            ["--cluster", cluster.address, "--gpus-per-run", "0.5"],
            "no machine there has 1 cores and 0.5 GPUs for a run",
        ),
    ):
        code, output = plan.run(*arguments)
        assert code == 2, output
        assert complaint in output.splitlines()[-1]
