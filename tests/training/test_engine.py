"""The training loop's promises, one by one."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.data import Batch, DeviceLoader, ImageArrays, Normalization
from common.errors import TrainingError, UserError
from common.models import create_model, list_models
from common.run_record import RunRecord, read_record
from common.training.checkpoints import CheckpointFiles, load_weights, save_checkpoint
from common.training.engine import Loaders, Trainer
from common.training.evaluation import evaluate
from common.training.method import FrozenTeacher, Method, StepOutput
from common.training.runs import RunDirectory, RunFiles
from common.training.runtime import Runtime, use_tf32
from common.training.schedules import step_decay
from common.training.selection import Accuracies
from common.training.training_step import Optimization
from tests.processes import CNN, REPOSITORY, before_call, checkpoint, metrics, record
from tests.run_records import BUDGET, DATA

CPU = Runtime(torch.device("cpu"))


class Linear(Method):
    """A linear classifier of 2x2 images with two losses; `spoil` may change them."""

    def __init__(self, spoil=None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
        self.spoil = spoil

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        losses = {"label": F.cross_entropy(logits, targets), "size": 0.01 * logits.square().mean()}
        return StepOutput(logits, self.spoil(losses, epoch) if self.spoil else losses)


def batches(count: int = 20, batch_size: int = 6, **options) -> DeviceLoader:
    random = np.random.default_rng(0)
    images = ImageArrays(random.integers(0, 256, (count, 2, 2, 3), dtype=np.uint8), random.integers(0, 3, count))
    return DeviceLoader(images, batch_size, Normalization((0.5,) * 3, (0.25,) * 3), **options)


def trainer(directory: Path, method: Method | None = None, epochs: int = 3, **options) -> Trainer:
    optimization = {
        "make_optimizer": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9),
        "schedule": step_decay(0.1, [2], 0.5),
        "accumulation_steps": 1,
    }
    loaders = {"train": batches(shuffle=True), "test": batches(), "validation": None}
    rest = {
        "runtime": CPU,
        "files": CheckpointFiles(directory / "last", directory / "best", {directory / "second": 2}),
        "settings": {"a": 1},
        "layout": None,
    }
    for part in (optimization, loaders, rest):
        part.update({name: options.pop(name) for name in part.keys() & options.keys()})
    assert not options
    return Trainer(method or Linear(), Optimization(epochs=epochs, **optimization), Loaders(**loaders), **rest)


def run_directory(path: Path) -> RunDirectory:
    record = RunRecord("none", "none", "", "", 0, 0, settings={}, data=DATA, budget=BUDGET)
    files = RunFiles(path, CheckpointFiles(path / "last", None), events=path, log=path / "log")
    return RunDirectory(files, record, {}, before=read_record(path))


# ---------------------------------------------------------------------------------------------- losses that fail


def from_step(step: int, value: float):
    """Spoils the loss 'size' from that step of the second epoch on, counted from 1."""
    calls = []

    def spoil(losses: dict[str, Tensor], epoch: int) -> dict[str, Tensor]:
        if epoch == 1:
            calls.append(1)
            if len(calls) >= step:
                return {**losses, "size": losses["size"] * value}
        return losses

    return spoil


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_training(value, tmp_path):
    whole = trainer(tmp_path / "whole", epochs=1)
    (tmp_path / "whole").mkdir()
    whole.fit(None)  # no run directory: nothing is written
    training = trainer(tmp_path, Linear(from_step(3, value)))
    with pytest.raises(TrainingError, match="loss 'size' is not finite at step 3 of epoch 2"):
        training.fit(run_directory(tmp_path))
    run = record(tmp_path)
    assert (run["status"], run["epochs_done"]) == ("failed", 1)
    assert "loss 'size' is not finite" in run["error"]
    last = checkpoint(tmp_path / "last")
    assert last["epoch"] == 1
    for name, weight in whole.method.student.state_dict().items():
        assert torch.equal(last["state_dict"][name], weight)
    assert len(metrics(tmp_path)) == 1


def test_weights_that_turn_bad_with_the_last_step_are_not_kept(tmp_path):
    """The loss is still finite, what the step makes of it is not: evaluation notices."""

    class Infinite(torch.optim.SGD):
        steps = 0

        def step(self, closure=None):
            super().step(closure)
            Infinite.steps += 1
            if Infinite.steps == 8:  # four an epoch
                self.param_groups[0]["params"][0].data.fill_(math.inf)

    training = trainer(tmp_path, make_optimizer=lambda parameters: Infinite(parameters, 0.1))
    with pytest.raises(TrainingError, match="the test loss is not finite after epoch 2"):
        training.fit(run_directory(tmp_path))
    assert checkpoint(tmp_path / "last")["epoch"] == 1
    assert all(weight.isfinite().all() for weight in checkpoint(tmp_path / "best")["state_dict"].values())
    assert record(tmp_path)["status"] == "failed"


def test_exit_code_of_training_that_fails(workspace):
    directory = workspace.experiment(CNN, learning_rate=1e12)
    ended = workspace.run(CNN)
    assert ended.code == 1
    assert re.fullmatch(r"error: (loss 'cross_entropy'|the test loss) is not finite [^\n]+\n", ended.stderr)
    assert record(directory)["status"] == "failed"
    assert record(directory)["error"] in ended.stderr


def test_other_errors_are_recorded_and_not_hidden(tmp_path):
    def broken(losses: dict, epoch: int) -> dict:
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError):
        trainer(tmp_path, Linear(broken)).fit(run_directory(tmp_path))
    assert (record(tmp_path)["status"], record(tmp_path)["error"]) == ("failed", "a bug")


# -------------------------------------------------------------------------------------------------------- results


def test_best_is_the_latest_of_equals():
    accuracies = Accuracies()
    tests, validations = [30.0, 50.0, 50.0, 40.0], [10.0, 20.0, 15.0, 20.0]
    best = [
        accuracies.update({"epoch": e, "test/accuracy": t, "validation/accuracy": v})
        for e, (t, v) in enumerate(zip(tests, validations, strict=True))
    ]
    assert best == [True, True, True, False]
    assert (accuracies.best, accuracies.best_epoch, accuracies.last) == (50.0, 2, 40.0)
    assert (accuracies.selected, accuracies.best_validation) == (40.0, 20.0)


def test_best_checkpoint_is_the_latest_of_equals(tmp_path, monkeypatch):
    accuracies = iter([30.0, 50.0, 50.0, 40.0])
    monkeypatch.setattr(
        "common.training.engine.Evaluation.__call__",
        lambda self: {"accuracy": next(accuracies), "top5": 100.0, "loss": 1.0},
    )
    told = []
    trainer(tmp_path, epochs=4).fit(run_directory(tmp_path), after_save=lambda test, is_best: told.append(is_best))
    assert told == [True, True, True, False]
    assert [checkpoint(tmp_path / name)["epoch"] for name in ("best", "last", "second")] == [3, 4, 2]
    assert record(tmp_path)["accuracy"] == {
        "last": 40.0,
        "best": 50.0,
        "best_epoch": 2,
        "selected_by_validation": None,
    }


def test_figures_are_means_over_samples(tmp_path):
    """Also where the last batch is smaller: 6, 6, 6 and 2."""
    training = trainer(tmp_path, schedule=lambda *_: 0.0)  # nothing moves
    figures = training.train_epoch(0, show_progress=False)
    (everything,) = batches(batch_size=20).epoch()
    losses = training.method(*everything[:3], 0).losses
    logits = training.method.student(everything.images)
    assert figures["label"] == pytest.approx(losses["label"].item(), rel=1e-6)
    assert figures["loss"] == pytest.approx(sum(losses.values()).item(), rel=1e-6)
    accuracy = 100 * (logits.argmax(1) == everything.targets).float().mean().item()
    assert figures["accuracy"] == pytest.approx(accuracy)
    evaluated = evaluate(training.method.student, batches(), CPU)
    assert evaluated["accuracy"] == pytest.approx(accuracy)
    assert evaluated["loss"] == pytest.approx(F.cross_entropy(logits, everything.targets).item(), rel=1e-6)
    assert evaluated["top5"] == 100  # of three classes


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_restores_the_mode(training):
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3)).train(training)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    evaluate(network, batches(), CPU)
    assert network.training == training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


# ------------------------------------------------------------------------------------------------------- schedule


def test_the_schedule_is_applied_at_every_step(tmp_path):
    rates = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            super().step(closure)

    schedule = step_decay(0.1, [1, 2], 0.5, warmup_epochs=1)
    trainer(tmp_path, make_optimizer=lambda p: Watched(p, 7.0), schedule=schedule).fit(run_directory(tmp_path))
    warmup = [0.1 * i / 4 for i in (1, 2, 3, 4)]
    assert rates == pytest.approx([*warmup, *[0.05] * 4, *[0.025] * 4], rel=1e-6)
    assert [line["learning_rate"] for line in metrics(tmp_path)] == [rates[i] for i in (3, 7, 11)]


def test_one_step_is_that_of_plain_pytorch(tmp_path):
    training, plain = trainer(tmp_path, epochs=1), Linear()
    training.fit(None)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9)
    for batch in batches(shuffle=True).epoch(0):
        optimizer.zero_grad()
        sum(plain(*batch[:3], 0).losses.values()).backward()
        optimizer.step()
    for ours, theirs in zip(training.method.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)


# ------------------------------------------------------------------------------------------ precision, compilation


def test_bf16(workspace):
    directory = workspace.experiment(CNN)
    assert workspace.run(CNN, "--epochs", "2").code == 0
    exact = metrics(directory)
    ended = workspace.run(CNN, "--epochs", "2", "--amp", "bf16")
    assert (ended.code, ended.stderr) == (0, "")
    assert record(directory)["segments"][-1]["runtime"]["amp"] == "bf16"
    assert all(w.dtype == torch.float32 for k, w in weights_of(directory).items() if "num_batches" not in k)
    for ours, theirs in zip(metrics(directory), exact, strict=True):
        assert ours["train/loss"] != theirs["train/loss"]
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=0.01)


def weights_of(directory: Path) -> dict[str, Tensor]:
    return checkpoint(directory / "last.pth.tar")["state_dict"]


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_training_has_the_same_losses(workspace):
    """Dropout included: compiled, it draws the same masks. And what is compiled serves one instruction set alone."""
    directory = workspace.experiment(CNN, num_epochs=2)
    assert workspace.run(CNN).code == 0
    plain = metrics(directory)
    command = [sys.executable, "-m", "tfkd.main", *workspace.arguments(CNN, "--compile", "--overwrite")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    for capability in ({}, {"ATEN_CPU_CAPABILITY": "default"}):  # one after the other, with the same cache
        ended = subprocess.run(
            command, cwd=workspace.root, env={**environment, **capability}, capture_output=True, text=True
        )
        assert ended.returncode == 0, ended.stderr
        assert record(directory)["segments"][-1]["runtime"]["compile"] is True
        for ours, theirs in zip(metrics(directory), plain, strict=True):
            assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
            assert ours["test/loss"] == pytest.approx(theirs["test/loss"], rel=1e-4)


def test_the_plain_way_has_the_same_losses(workspace):
    directory = workspace.experiment(CNN, num_epochs=2)
    assert workspace.run(CNN).code == 0
    fast = metrics(directory)
    ended = workspace.run(CNN, "--plain")
    assert (ended.code, ended.stderr) == (0, "")
    assert record(directory)["segments"][-1]["runtime"]["plain"] is True
    for ours, theirs in zip(metrics(directory), fast, strict=True):
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
        assert ours["test/loss"] == pytest.approx(theirs["test/loss"], rel=1e-4)


def test_the_plain_way_leaves_everything_out(tmp_path):
    def built(**options) -> Trainer:
        method = Taught(create_model("resnet8", 3), create_model("resnet8", 3))
        return trainer(tmp_path, method, runtime=Runtime(torch.device("cpu"), **options))

    plain, fast = built(plain=True), built()
    for training, folded in ((plain, False), (fast, True)):
        assert any(isinstance(m, nn.BatchNorm2d) for m in training.method.teacher.modules()) is not folded
        weight = training.method.student.layer3[0].conv1.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is folded
        norms = {type(m) for m in training.method.student.modules() if isinstance(m, nn.BatchNorm2d)}
        assert (norms == {nn.BatchNorm2d}) is not folded


def test_tf32_belongs_to_a_runs_settings(tmp_path):
    def built(tf32: bool) -> Trainer:
        return trainer(tmp_path, runtime=Runtime(torch.device("cpu"), tf32=tf32))

    assert "tf32" not in built(False).state.settings  # runs of before the flag are resumed
    words = ("without tf32", "with tf32 = True")
    for tf32 in (False, True):
        written = built(tf32)
        written.fit(None)
        written.state.save(3)
        assert built(tf32).resume()
        with pytest.raises(UserError, match=f"belongs to a run {words[tf32]}, not {words[not tf32]}: give"):
            built(not tf32).resume()


def test_tf32_is_for_convolutions_alone():
    convolutions, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = convolutions.allow_tf32, products.allow_tf32
    try:
        for wanted in (True, False):
            products.allow_tf32 = True
            use_tf32(wanted)
            assert (convolutions.allow_tf32, products.allow_tf32) == (wanted, False)
    finally:
        convolutions.allow_tf32, products.allow_tf32 = before


def killed_in_the_second_epoch() -> None:
    from tests.processes import kill_self

    before_call("common.training.training_step.TrainingStep.__call__", 9, kill_self)


@pytest.mark.slow
def test_resumed_in_bf16(workspace):
    directory = workspace.experiment(CNN)
    flags = ["--epochs", "2", "--amp", "bf16"]
    assert workspace.run(CNN, *flags).code == 0
    whole = weights_of(directory)
    assert workspace.run(CNN, *flags, prepare=killed_in_the_second_epoch).code == -signal.SIGKILL
    assert workspace.run(CNN, *flags, "--resume").code == 0
    assert all(torch.equal(weight, whole[key]) for key, weight in weights_of(directory).items())


# --------------------------------------------------------------------------------------------------------- teacher


class Taught(Method):
    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student, self.teacher = student, FrozenTeacher(teacher)

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        return StepOutput(logits, {"soft": F.mse_loss(logits, self.teacher(images))})


def trained_looking(name: str) -> nn.Module:
    """A network whose batch-norm statistics and scales are not those of initialization."""
    torch.manual_seed(0)
    network = create_model(name, 10, family="tfkd")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return network


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({*list_models("tfkd")} - {"resnet101", "resnet152"}))
def test_folding_keeps_the_logits(name):
    network = trained_looking(name).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(images)
    teacher = FrozenTeacher(network).train()
    assert torch.equal(teacher(images), expected)
    teacher.fold()
    assert (teacher(images) - expected).abs().max() < 1e-5 * expected.abs().max()
    left = [m for m in teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) < len(before) or not before


def test_teacher_stays_as_it_is(tmp_path):
    method = Taught(create_model("cnn", 3, family="tfkd", num_channels=2), trained_looking("cnn"))
    method.train()
    assert method.student.training
    assert not any(module.training for module in method.teacher.modules())
    assert not any(p.requires_grad for p in method.teacher.parameters())
    before = {key: value.clone() for key, value in method.teacher.state_dict().items()}
    images = torch.randn(4, 3, 32, 32)
    assert torch.equal(method.teacher(images), method.teacher(images))  # no dropout
    assert not method.teacher(images).requires_grad
    method.student(images).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in method.teacher.state_dict().items())


def test_checkpoints_leave_the_teacher_out(tmp_path):
    class FourByFour(Taught):
        def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
            return super().forward(images.repeat(1, 1, 16, 16), targets, indices, epoch)

    student = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    student(torch.zeros(1, 3, 2, 2))
    method = Taught(student, nn.Sequential(nn.Flatten(), nn.Linear(12, 3)))
    trainer(tmp_path, method, epochs=1).fit(run_directory(tmp_path))
    content = checkpoint(tmp_path / "last")
    assert set(content["training"]["weights"]) == {"student.1.weight", "student.1.bias"}
    assert set(content["state_dict"]) == {"1.weight", "1.bias"}


# ----------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("wrapping", ["state_dict", "model", None])
def test_published_wrappings_are_read(wrapping, prefix, tmp_path):
    network, other = (create_model("cnn", 10, family="tfkd", num_channels=4) for _ in range(2))
    weights = {f"{prefix}{key}": value for key, value in network.state_dict().items()}
    content = {wrapping: weights, "epoch": 3, "best_acc": 70.0} if wrapping else weights
    torch.save(content, tmp_path / "file.pth")
    read = load_weights(other, tmp_path / "file.pth", "cnn")
    assert read.get("epoch") == (3 if wrapping else None)
    for key, value in network.state_dict().items():
        assert torch.equal(other.state_dict()[key], value)


def test_files_of_old_pytorch_do_not_count_batches(tmp_path):
    network, other = (create_model("cnn", 10, family="tfkd", num_channels=4) for _ in range(2))
    weights = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save({"state_dict": weights}, tmp_path / "file.pth", _use_new_zipfile_serialization=False)
    load_weights(other, tmp_path / "file.pth", "cnn")
    assert torch.equal(other.fc2.weight, network.fc2.weight)


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path):
    save_checkpoint({"epoch": 1}, tmp_path / "last")

    class Unpicklable:
        def __reduce__(self):
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        save_checkpoint({"epoch": Unpicklable()}, tmp_path / "last")
    with pytest.raises(UserError, match="cannot write"):
        save_checkpoint({"epoch": 2}, tmp_path / "last" / "below a file")
    assert checkpoint(tmp_path / "last") == {"epoch": 1}
    assert [f.name for f in tmp_path.iterdir()] == ["last"]


# ----------------------------------------------------------------------------------------------------- directories


def test_a_directory_is_free_again_when_its_run_ends(tmp_path):
    first = run_directory(tmp_path)
    with pytest.raises(UserError, match="another run is writing to"):
        run_directory(tmp_path)
    first.close("stopped")
    assert record(tmp_path)["status"] == "stopped"
    run_directory(tmp_path).close("done")
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "done"


def test_unequal_shares_count_by_their_samples(tmp_path):
    """What a process adds to the mean gradient: its loss times its share of the batch."""
    training = trainer(tmp_path, runtime=Runtime(torch.device("cpu"), rank=0, world_size=1))
    (batch,) = batches(batch_size=20).epoch()
    training.step.optimizer.zero_grad()
    training.step(Batch(batch.images[:5], batch.targets[:5], batch.indices[:5], 20), 0, 1)
    share = [p.grad.clone() for p in training.method.parameters()]
    reference = Linear()
    sum(reference(batch.images[:5], batch.targets[:5], batch.indices[:5], 0).losses.values()).backward()
    for ours, theirs in zip(share, reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs.grad * 5 / 20)


# ------------------------------------------------------------------------------------- what a method may do besides


class Sides(Linear):
    """Trains one more parameter by itself after each step, and reports two figures."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, int, int]] = []

    def trainable_parameters(self) -> list[nn.Parameter]:
        return list(self.student.parameters())

    def after_step(self, epoch: int, iteration: int, iterations: int) -> None:
        self.seen.append((epoch, iteration, iterations))
        with torch.no_grad():
            self.own += 1

    def epoch_metrics(self) -> dict[str, Tensor]:
        return {"own": self.own, "twice": 2 * self.own}

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": len(self.seen)}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls_before = state["calls"]


