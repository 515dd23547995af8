"""The first run on a GPU, in miniature: its checks fail where they should, and none takes another with it."""

import json
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_first_run
from benchmarks.first_run import conformance, machinery, steps, training
from benchmarks.first_run.steps import Distance, allowed_distance, distance
from benchmarks.first_run.verdicts import ABSENT, FAILED, NOTE, OK, Check, CheckError, Finding, Place, run_check
from benchmarks.first_run.workers import Pool, shards_of
from benchmarks.gpu_first_run import CHECKS, shards
from common.models import list_models
from common.training.engine import Trainer
from edkd.distillers import distiller_dict
from tests.golden import conformance_names


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(torch.device("cpu"), True, tmp_path)


def first_run(call, *arguments: str, output: Path):
    ended = call(["--device", "cpu", "--jobs", "1", "--output", str(output), *arguments], "benchmarks.gpu_first_run")
    return ended, json.loads(output.read_text())


@pytest.mark.slow
def test_a_run_in_miniature(call, tmp_path):
    only = ["steps / edkd KD", "bf16 / edkd NONE", "loop / tf32 flag", "losses of tfkd", "speed / edkd, plain"]
    ended, content = first_run(call, "--only", *only, output=tmp_path / "out.json")
    assert ended.code == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    status = {verdict["name"]: verdict["status"] for verdict in content["verdicts"]}
    assert status == {
        "steps / edkd KD": OK,
        "steps / edkd KDSVD": NOTE,
        "steps / edkd KD, dot": NOTE,
        "bf16 / edkd NONE": OK,
        "loop / tf32 flag": ABSENT,
        "figures / losses of tfkd, float32": OK,
        "figures / losses of tfkd, float64": OK,
        "speed / edkd, plain": OK,
        "speed / edkd, plain, tf32": ABSENT,
        "speed / edkd, plain, bf16": OK,
    }
    assert all(any(name in line for line in lines) for name in status)
    assert "6 ok, 2 note, 0 FAILED, 2 not run" in lines[-1]


def test_a_pattern_that_fits_nothing_is_refused(call):
    ended = call(["--only", "stepz"], "benchmarks.gpu_first_run")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)


def test_without_time_nothing_of_correctness_counts_as_done(call, tmp_path):
    ended, content = first_run(call, "--minutes", "0", "--only", "losses of tfkd", output=tmp_path / "out.json")
    assert ended.code == 1
    assert {verdict["text"] for verdict in content["verdicts"]} == {"out of time"}


def test_all_that_there_is_has_a_check():
    assert {f"steps / edkd {kind}" for kind in distiller_dict} <= set(CHECKS)
    files = {name for group in conformance.MODEL_GROUPS for name in conformance.model_files(group)}
    assert files == set(conformance_names("models/*.json")) - {"models/mlkd__MultiResNetV2.json"}
    for network in gpu_first_run.LAYOUT_ROWS:
        family, _, name = network.removeprefix("layouts / ").partition(",")[0].partition("/")
        assert name in list_models(family)


@pytest.mark.parametrize("jobs", [1, 2, 16])
def test_every_check_has_its_turn_once(jobs):
    names = [name for name in CHECKS if not CHECKS[name].alone]
    dealt = shards(list(CHECKS), jobs)
    assert sorted(name for shard in dealt for name in shard) == sorted(names)
    # what a failed capture may leave behind is no other check's
    assert all(len(shard) == 1 for shard in dealt if shard[0] in machinery.FAILURE_CHECKS)
    assert shards_of("abcde", 2) == [["a", "c", "e"], ["b", "d"]]


# -------------------------------------------------------------------------------------------------- isolation of checks

WORKER = """
import json, os, sys, time
for name in sys.argv[1:]:
    print(json.dumps({"begin": name}), flush=True)
    if name == "dies":
        print("a word before it ends", file=sys.stderr)
        os._exit(7)
    if name == "hangs":
        time.sleep(600)
    print(json.dumps({"name": name, "status": "ok", "text": "", "seconds": 0.0, "figures": {}}), flush=True)
"""


def pooled(names: list[list[str]], tmp_path: Path, seconds: float = 60.0, limit: float = 120.0) -> dict[str, str]:
    """What becomes of checks in processes that do nothing: status and text by name."""
    (tmp_path / "worker.py").write_text(WORKER)
    checks = {name: Check(lambda place: Finding(""), limit=limit) for shard in names for name in shard}
    seen = {}
    command = [sys.executable, str(tmp_path / "worker.py")]
    Pool(checks, command, lambda v: seen.update({v.name: f"{v.status}: {v.text}"}), time.time() + seconds).run(names, 2)
    return seen


def test_a_process_that_dies_takes_one_check_with_it(tmp_path):
    seen = pooled([["a", "dies", "b"], ["c"]], tmp_path)
    assert {name for name, text in seen.items() if text.startswith(OK)} == {"a", "b", "c"}
    assert seen["dies"] == f"{FAILED}: took its process down (exit code 7): a word before it ends"


def test_a_check_that_hangs_is_stopped(tmp_path):
    seen = pooled([["hangs", "b"]], tmp_path, limit=3.0)
    assert seen["hangs"].startswith(f"{FAILED}: hung")
    assert seen["b"].startswith(OK)


def test_time_that_is_over_ends_everything(tmp_path):
    seen = pooled([["a", "hangs", "b"], ["c"]], tmp_path, seconds=4.0)
    assert seen["hangs"] == seen["b"] == f"{ABSENT}: out of time"
    assert len(seen) == 4


