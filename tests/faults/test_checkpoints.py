"""Checkpoints are not trusted: what a run would not have written is neither resumed nor a teacher."""

import copy
import math
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.training.checkpoints import load_checkpoint, load_weights
from common.training.engine import Trainer
from common.training.method import FrozenTeacher, Method, StepOutput
from common.training.run_training import messages_on_best
from edkd.engine.dot import DOT
from tests.processes import lose_checkpoint
from tests.training.test_engine import batches, run_directory, trainer

OPTIMIZERS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=1e-3),
    "plain SGD": lambda parameters: torch.optim.SGD(parameters, 0.1),
    "Adam": lambda parameters: torch.optim.Adam(parameters, 0.01),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, 0.01),
    "DOT": lambda parameters: DOT(parameters, 0.1, 0.8, 0.9),
}


class Taught(Method):
    """A small network with batch norm, a teacher, a layer that is never used, and a mask that is meant to be infinite.

    What it learns by itself is no tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        self.teacher = FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), foldable=False)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))
        self.epochs_seen = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"epochs_seen": self.epochs_seen}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.epochs_seen = state["epochs_seen"]

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        self.epochs_seen = epoch + 1
        logits = self.student(images)
        losses = {"label": F.cross_entropy(logits, targets), "teacher": F.mse_loss(logits, self.teacher(images))}
        return StepOutput(logits, losses)


def built(directory: Path, optimizer: str = "SGD", epochs: int = 3, **options) -> Trainer:
    return trainer(directory, Taught(), epochs, make_optimizer=OPTIMIZERS[optimizer], **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Any]:
    """The checkpoint of two epochs of three, and the directory of the run."""
    directory = tmp_path_factory.mktemp("run")
    training = built(directory, validation=batches(count=8))
    training.epochs = 2
    training.fit(run_directory(directory))
    return load_checkpoint(directory / "last")


def resumed(content: dict[str, Any], directory: Path, **options) -> Trainer:
    torch.save(content, directory / "last")
    training = built(directory, **{"validation": batches(count=8), **options})
    before = copy.deepcopy(training.method.state_dict())
    try:
        assert training.resume()
    except UserError:
        for name, value in training.method.state_dict().items():
            assert not isinstance(value, Tensor) or torch.equal(value, before[name])
        assert (training.state.epochs_done, training.state.history) == (0, [])
        raise
    return training


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_a_run_has_written_is_resumed(kind, tmp_path):
    training = built(tmp_path, kind)
    training.epochs = 2
    training.fit(run_directory(tmp_path))
    again = built(tmp_path, kind)
    assert again.resume()
    assert again.state.epochs_done == again.method.epochs_seen == 2
    for ours, theirs in zip(again.method.parameters(), training.method.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert again.state.selection == training.state.selection


def test_the_checkpoint_that_is_damaged_below_is_resumed_as_it_is(written, tmp_path):
    assert resumed(written, tmp_path).state.epochs_done == 2


# -------------------------------------------------------------------------------------------------------- content

WEIGHT = "student.1.weight"


def weights(content: dict) -> dict[str, Any]:
    return content["training"]["weights"]


def state(content: dict) -> dict[str, Any]:
    return content["optim_dict"]["state"]


def renamed(owner: dict[str, Any], name: str) -> None:
    owner[f"{name}x"] = owner.pop(name)


def changed(owner: dict | list, key: Any, change: Callable[[Any], Any]) -> None:
    owner[key] = change(owner[key])


def one(tensor: Tensor, value: float) -> Tensor:
    tensor.view(-1)[0] = value
    return tensor


# what is done to a checkpoint -> what the message says
CONTENT: dict[str, tuple[Callable[[dict], Any], str]] = {
    "epoch beyond the run": (lambda c: c.update(epoch=1000), "says that 1000 of 3 epochs are finished"),
    "epoch zero": (lambda c: c.update(epoch=0), "says that 0 of 3"),
    "negative epoch": (lambda c: c.update(epoch=-1), "says that -1 of 3"),
    "epoch that is a float": (lambda c: c.update(epoch=2.0), "says that 2.0 of 3"),
    "epoch that is a truth value": (lambda c: c.update(epoch=True), "says that True of 3"),
    "an epoch ahead": (lambda c: c.update(epoch=3), "history does not have 3 epochs"),
    "an epoch behind": (lambda c: c.update(epoch=1), "history does not have 1 epochs"),
    "surplus key": (lambda c: c.update(more=1), "'checkpoint' has 'more'"),
    "missing key": (lambda c: c.pop("state_dict"), "'checkpoint' lacks 'state_dict'"),
    "no weights": (lambda c: c["training"].update(weights={}), "lacks"),
    "renamed weights": (lambda c: c["training"].update(weight=c["training"].pop("weights")), "'training' lacks"),
    "a renamed weight": (lambda c: renamed(weights(c), WEIGHT), f"lacks '{WEIGHT}'"),
    "a weight too few": (lambda c: weights(c).pop(WEIGHT), f"lacks '{WEIGHT}'"),
    "a weight too many": (lambda c: weights(c).update(more=torch.zeros(1)), "has 'more'"),
    "a teacher's weight": (lambda c: weights(c).update({"teacher.network.1.bias": torch.zeros(3)}), "has 'teacher"),
    "another shape": (lambda c: changed(weights(c), WEIGHT, lambda w: w[:1]), r"is \[1, 12\], not \[4, 12\]"),
    "another dtype": (lambda c: changed(weights(c), WEIGHT, Tensor.double), "is of torch.float64, not torch.float32"),
    "half precision": (lambda c: changed(weights(c), WEIGHT, Tensor.half), "is of torch.float16, not torch.float32"),
    "integers": (lambda c: changed(weights(c), WEIGHT, Tensor.int), "is of torch.int32, not torch.float32"),
    "complex numbers": (lambda c: changed(weights(c), WEIGHT, lambda w: w + 0j), "torch.complex64"),
    "sparse": (lambda c: changed(weights(c), WEIGHT, Tensor.to_sparse), "is not a dense tensor"),
    "no tensor": (lambda c: changed(weights(c), WEIGHT, Tensor.tolist), "is not a dense tensor"),
    "nan": (lambda c: changed(weights(c), WEIGHT, lambda w: one(w, math.nan)), f"{WEIGHT}' is not finite"),
    "inf": (lambda c: changed(weights(c), WEIGHT, lambda w: one(w, math.inf)), f"{WEIGHT}' is not finite"),
    "nan in the student alone": (
        lambda c: changed(c["state_dict"], "1.weight", lambda w: one(w.clone(), math.nan)),
        "'state_dict.1.weight' is not finite",
    ),
    "no optimizer": (lambda c: c.update(optim_dict={}), "'optimizer' lacks 'state'"),
    "no momentum": (lambda c: c["optim_dict"].update(state={}), "'optimizer.0' is missing"),
    "one momentum too few": (lambda c: state(c).pop(1), "'optimizer.1' is missing"),
    "an empty momentum": (lambda c: state(c).update({1: {}}), "'optimizer.1' is missing"),
    "renamed momentum": (lambda c: renamed(state(c)[1], "momentum_buffer"), "'optimizer.1' lacks 'momentum_buffer'"),
    "momentum of a stranger": (lambda c: state(c).update({99: state(c)[1]}), "is not by parameter"),
    "momentum of another shape": (
        lambda c: changed(state(c)[0], "momentum_buffer", lambda m: m[:1]),
        r"is \[1, 12\], not \[4, 12\]",
    ),
    "momentum of another dtype": (
        lambda c: changed(state(c)[0], "momentum_buffer", Tensor.half),
        "is of torch.float16",
    ),
    "no momentum but None": (lambda c: state(c)[0].update(momentum_buffer=None), "is not a dense tensor"),
    "nan as momentum": (
        lambda c: changed(state(c)[0], "momentum_buffer", lambda m: one(m, math.nan)),
        "'optimizer.0.momentum_buffer' is not finite",
    ),
    "another weight decay": (
        lambda c: c["optim_dict"]["param_groups"][0].update(weight_decay=0.5),
        "the optimizer's weight_decay is 0.5, not 0.001",
    ),
    "another kind of option": (
        lambda c: c["optim_dict"]["param_groups"][0].update(momentum="0.9"),
        "the optimizer's momentum is '0.9', not 0.9",
    ),
    "a group too many": (lambda c: c["optim_dict"]["param_groups"].append({"params": []}), "other groups"),
    "permuted parameters": (lambda c: c["optim_dict"]["param_groups"][0]["params"].reverse(), "other parameters"),
    "a better accuracy": (lambda c: c["training"]["accuracies"].update(best=99.0), "not those of its history"),
    "nan as accuracy": (lambda c: c["training"]["accuracies"].update(best=math.nan), "not those of its history"),
    "another best epoch": (lambda c: c["training"]["accuracies"].update(best_epoch=7), "not those of its history"),
    "renamed accuracies": (lambda c: renamed(c["training"]["accuracies"], "best"), "not those of its history"),
    "no history": (lambda c: c["training"].update(history=[]), "does not have 2 epochs"),
    "history in another order": (lambda c: c["training"]["history"].reverse(), "lacks a figure of epoch 1"),
    "history of no lines": (lambda c: c["training"].update(history=[None, None]), "lacks a figure of epoch 1"),
    "history without a figure": (
        lambda c: c["training"]["history"][1].pop("test/accuracy"),
        "lacks a figure of epoch 2",
    ),
    "history without validation": (
        lambda c: [line.pop("validation/accuracy") for line in c["training"]["history"]],
        "lacks a figure",
    ),
    "nan in the history": (
        lambda c: c["training"]["history"][1].update({"train/loss": math.nan}),
        "says that train/loss was nan in epoch 2",
    ),
    "an accuracy beyond all": (
        lambda c: c["training"]["history"][0].update({"test/accuracy": 101.0}),
        "says that test/accuracy was 101.0 in epoch 1",
    ),
    "text in the history": (
        lambda c: c["training"]["history"][0].update({"learning_rate": "0.1"}),
        "says that learning_rate was '0.1'",
    ),
    "negative seconds": (lambda c: c["training"].update(seconds=-1.0), "says that -1.0 seconds"),
    "endless seconds": (lambda c: c["training"].update(seconds=math.inf), "says that inf seconds"),
    "a loss scale from nowhere": (lambda c: c["training"].update(scaler={"scale": 1.0}), "'scaler' has 'scale'"),
}


@pytest.mark.parametrize("case", CONTENT)
def test_other_content_is_not_resumed(case, written, tmp_path):
    content = copy.deepcopy(written)
    change, message = CONTENT[case]
    change(content)
    with pytest.raises(UserError, match=message) as refused:
        resumed(content, tmp_path)
    assert "was not written here and cannot be resumed exactly" in str(refused.value)


def test_other_state_of_dot_is_not_resumed(tmp_path):
    training = built(tmp_path, "DOT", epochs=1)
    training.fit(run_directory(tmp_path))
    content = load_checkpoint(tmp_path / "last")
    renamed(state(content)[0], "task")
    torch.save(content, tmp_path / "last")
    with pytest.raises(UserError, match="cannot be resumed exactly"):
        built(tmp_path, "DOT", epochs=1).resume()


# ------------------------------------------------------------------------------------------------ the best epoch's

# what is done to the checkpoint of the best epoch -> what the message says
BEST: dict[str, tuple[Callable[[dict], Any], str]] = {
    "no weights": (lambda c: c["training"].update(weights={}), "'training.weights' lacks"),
    "weights that are a list": (lambda c: c["training"].update(weights=[1]), "'training.weights' is a list"),
    "weights that are a number": (lambda c: c["training"].update(weights=1), "has written"),
    "a renamed weight": (lambda c: renamed(weights(c), WEIGHT), f"lacks '{WEIGHT}'"),
    "another width": (lambda c: changed(weights(c), WEIGHT, lambda w: w[:1]), r"is \[1, 12\], not \[4, 12\]"),
    "nan": (lambda c: changed(weights(c), WEIGHT, lambda w: one(w.clone(), math.nan)), f"{WEIGHT}' is not finite"),
    "training that is a list": (lambda c: c.update(training=[1]), "has written"),
    "no training": (lambda c: c.pop("training"), "has written"),
    "bare weights": (lambda c: [c.pop(key) for key in list(c) if key != "state_dict"], "has written"),
    "no settings": (lambda c: c["training"].pop("settings"), "has written"),
    "settings that are a list": (lambda c: c["training"].update(settings=[1]), "has written"),
    "another run's": (lambda c: c["training"]["settings"].update(a=2), "belongs to a run with a = 2, not with a = 1"),
    "another epoch's": (lambda c: c.update(epoch=c["epoch"] + 7), "it is of epoch"),
    "no epoch": (lambda c: c.pop("epoch"), "has written"),
}


def bare(content: dict) -> dict:
    """The student's weights, as a script writes them that keeps the best epoch's itself."""
    return {name.removeprefix("student."): value for name, value in weights(content).items() if "student." in name}


# the same of a file with the student's weights alone
BARE: dict[str, tuple[Callable[[dict], Any], str]] = {
    "empty": (lambda c: c.clear(), "'checkpoint' lacks"),
    "a renamed weight": (lambda c: renamed(c, "1.weight"), "'checkpoint' lacks '1.weight'"),
    "another width": (lambda c: changed(c, "1.weight", lambda w: w[:1]), r"is \[1, 12\], not \[4, 12\]"),
    "nan": (lambda c: changed(c, "1.weight", lambda w: one(w.clone(), math.nan)), "'checkpoint.1.weight' is not"),
    "no tensor": (lambda c: changed(c, "1.weight", Tensor.tolist), "is not a dense tensor"),
    "training that is a list": (lambda c: c.update(training=[1]), "'checkpoint' has 'training'"),
}


@pytest.mark.parametrize(("kind", "case"), [*(("whole", c) for c in BEST), *(("bare", c) for c in BARE)])
def test_another_checkpoint_of_the_best_epoch_is_not_used(kind, case, tmp_path):
    training = built(tmp_path)
    training.fit(run_directory(tmp_path))
    file = tmp_path / ("best" if kind == "whole" else "student_best")
    content = load_checkpoint(tmp_path / "best")
    if kind == "bare":
        content = bare(content)
    torch.save(content, file)
    with training.state.weights_from(file):
        pass
    change, message = (BEST if kind == "whole" else BARE)[case]
    change(content)
    torch.save(content, file)
    before = copy.deepcopy(training.method.state_dict())
    with pytest.raises(UserError, match=message), training.state.weights_from(file):
        pass
    assert same(before, training.method.state_dict())


class Measured:
    """An evaluation that comes to given accuracies."""

    execution = "eager"

    def __init__(self, evaluation: Callable[[], dict[str, float]], accuracies: Iterator[float]) -> None:
        self.evaluation, self.accuracies = evaluation, accuracies

    def __call__(self) -> dict[str, float]:
        return {**self.evaluation(), "accuracy": next(self.accuracies)}


def with_accuracies(directory: Path, *accuracies: float) -> Trainer:
    training = built(directory, epochs=4)
    training._evaluations["test"] = Measured(training._evaluations["test"], iter(accuracies))
    return training


@pytest.mark.parametrize("by", ["absent", "half of it", "of another run"])
def test_a_lost_checkpoint_of_the_best_epoch_is_said(by, tmp_path):
    training, best = with_accuracies(tmp_path, 50.0, 10.0), tmp_path / "best"
    training.epochs = 2
    training.fit(run_directory(tmp_path))
    assert messages_on_best(best, training.state) == []
    lose_checkpoint(best, by, "a")
    (said,) = messages_on_best(best, training.state)
    assert said.startswith("warning: ")
    assert "the network of the best epoch, 1, is lost unless a later" in said


@pytest.mark.parametrize("then", ["better", "worse"])
@pytest.mark.parametrize("killed", ["before its last", "before its copies", "after its copies"])
def test_a_kill_beside_the_writing_of_the_best_epoch(killed, then, tmp_path):
    """The best epoch's network survives it also where the epoch, repeated on a GPU, comes out otherwise."""

    def stop(*_: Any) -> None:
        if first.state.history[-1]["epoch"] == 1:
            raise KeyboardInterrupt

    first = with_accuracies(tmp_path, 10.0, 50.0)
    moments = {
        "before its last": {"after_epoch": stop},
        "before its copies": {},
        "after its copies": {"after_save": stop},
    }
    if killed == "before its copies":
        write = first.state.save_copies
        first.state.save_copies = lambda: (stop(), write())
    with pytest.raises(KeyboardInterrupt):
        first.fit(run_directory(tmp_path), **moments[killed])

    repeated = [30.0 if then == "better" else 5.0] if killed == "before its last" else []
    again = with_accuracies(tmp_path, *repeated, 20.0, 20.0)
    assert again.resume()
    again.fit(run_directory(tmp_path))
    best = 1 if repeated != [5.0] else 3
    assert again.state.selection.best_epoch == best
    with again.state.weights_from(tmp_path / "best"):
        pass
    assert (load_checkpoint(tmp_path / "best")["epoch"], load_checkpoint(tmp_path / "second")["epoch"]) == (best + 1, 2)