def test_what_a_method_trains_by_itself(tmp_path):
    method = Sides()
    training = trainer(tmp_path, method, epochs=2)
    training.fit(run_directory(tmp_path))
    assert method.seen == [(epoch, i, 4) for epoch in (0, 1) for i in range(4)]
    assert [(line["train/own"], line["train/twice"]) for line in metrics(tmp_path)] == [(4, 8), (8, 16)]
    assert len(training.step.optimizer.param_groups[0]["params"]) == 2
    again = trainer(tmp_path, Sides(), epochs=3)
    assert again.resume()
    assert (again.method.own.item(), again.method.calls_before) == (8, 8)


def test_gradients_of_several_batches_are_summed(tmp_path):
    """Two updates in an epoch of four batches, three a time: after the third, and with what is left after the last."""
    training = trainer(tmp_path, make_optimizer=lambda p: torch.optim.SGD(p, 0.1), accumulation_steps=3)
    reference = Linear()
    optimizer = torch.optim.SGD(reference.parameters(), 0.1)
    for i, batch in enumerate(batches(shuffle=True).epoch(0)):
        sum(reference(batch.images, batch.targets, batch.indices, 0).losses.values()).backward()
        if i in (2, 3):
            optimizer.step()
            optimizer.zero_grad()
    training.train_epoch(0, show_progress=False)
    for ours, theirs in zip(training.method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


# ------------------------------------------------------------------------------------------- without a test set


class Judged(Linear):
    """Its evaluation loss is what a list says, one value an epoch."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.losses = iter(losses)

    def evaluation_loss(self, images: Tensor, logits: Tensor, targets: Tensor) -> Tensor:
        assert images.shape[0] == logits.shape[0] == len(targets)
        return torch.full((), next(self.losses)) * len(targets)


def test_without_a_test_set_the_validation_loss_chooses(tmp_path):
    """The method's own loss, the earliest of equals; the record's accuracy is what is measured after training."""
    losses, is_best = [3.0, 1.0, 2.0, 1.0], []
    whole = batches(batch_size=20)
    training = trainer(
        tmp_path,
        Judged(losses),
        epochs=4,
        test=None,
        validation=whole,
        files=CheckpointFiles(tmp_path / "last", None),
    )
    chosen = training.fit(
        run_directory(tmp_path),
        after_save=lambda figures, best: is_best.append((figures["loss"], best)),
        after_training=lambda: {"accuracy": {"last": 12.0, "best": 34.0}},
    )
    assert is_best == list(zip(losses, [True, True, False, False], strict=True))
    lines = metrics(tmp_path)
    assert [line["validation/loss"] for line in lines] == losses
    assert not [key for line in lines for key in line if key.startswith("test/")]
    assert (chosen.best_epoch, chosen.best_loss) == (1, 1.0)
    assert (chosen.best, chosen.last) == tuple(lines[i]["validation/accuracy"] for i in (1, 3))
    run = record(tmp_path)
    assert run["accuracy"] == {"last": 12.0, "best": 34.0}
    assert run["validation"] == {"last": chosen.last, "best": chosen.best, "best_epoch": 1, "best_loss": 1.0}
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} >= {"last", "run.json", "metrics.jsonl"}
    assert not (tmp_path / "best").exists()

    again = trainer(tmp_path, epochs=4, test=None, validation=whole, files=CheckpointFiles(tmp_path / "last", None))
    assert again.resume()
    assert again.state.selection == chosen


def test_there_is_a_split_to_evaluate_on(tmp_path):
    with pytest.raises(ValueError, match="a test or a validation split"):
        trainer(tmp_path, test=None)


def test_a_validation_loss_that_is_not_finite_stops_training(tmp_path):
    training = trainer(tmp_path, Judged([1.0, math.nan]), test=None, validation=batches(batch_size=20))
    with pytest.raises(TrainingError, match="the validation loss is not finite after epoch 2"):
        training.fit(run_directory(tmp_path), after_training=lambda: pytest.fail("not finished"))
    assert (record(tmp_path)["status"], record(tmp_path)["accuracy"]) == ("failed", None)


@pytest.mark.slow
def test_a_signal_while_tensorboard_is_written_to_does_not_hold_up_the_end(tmp_path):
    """Ctrl-C can come when the writing thread is no longer among those to be woken, and is not awake yet."""
    run = run_directory(tmp_path)
    run.log_scalars({"a": 1.0}, 0)
    queue = run._events.file_writer.event_writer._async_writer._byte_queue
    while not queue.not_empty._waiters:
        time.sleep(0.01)
    with queue.not_empty:
        queue.not_empty._waiters.clear()
    closing = threading.Thread(target=run.close, args=("stopped",), daemon=True)
    closing.start()
    closing.join(60)
    assert not closing.is_alive()
    assert record(tmp_path)["status"] == "stopped"
