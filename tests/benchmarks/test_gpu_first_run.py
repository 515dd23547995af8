"""The first run on a GPU, in miniature: its checks fail where they should, and none takes another with it."""

import contextlib
import json
import subprocess
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
from common.command_line import REPOSITORY
from common.models import list_models
from common.training.engine import Trainer
from common.training.fast_path import use_fused
from common.training.runtime import Runtime
from common.training.training_step import TrainingStep
from edkd.distillers import distiller_dict
from tests.golden import conformance_names
from tests.operators import OperatorLog


@pytest.fixture
def place(tmp_path) -> Place:
    return Place(torch.device("cpu"), True, tmp_path)


@pytest.fixture
def first_run(call, tmp_path, monkeypatch):
    """Calls the program on the CPU; returns how it ended and the directory that it wrote."""
    monkeypatch.setattr(gpu_first_run, "process_start", time.time)  # this process has long begun

    def run(*arguments: str):
        flags = ["--device", "cpu", "--jobs", "1", "--output", str(tmp_path / "out"), *arguments]
        return call(flags, "benchmarks.gpu_first_run"), tmp_path / "out"

    return run


@pytest.mark.slow
def test_a_run_in_miniature(first_run):
    only = ["steps / edkd KD", "bf16 / edkd NONE", "loop / tf32 flag", "losses of tfkd", "speed / edkd, plain"]
    only += ["layouts / tfkd/shufflenet_v2, fp32"]
    ended, output = first_run("--only", *only)
    content = json.loads((output / "verdicts.json").read_text())
    assert ended.code == 0, ended.stdout + ended.stderr
    lines = ended.stdout.splitlines()
    status = {verdict["name"]: verdict["status"] for verdict in content["verdicts"]}
    assert status.pop("layouts / tfkd/shufflenet_v2, fp32") in (OK, NOTE)  # what a loaded CPU measures
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
    text = (output / "summary.md").read_text()
    assert "| EDKD, resnet8 teaches resnet8, batch 4 | plain, bf16 |" in text
    assert "| tfkd/shufflenet_v2 | grouped | fp32 |" in text
    assert "| steps / edkd KD | ok |" in text
    assert "0 FAILED, 2 not run" in text
    assert (output / "failures.txt").read_text() == ""


def test_a_pattern_that_fits_nothing_is_refused(call):
    ended = call(["--only", "stepz"], "benchmarks.gpu_first_run")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)


def test_without_time_nothing_of_correctness_counts_as_done(first_run):
    ended, output = first_run("--minutes", "0", "--only", "losses of tfkd", "speed / edkd, plain")
    assert ended.code == 1
    assert {v["text"] for v in json.loads((output / "verdicts.json").read_text())["verdicts"]} == {"out of time"}
    assert "out of time: figures / losses of tfkd" in ended.stdout
    assert first_run("--minutes", "0", "--only", "speed / edkd, plain")[0].code == 0  # no failure: nothing is wrong