# ---------------------------------------------------------------------------------------------------------- bits


def same(ours: Any, theirs: Any) -> bool:
    """Whether two contents are equal, NaN to NaN."""
    if isinstance(ours, Tensor):
        return isinstance(theirs, Tensor) and ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and list(ours) == list(theirs) and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs and type(ours) is type(theirs)


@pytest.mark.parametrize("place", ["anywhere", "in a record's content"])
def test_a_flipped_bit_is_refused_or_changes_nothing(place, written, tmp_path):
    written = {**written, "state_dict": {**written["state_dict"], "mask": torch.zeros(3)}}
    file = tmp_path / "whole"
    torch.save(written, file)
    whole, draws, refusals = file.read_bytes(), random.Random(place), 0
    with zipfile.ZipFile(file) as archive:
        biggest = max(archive.infolist(), key=lambda info: info.file_size)
    begin = biggest.header_offset + 30 + len(biggest.filename)
    places = range(len(whole)) if place == "anywhere" else range(begin + 64, begin + biggest.file_size)
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[draws.choice(places)] ^= 1 << draws.randrange(8)
        file.write_bytes(damaged)
        try:
            assert same(load_checkpoint(file), written)
        except UserError:
            refusals += 1
    assert refusals == 150 if place != "anywhere" else refusals > 50