def test_whatever_a_check_raises_is_its_verdict(place):
    def leaves(place: Place) -> Finding:
        sys.exit("gone")

    def breaks(place: Place) -> Finding:
        raise KeyError("one\ntwo")

    def fails(place: Place) -> Finding:
        raise CheckError("too far")

    verdicts = [run_check("x", Check(function), place) for function in (leaves, breaks, fails)]
    assert [verdict.status for verdict in verdicts] == [FAILED] * 3
    assert [verdict.text for verdict in verdicts][::2] == ["SystemExit: gone", "too far"]


# ------------------------------------------------------------------------------ checks find what they are there to find


def test_wrong_steps_are_found(place, monkeypatch):
    """An optimizer that does a tenth too much, in the fast way alone."""
    step = Trainer._step_optimizer

    def too_much(trainer: Trainer) -> None:
        before = [p.detach().clone() for p in trainer.method.trainable_parameters()]
        step(trainer)
        if not trainer.runtime.plain:
            with torch.no_grad():
                for p, was in zip(trainer.method.trainable_parameters(), before, strict=True):
                    p.add_(p - was, alpha=0.1)

    assert run_check("x", Check(lambda place: steps.check_steps("edkd KD", place)), place).status == OK
    monkeypatch.setattr(Trainer, "_step_optimizer", too_much)
    found = run_check("x", Check(lambda place: steps.check_steps("edkd KD", place)), place)
    assert found.status == FAILED
    assert "apart; allowed" in found.text


def test_a_method_that_ought_to_be_captured_and_is_not_is_found():
    amount = training.Amount()
    trace = training.Trace([], torch.zeros(1), torch.zeros(1), {"step": "eager: something"}, 0, ["why"])
    with pytest.raises(CheckError, match="declared capturable, but eager: something; why"):
        steps.capture_of(trace, True, amount)
    assert steps.capture_of(trace, False, amount) == "eager: something"
    trace.execution, trace.replays = {"step": "captured"}, 3
    with pytest.raises(CheckError, match="replayed 3 times"):
        steps.capture_of(trace, True, amount)


def test_distances():
    def trace(losses: list[float], after: float) -> training.Trace:
        named = [{"a": loss / 2, "b": loss / 2} for loss in losses]
        return training.Trace(named, torch.zeros(2).double(), torch.tensor([after, 0.0]).double(), {}, 0, [])

    found = distance(trace([1.0, 2.2], 1.5), trace([1.0, 2.0], 1.0))
    assert (found.loss, found.update) == (pytest.approx(0.1), pytest.approx(0.5))
    assert distance(trace([float("nan")], 1.0), trace([1.0], 1.0)).loss == float("inf")
    assert allowed_distance(Distance(1e-3, 1e-9)) == Distance(32e-3, steps.UPDATE_FLOOR)
    assert allowed_distance(Distance(0.0, 0.0), 0.05) == Distance(0.05, 0.05)
    with pytest.raises(CheckError):
        steps.require_within(Distance(2.0, 0.0), Distance(1.0, 1.0), "x")


def test_another_loss_than_published_is_found(place, monkeypatch):
    import tfkd.losses

    loss = tfkd.losses.kd_loss
    monkeypatch.setattr(tfkd.losses, "kd_loss", lambda *a, **k: {n: v * 1.001 for n, v in loss(*a, **k).items()})
    with pytest.raises(CheckError, match=r"\d+ of \d+ figures"):
        conformance.check_losses("tfkd", torch.float32, place)


def test_figures_hold_here(place):
    for paper in ("edkd", "mtkd_rl"):
        finding = conformance.check_trajectories(paper, torch.float64, place)
        assert finding.figures["farthest"] < 1e-9
    assert conformance.check_distillers(torch.float32, place).figures["figures"] > 30
    assert conformance.check_models("mtkd_rl", place).figures["figures"] > 10


@pytest.mark.parametrize("name", ["restored momentum", "loss not finite", "accumulation", "resume"])
def test_checks_of_the_loop_hold_here(name, place):
    assert machinery.MACHINERY[name](place).text


def test_momentum_left_in_another_layout_is_found(place, monkeypatch):
    monkeypatch.setattr("common.training.engine.keep_parameter_layout", lambda optimizer: None)
    with pytest.raises(CheckError, match="another layout"):
        machinery.check_restored_momentum(place)


def test_a_resume_that_forgets_momentum_is_found(place, monkeypatch):
    resume = Trainer.resume

    def forgetful(trainer: Trainer) -> bool:
        resumed = resume(trainer)
        trainer.optimizer.state.clear()
        return resumed

    monkeypatch.setattr(Trainer, "resume", forgetful)
    with pytest.raises(CheckError, match="from the unbroken run"):
        machinery.check_resume(place)


def test_losses_are_noted_step_by_step(tmp_path):
    """Also those of an odd last batch; the sum of an epoch's agrees with the loop's own."""
    torch.manual_seed(0)
    method = machinery.Small()
    watched = training.Watched(training.noise_batches(training.MINIATURE, torch.device("cpu")), method)
    runtime = training.PLAIN.runtime(torch.device("cpu"))
    schedule = lambda *_: 1e-4  # noqa: E731
    trainer = training.make_trainer(method, lambda p: torch.optim.SGD(p, lr=1.0), schedule, watched, runtime, tmp_path)
    means = trainer.train_epoch(0, show_progress=False)
    sizes = [4] * 4 + [3]
    losses = [step["cross_entropy"] for step in watched.losses()]
    assert len(losses) == 5
    assert means["loss"] == pytest.approx(sum(n * x for n, x in zip(sizes, losses, strict=True)) / 19)