def test_a_gpu_that_is_asked_for_and_not_there_is_said(call, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ended = call(["--device", "cuda:0"], "benchmarks.gpu_first_run")
    assert (ended.code, ended.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
def test_the_time_counts_from_the_start_of_the_process():
    command = "import time; now = time.time(); time.sleep(1); "
    command += "from benchmarks.gpu_first_run import process_start; print(now - process_start())"
    before = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, cwd=REPOSITORY, check=True)
    assert 0 <= float(before.stdout) < 1


class Recorder:
    """In place of a pool: notes what it is given, and leaves undone what it is told to."""

    def __init__(self, left: set[str]) -> None:
        self.calls, self.left = [], left

    def run(self, shards: list[list[str]], jobs: int, until: float) -> list[str]:
        names = [name for shard in shards for name in shard]
        self.calls.append((names, jobs, until))
        return [name for name in names if name in self.left]


def test_measurements_have_their_share_of_the_time():
    slow, fast, measured = "steps / edkd KD", "steps / edkd DKD", "speed / edkd, plain"
    pool = Recorder({slow})
    assert gpu_first_run.run_all([slow, fast, measured], 1, pool, started=1000.0, seconds=100.0) == [slow]
    end = 1100.0 - gpu_first_run.SECONDS_TO_END
    assert pool.calls == [([slow, fast], 1, 1050.0), ([measured], 1, end), ([slow], 1, end)]
    pool = Recorder(set())
    gpu_first_run.run_all([slow], 1, pool, started=1000.0, seconds=100.0)
    assert pool.calls[0][2] == end  # nothing is measured, so that all of it is for correctness


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
import faulthandler, json, os, signal, sys, time
faulthandler.enable()
print("a word of a library", flush=True)
for name in sys.argv[1:]:
    print(json.dumps({"begin": name}), flush=True)
    if name == "dies":
        print("a word before it ends", file=sys.stderr)
        os._exit(7)
    if name == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
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
    pool = Pool(checks, command, lambda v: seen.update({v.name: f"{v.status}: {v.text}"}))
    return seen | dict.fromkeys(pool.run(names, 2, time.time() + seconds), "left")


def test_a_process_that_dies_takes_one_check_with_it(tmp_path):
    seen = pooled([["a", "dies", "b"], ["crashes", "c"]], tmp_path)
    assert {name for name, text in seen.items() if text.startswith(OK)} == {"a", "b", "c"}
    assert seen["dies"] == f"{FAILED}: took its process down (exit code 7): a word before it ends"
    assert seen["crashes"].startswith(f"{FAILED}: took its process down (exit code -11): Fatal Python error: Segm")


@pytest.mark.slow
def test_a_check_that_hangs_is_stopped(tmp_path):
    seen = pooled([["hangs", "b"]], tmp_path, limit=3.0)
    assert seen["hangs"].startswith(f"{FAILED}: hung for ")
    assert "killed: Fatal Python error: Aborted" in seen["hangs"]
    assert seen["b"].startswith(OK)


@pytest.mark.slow
def test_time_that_is_over_ends_everything(tmp_path):
    seen = pooled([["a", "hangs", "b"], ["c"]], tmp_path, seconds=4.0)
    assert seen["hangs"] == seen["b"] == "left"
    assert len(seen) == 4


@pytest.mark.slow
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
    assert all("Traceback" in verdict.log for verdict in verdicts)


# ----------------------------------------------------------------------------- checks find what they are there to find


@pytest.mark.slow
def test_wrong_steps_are_found(place, monkeypatch):
    """An optimizer that does a tenth too much, in the fast way alone."""
    take = TrainingStep._step_optimizer

    def too_much(step: TrainingStep) -> None:
        before = [p.detach().clone() for p in step.method.trainable_parameters()]
        take(step)
        if not step.runtime.plain:
            with torch.no_grad():
                for p, was in zip(step.method.trainable_parameters(), before, strict=True):
                    p.add_(p - was, alpha=0.1)

    assert run_check("x", Check(lambda place: steps.check_steps("edkd KD", place)), place).status == OK
    monkeypatch.setattr(TrainingStep, "_step_optimizer", too_much)
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
    assert allowed_distance(Distance(0.0, 0.0), 0.1) == Distance(0.1, 0.1)
    with pytest.raises(CheckError):
        steps.require_within(Distance(2.0, 0.0), Distance(1.0, 1.0), "x")


def test_another_loss_than_published_is_found(place, monkeypatch):
    import tfkd.losses

    loss = tfkd.losses.kd_loss
    monkeypatch.setattr(tfkd.losses, "kd_loss", lambda *a, **k: {n: v * 1.001 for n, v in loss(*a, **k).items()})
    with pytest.raises(CheckError, match=r"\d+ of \d+ figures"):
        conformance.check_losses("tfkd", torch.float32, place)


@pytest.mark.slow
def test_figures_hold_here(place):
    for paper in ("edkd", "mtkd_rl"):
        finding = conformance.check_trajectories(paper, torch.float64, place)
        assert finding.figures["farthest"] < 1e-9
    assert conformance.check_distillers(torch.float32, place).figures["figures"] > 30
    assert conformance.check_models("mtkd_rl", place).figures["figures"] > 10


@pytest.fixture
def stand_ins(monkeypatch):
    """The CPU seems to be a GPU whose graphs are logs of operators."""
    logs: list[OperatorLog] = []

    def make_log(device: torch.device) -> OperatorLog:
        logs.append(OperatorLog())
        return logs[-1]

    @contextlib.contextmanager
    def counted_replays():
        before = sum(log.replays for log in logs)
        yield lambda: sum(log.replays for log in logs) - before

    def blocker(runtime: Runtime) -> str | None:
        return None if runtime.graphs and not runtime.plain else "--no-graphs"

    capture = TrainingStep.capture

    def capture_fused(step: TrainingStep, graphs: OperatorLog) -> None:
        use_fused(step.optimizer)  # as on a GPU: the others read the learning rate
        capture(step, graphs)

    monkeypatch.setattr(TrainingStep, "capture", capture_fused)
    monkeypatch.setattr(Place, "require_gpu", lambda place: None)
    for module in ("common.training.training_step", "common.training.evaluation"):
        monkeypatch.setattr(f"{module}.graphs_blocker", blocker)
    for module in ("common.training.training_step", "benchmarks.first_run.machinery"):
        monkeypatch.setattr(f"{module}.CudaGraphs", make_log)
    for module in (machinery, training):
        monkeypatch.setattr(module, "counted_replays", counted_replays)
    for name in ("synchronize", "empty_cache", "current_stream", "default_stream", "memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 0)


GPU_CHECKS = [
    *(f"steps / {name}" for name in ("edkd KD", "edkd EDKD", "mtkd_rl RL, dynamic")),
    *("bf16 / edkd CRD", "figures / trajectories of edkd, float64"),
    *(
        f"loop / {name}"
        for name in ("learning rate", "dropout", "evaluation", "capture again", "capture again, memory")
    ),
    *(f"loop / {name}" for name in ("resume", "restored momentum", "failed capture, reads the device")),
    *(f"loop / {name}" for name in ("failed capture, number from the host", "failed capture, evaluation")),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", GPU_CHECKS)
def test_checks_hold_with_captures(name, place, stand_ins):
    verdict = run_check(name, CHECKS[name], place)
    assert verdict.status == OK, verdict.log
    assert "captured" in verdict.text or name.startswith("loop /")


@pytest.mark.slow
def test_a_replay_that_does_nothing_is_found(place, stand_ins, monkeypatch):
    def capture(graphs: OperatorLog, function):
        result = function()

        def replay():
            graphs.replays += 1
            return result

        return replay

    monkeypatch.setattr(OperatorLog, "capture", capture)
    for name in ("steps / edkd KD", "loop / learning rate", "loop / dropout", "loop / evaluation"):
        assert run_check(name, CHECKS[name], place).status == FAILED


@pytest.mark.slow
@pytest.mark.parametrize("name", ["restored momentum", "loss not finite", "accumulation", "resume"])
def test_checks_of_the_loop_hold_here(name, place):
    assert machinery.MACHINERY[name](place).text


def test_momentum_left_in_another_layout_is_found(place, monkeypatch):
    monkeypatch.setattr("common.training.training_step.keep_parameter_layout", lambda optimizer: None)
    with pytest.raises(CheckError, match="another layout"):
        machinery.check_restored_momentum(place)


@pytest.mark.slow
def test_a_resume_that_forgets_momentum_is_found(place, monkeypatch):
    resume = Trainer.resume

    def forgetful(trainer: Trainer) -> bool:
        resumed = resume(trainer)
        trainer.step.optimizer.state.clear()
        return resumed

    monkeypatch.setattr(Trainer, "resume", forgetful)
    with pytest.raises(CheckError, match="from the uninterrupted run"):
        machinery.check_resume(place)


def test_losses_are_noted_step_by_step(tmp_path):
    """Also those of an odd last batch; the sum of an epoch's agrees with the loop's own."""
    torch.manual_seed(0)
    method = machinery.Small()
    watched = training.Watched(training.noise_batches(training.MINIATURE, torch.device("cpu")))
    runtime = training.PLAIN.runtime(torch.device("cpu"))
    schedule = lambda *_: 1e-4  # noqa: E731
    trainer = training.make_trainer(method, lambda p: torch.optim.SGD(p, lr=1.0), schedule, watched, runtime, tmp_path)
    means = trainer.train_epoch(0, show_progress=False)
    sizes = [4] * 4 + [3]
    losses = [step["cross_entropy"] for step in watched.losses()]
    assert len(losses) == 5
    assert means["loss"] == pytest.approx(sum(n * x for n, x in zip(sizes, losses, strict=True)) / 19)