def test_without_the_checksums_such_bits_would_be_read(written, tmp_path):
    """The control: PyTorch itself does not look."""
    file = tmp_path / "whole"
    torch.save({"weight": torch.arange(1000.0)}, file)
    content = bytearray(file.read_bytes())
    at = content.index(torch.arange(1000.0).numpy().tobytes()[:400])
    content[at + 40] ^= 4
    file.write_bytes(content)
    assert not torch.equal(torch.load(file, weights_only=True)["weight"], torch.arange(1000.0))
    with pytest.raises(UserError, match="has changed since it was written: whole/data/0 in it does not agree"):
        load_checkpoint(file)


def test_files_of_the_old_format_are_read(tmp_path):
    """They have no checksums."""
    torch.save({"weight": torch.ones(2)}, tmp_path / "old", _use_new_zipfile_serialization=False)
    assert torch.equal(load_checkpoint(tmp_path / "old")["weight"], torch.ones(2))


# ------------------------------------------------------------------------------------------------------- teachers


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def with_(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict], dict]:
    return lambda state: {**state, name: change(state[name])}


TEACHERS: dict[str, tuple[Callable[[dict], dict], str]] = {
    "nan": (with_("0.weight", lambda w: w * math.nan), "'0.weight' holds numbers that are not finite"),
    "inf": (with_("1.running_mean", lambda w: w + math.inf), "'1.running_mean' holds numbers that are not finite"),
    "too large for its precision": (
        with_("0.bias", lambda w: w.double() + 1e300),
        "'0.bias' holds numbers that are not",
    ),
    "a negative variance": (with_("1.running_var", lambda w: -w), "'1.running_var' holds numbers that .* cannot be"),
    "complex": (with_("0.weight", lambda w: w + 1j), "'0.weight' is a tensor of torch.complex64"),
    "integers": (with_("0.weight", Tensor.int), "'0.weight' is a tensor of torch.int32"),
    "truth values": (with_("0.weight", Tensor.bool), "'0.weight' is a tensor of torch.bool"),
    "sparse": (with_("0.weight", Tensor.to_sparse), "'0.weight' is a tensor of torch.float32, torch.sparse_coo"),
    "meta": (
        with_("0.weight", lambda w: w.to("meta")),
        "'0.weight' is a tensor of torch.float32, torch.strided, on meta",
    ),
    "nested": (
        with_("0.weight", lambda w: torch.nested.nested_tensor([w[0], w[1]])),
        "'0.weight' is a tensor of",
    ),
    "quantized": (with_("0.weight", lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8)), "'0.weight' is a"),
    "a fractional count": (with_("1.num_batches_tracked", Tensor.float), "'1.num_batches_tracked' is a tensor of"),
    "one name twice": (lambda s: {**s, "module.0.bias": s["0.bias"]}, "holds some weights twice"),
    "of two networks": (
        lambda s: {"net": s, "state_dict": s},
        "holds weights under 'state_dict' and 'net': keep those",
    ),
    "as a list": (lambda s: {"state_dict": list(s.items())}, "holds no weights"),
    "beside a number": (lambda s: {**s, "epoch": 3}, "holds no weights"),
    "a weight too few": (lambda s: {k: v for k, v in s.items() if k != "0.bias"}, "lacks '0.bias'"),
    "a weight too many": (lambda s: {**s, "2.num_batches_tracked": torch.tensor(0)}, "has '2.num_batches_tracked'"),
}


@pytest.mark.parametrize("case", TEACHERS)
def test_such_weights_teach_nobody(case, tmp_path):
    change, message = TEACHERS[case]
    torch.save({"model": change(network().state_dict())}, tmp_path / "teacher.pth")
    student = network()
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(UserError, match=message):
        load_weights(student, tmp_path / "teacher.pth", "teacher")
    assert same(dict(student.state_dict()), dict(before))


GOOD_TEACHERS: dict[str, Callable[[dict], dict]] = {
    "bare": dict,
    "as net": lambda s: {"net": s, "acc": 70.0, "epoch": 3},
    "as model_state_dict": lambda s: {"model_state_dict": s, "optimizer_state_dict": {}},
    "as model within state_dict": lambda s: {"state_dict": {"model": s}},
    "compiled": lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
    "compiled within data parallelism": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "data parallelism of what is compiled": lambda s: {f"_orig_mod.module.{k}": v for k, v in s.items()},
    "Lightning's": lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "pytorch-lightning_version": "2"},
    "Lightning's, compiled": lambda s: {"state_dict": {f"model._orig_mod.{k}": v for k, v in s.items()}},
    "Lightning's, of data parallelism": lambda s: {"state_dict": {f"model.module.{k}": v for k, v in s.items()}},
    "Lightning's net": lambda s: {"state_dict": {f"net.{k}": v for k, v in s.items()}},
    "data parallelism twice": lambda s: {f"module.module.{k}": v for k, v in s.items()},
    "sharded": lambda s: {f"_fsdp_wrapped_module.{k}": v for k, v in s.items()},
    "with activations computed again": lambda s: {f"_checkpoint_wrapped_module.{k}": v for k, v in s.items()},
    "of data parallelism": lambda s: {f"module.{k}": v for k, v in s.items()},
    "of PyTorch before 0.4.1": lambda s: {k: v for k, v in s.items() if "tracked" not in k},
    "in double precision": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
    "in half precision": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("case", GOOD_TEACHERS)
def test_such_weights_are_taken(case, tmp_path):
    torch.save(GOOD_TEACHERS[case](network().state_dict()), tmp_path / "teacher.pth")
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    load_weights(student, tmp_path / "teacher.pth", "teacher")
    torch.testing.assert_close(student[0].weight, network()[0].weight, rtol=1e-3, atol=1e-3)
