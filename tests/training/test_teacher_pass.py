"""Remembered teachers' logits: the same weights to the bit, and only where that is safe."""

import functools
import os
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common.data import Augmentation, Dataset, DeviceLoader, ImageArrays, Normalization, RandAugment
from common.models import create_model
from common.own_code import load_class
from common.teacher_cache.rows import RowFile
from common.training.checkpoints import CheckpointFiles
from common.training.engine import Loaders, Trainer
from common.training.method import FrozenTeacher, Method
from common.training.remember_teachers import remember_teachers
from common.training.runtime import Runtime
from common.training.schedules import step_decay
from common.training.teacher_memory import LazyFeatures
from common.training.training_step import Optimization
from edkd.distillers._base import Distiller, student_view, teacher_view
from edkd.engine.method import Distillation as Adapted
from edkd.engine.method import build_method, make_distiller
from tests.edkd.checks import SMALL, configuration
from tests.processes import differences
from tfkd.methods import Distillation

CLASSES = 10
CROPS, TURNED = Augmentation(padding=4, flip=True), Augmentation(padding=4, flip=True, rotation=15)
NORMALIZATION = Normalization((0.5,) * 3, (0.25,) * 3)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 32, 32, 3), np.uint8)


@pytest.fixture
def data(pixels, tmp_path) -> Dataset:
    images = ImageArrays(pixels, np.arange(len(pixels)) % CLASSES)
    return Dataset("noise", images, images, tuple(map(str, range(CLASSES))), "noise", "f", root=tmp_path / "data")


def loader_of(data: Dataset, augmentation: Augmentation = CROPS, **options) -> DeviceLoader:
    """90 images in batches of 32: the last has 26."""
    options = {"batch_size": 32, "shuffle": True, "seed": 3, **options}
    batch_size = options.pop("batch_size")
    return DeviceLoader(
        data.train, batch_size, Normalization((0.5,) * 3, (0.25,) * 3), augmentation=augmentation, **options
    )


def distillation(kind: str = "EDKD") -> Method:
    torch.manual_seed(0)
    cfg, targets = configuration(kind, SMALL.get(kind)), torch.arange(90) % CLASSES
    distiller = make_distiller(cfg, create_model("resnet8", CLASSES), create_model("resnet8", CLASSES), len(targets))
    return build_method(cfg, distiller, targets)


def tfkd() -> Method:
    torch.manual_seed(0)
    networks = create_model("resnet8", CLASSES), create_model("resnet8", CLASSES)
    return Distillation(*networks, alpha=0.9, temperature=20.0)


def trainer_of(method: Method, loader: DeviceLoader, runtime: Runtime, place: Path, epochs: int = 2) -> Trainer:
    return Trainer(
        method,
        Optimization(
            lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4),
            step_decay(0.05, (1,), 0.1),
            epochs,
        ),
        Loaders(loader, loader),
        runtime,
        CheckpointFiles(place / "last", None),
        {},
    )


def train(data: Dataset, place: Path, cache: str = "auto", method=distillation, augmentation=CROPS, **options):
    """The trainer after two epochs, and its weights."""
    runtime = Runtime(CPU, teacher_cache=cache)
    trainer = trainer_of(method(), loader_of(data, augmentation, **options), runtime, place)
    remember_teachers(trainer, data)
    for epoch in range(2):
        trainer.train_epoch(epoch, show_progress=False)
    return trainer, trainer.method.student.state_dict()


def counts(trainer: Trainer) -> tuple[int, int]:
    summary = trainer.execution()["teacher_logits"]
    return summary["from_cache"], summary["computed_ahead"]


def the_file(data: Dataset) -> Path:
    (file,) = (data.root / ".cache/teachers").glob("*.rows")
    return file


# ------------------------------------------------------------------------------------------------------------ exactness


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EDKD", "KD", "DKD"])
def test_weights_are_the_same_without_with_an_empty_a_half_filled_and_a_filled_file(kind, data, tmp_path):
    run = functools.partial(train, data, tmp_path, method=functools.partial(distillation, kind))
    plain, want = run("off")
    assert plain.step.teacher_pass is None
    empty, weights = run()
    assert not differences(weights, want)
    taken, computed = counts(empty)
    assert taken + computed == 180
    assert taken < 10  # views that both epochs drew

    filled, weights = run()
    assert not differences(weights, want)
    assert counts(filled) == (180, 0)

    file = RowFile(the_file(data))
    there, damaged = file.written()
    assert len(there) == computed
    assert not len(damaged)
    content = bytearray(the_file(data).read_bytes())
    place = 4096 + (file.row_bytes + 8) * there[::2]
    for position in place:
        content[position] ^= 255  # damaged rows are computed again
    the_file(data).write_bytes(content)
    half, weights = run()
    assert not differences(weights, want)
    assert counts(half)[1] == len(there[::2])
    assert counts(run()[0]) == (180, 0)  # which mended the file


@pytest.mark.slow
def test_nothing_is_computed_where_the_file_has_it(data, tmp_path, monkeypatch):
    train(data, tmp_path)
    runtime = Runtime(CPU)
    trainer = trainer_of(distillation(), loader_of(data), runtime, tmp_path)
    remember_teachers(trainer, data)
    monkeypatch.setattr(type(trainer.method.distiller.teacher.network), "forward", None)
    trainer.train_epoch(0, show_progress=False)
    trainer.train_epoch(1, show_progress=False)


def test_what_another_run_has_done_meanwhile_is_taken_from_the_file(data, tmp_path, monkeypatch):
    """The other one, of the same seed, does its whole pass while this one computes its first batch."""
    _, want = train(data, tmp_path, "off")
    one, other = (trainer_of(distillation(), loader_of(data), Runtime(CPU), tmp_path) for _ in range(2))
    for trainer in (one, other):
        remember_teachers(trainer, data)
    write = RowFile.write

    def write_after_the_other(file: RowFile, *row: np.ndarray) -> None:
        monkeypatch.setattr(RowFile, "write", write)
        other.train_epoch(0, show_progress=False)
        write(file, *row)

    monkeypatch.setattr(RowFile, "write", write_after_the_other)
    one.train_epoch(0, show_progress=False)
    assert counts(one) in [(26, 64), (64, 26)], "64 images at a time, in an order of chance"
    assert counts(other) == (0, 90)
    for trainer in (one, other):
        trainer.train_epoch(1, show_progress=False)
        assert not differences(trainer.method.student.state_dict(), want)


def test_rotated_views_are_computed_ahead_and_not_kept(data, tmp_path):
    _, want = train(data, tmp_path, "off", tfkd, TURNED)
    trainer, weights = train(data, tmp_path, "auto", tfkd, TURNED)
    assert not differences(weights, want)
    assert counts(trainer) == (0, 180)
    assert not (data.root / ".cache").exists()


def test_short_epochs_compute_in_their_steps(data, tmp_path):
    """A pass would compute 64 images where an epoch has 32."""
    trainer, _ = train(data, tmp_path, limit=1)
    assert trainer.step.teacher_pass is None
    assert trainer.messages == ["teacher logits: computed in each step: an epoch has fewer images than a pass takes"]
    assert train(data, tmp_path, "on", limit=1)[0].step.teacher_pass is not None


def test_limited_epochs_and_other_seeds_and_splits_share_the_file(data, tmp_path):
    """A split has numbers of its own for its images; the file has those of the published set."""
    train(data, tmp_path, limit=2)
    assert len(RowFile(the_file(data)).written()[0]) <= 128
    rest = Dataset(**{**vars(data), "train": data.train.split(0.3)[0]})
    loader = loader_of(rest)
    runtime = Runtime(CPU)
    outcomes = []
    for cache in ("off", "auto"):
        trainer = trainer_of(distillation(), loader, Runtime(CPU, teacher_cache=cache), tmp_path)
        remember_teachers(trainer, data)
        trainer.train_epoch(0, show_progress=False)
        outcomes.append(trainer.method.student.state_dict())
    assert not differences(*outcomes)
    assert the_file(data)
    # the very rows that this split fills are those that the whole set reads
    whole = trainer_of(distillation(), loader_of(data), runtime, tmp_path)
    remember_teachers(whole, data)
    views, split_views = whole.loaders.train.views(0), loader.views(0)
    assert split_views.indices.max() < len(rest.train) < views.indices.max()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [(33, 75), (16, 40), (80, 90), (90, 90)])
def test_every_size_of_batches_and_of_the_last_one(sizes, data, tmp_path):
    batch_size, count = sizes
    images = data.train.take(np.arange(count))
    data = Dataset(**{**vars(data), "train": ImageArrays(images.pixels, images.targets)})
    _, want = train(data, tmp_path, "off", batch_size=batch_size)
    _, weights = train(data, tmp_path, batch_size=batch_size)
    assert not differences(weights, want)


@pytest.mark.slow
def test_batches_whose_bits_differ_are_computed_in_their_steps(data, tmp_path, monkeypatch):
    """As those of one or of seven images may on a CPU: here by a teacher that looks at the size."""

    class Sized(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images) * (1.5 if len(images) == 26 else 1)

    def method():
        method = tfkd()
        method.teacher = FrozenTeacher(Sized(method.teacher.network), foldable=False)
        return method

    _, want = train(data, tmp_path, "off", method)
    trainer, weights = train(data, tmp_path, "auto", method)
    assert not differences(weights, want)
    assert counts(trainer)[1] <= 2 * 64
    assert any("those of batches of 26 are computed in their steps" in message for message in trainer.messages)

    class Large(Sized):
        def forward(self, images):
            return self.network(images) * (1 if len(images) == 48 else 1.5)

    def other():
        method = tfkd()
        method.teacher = FrozenTeacher(Large(method.teacher.network), foldable=False)
        return method

    _, want = train(data, tmp_path, "off", other, batch_size=48)
    trainer, weights = train(data, tmp_path, "auto", other, batch_size=48)  # by batches of its own size
    assert not differences(weights, want)
    assert trainer.execution()["teacher_logits"]["batch"] == 48

    class Moody(Sized):
        def forward(self, images):
            return self.network(images) + torch.arange(len(images))[:, None]

    def moody():
        method = tfkd()
        method.teacher = FrozenTeacher(Moody(method.teacher.network), foldable=False)
        return method

    _, want = train(data, tmp_path, "off", moody)
    trainer, weights = train(data, tmp_path, "auto", moody)
    assert not differences(weights, want)
    assert trainer.step.teacher_pass is None
    (said,) = trainer.messages
    assert "they would differ by up to" in said
    trainer, _ = train(data, tmp_path, "on", moody)
    assert trainer.step.teacher_pass is not None
    assert any("warning: teacher logits ahead of the steps differ by up to" in m for m in trainer.messages)


# ------------------------------------------------------------------------------------------------------- who may use it


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["AT", "OFD", "SP", "REVIEWKD", "VID"])
def test_methods_that_read_features_do_not_use_it(kind, data, tmp_path):
    _, want = train(data, tmp_path, "off", functools.partial(distillation, kind))
    trainer, weights = train(data, tmp_path, "auto", functools.partial(distillation, kind))
    assert trainer.step.teacher_pass is None
    assert not trainer.messages
    assert not differences(weights, want)
    assert not (data.root / ".cache").exists()


def test_pairs_of_views_and_plain_and_compiled_steps_do_not_use_it(data, tmp_path):
    for runtime, options in (
        (Runtime(CPU), {"strong": RandAugment()}),
        (Runtime(CPU, plain=True), {}),
    ):
        trainer = trainer_of(distillation(), loader_of(data, **options), runtime, tmp_path)
        remember_teachers(trainer, data)
        assert trainer.step.teacher_pass is None
        assert not trainer.messages


class Foreign(Distiller):
    """As people write them for mdistiller: what it does with its teacher is a test's to say."""

    def __init__(self, student, teacher, cfg, ask=None):
        super().__init__(student, teacher)
        self.ask = ask
        self.steps = 0

    def forward_train(self, image, target, **kwargs):
        self.steps += 1
        with torch.no_grad():
            taught, extra = self.ask(self, image, kwargs["epoch"])
        logits, _ = self.student(image)
        loss = F.kl_div(F.log_softmax(logits, 1), F.softmax(taught, 1), reduction="batchmean") + 0 * extra
        return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_kd": loss}


def foreign(ask):
    torch.manual_seed(0)
    networks = student_view(create_model("resnet8", CLASSES)), teacher_view(create_model("resnet8", CLASSES))
    return Adapted(Foreign(*networks, None, ask).train())


def logits_alone(self, image, epoch):
    logits_teacher, _ = self.teacher(image)
    return logits_teacher, 0


def features_too(self, image, epoch):
    logits_teacher, features = self.teacher(image)
    return logits_teacher, features["feats"][-1].mean()


def features_by_copy(self, image, epoch):
    logits_teacher, features = self.teacher(image)
    return logits_teacher, {**features}["pooled_feat"].mean()


def features_from_epoch_two(self, image, epoch):
    logits_teacher, features = self.teacher(image)
    return logits_teacher, features["feats"][-1].mean() if epoch > 1 else 0


def features_from_step_two(self, image, epoch):
    logits_teacher, features = self.teacher(image)
    return logits_teacher, features["pooled_feat"].mean() if self.steps > 1 else 0


def mixed(self, image, epoch):
    return self.teacher(0.5 * image + 0.5 * image.flip(0))[0], 0


def changed_in_place(self, image, epoch):
    image.mul_(0.5)
    return self.teacher(image)[0], 0


def mixed_from_epoch_two(self, image, epoch):
    return self.teacher(image if epoch == 1 else image.flip(0))[0], 0


def moving_teacher(self, image, epoch):
    logits, _ = self.teacher(image)
    for own, student in zip(self.teacher.fc.parameters(), self.student.fc.parameters(), strict=True):
        own.lerp_(student, 0.1)
    return logits, 0


def in_training_mode(self, image, epoch):
    self.teacher.train()
    return self.teacher(image)[0], 0


def with_a_hook(self, image, epoch):
    seen = []
    handle = self.teacher.layer3.register_forward_hook(lambda module, inputs, output: seen.append(1))
    logits, _ = self.teacher(image)
    handle.remove()
    assert seen
    return logits, 0


def with_noise(self, image, epoch):
    return self.teacher(image)[0] + torch.randn(1) + random.random() + np.random.random(), 0


ASKS = {  # -> whether the memory is used at all
    logits_alone: True,
    with_noise: True,
    features_too: False,
    features_by_copy: False,
    features_from_epoch_two: True,
    features_from_step_two: True,
    mixed: False,
    changed_in_place: False,
    mixed_from_epoch_two: True,
    moving_teacher: False,
    in_training_mode: False,
    with_a_hook: False,
}


@pytest.mark.slow
@pytest.mark.parametrize("ask", ASKS, ids=lambda ask: ask.__name__)
def test_foreign_distillers(ask, data, tmp_path):
    """Whatever they ask of their teacher, they get it; the memory is used where they read logits alone."""
    _, want = train(data, tmp_path, "off", functools.partial(foreign, ask))
    trainer, weights = train(data, tmp_path, "auto", functools.partial(foreign, ask))
    assert not differences(weights, want)
    assert (trainer.step.teacher_pass is not None) is ASKS[ask]
    if ask is logits_alone:
        assert counts(trainer)[1] >= 170
        again, weights = train(data, tmp_path, "auto", functools.partial(foreign, ask))
        assert not differences(weights, want)
        assert counts(again) == (180, 0)


OWN_FILE = """
import torch
import torch.nn.functional as F

from edkd.distillers._base import Distiller

STEPS = [0]


class Counting(Distiller):
    def forward_train(self, image, target, **kwargs):
        STEPS[0] += 1
        with torch.no_grad():
            taught, _ = self.teacher(image)
        logits, _ = self.student(image)
        return logits, {"loss_kd": F.mse_loss(logits, taught)}
"""


def test_a_distiller_in_a_file_of_ones_own_may_count_its_steps_in_the_file(data, tmp_path):
    """The step that is tried out is none of them."""
    (tmp_path / "own.py").write_text(OWN_FILE)
    kind = load_class(f"{tmp_path}/own.py:Counting", "DISTILLER.TYPE", Distiller, "edkd")

    def method() -> Method:
        torch.manual_seed(0)
        student, teacher = create_model("resnet8", CLASSES), create_model("resnet8", CLASSES)
        return Adapted(kind(student_view(student), teacher_view(teacher)).train())

    _, want = train(data, tmp_path, "off", method)
    steps = sys.modules[kind.__module__].STEPS
    assert steps == [6]
    trainer, weights = train(data, tmp_path, "auto", method)
    assert steps == [12]
    assert not differences(weights, want)
    assert counts(trainer)[1] >= 170


@pytest.mark.slow
@pytest.mark.parametrize(("ask", "why"), [(features_from_step_two, "features"), (mixed_from_epoch_two, "other images")])
def test_what_turns_out_useless_is_given_up(ask, why, data, tmp_path):
    trainer, _ = train(data, tmp_path, "auto", functools.partial(foreign, ask))
    trainer.train_epoch(2, show_progress=False)
    assert any(why in message for message in trainer.messages)
    before = counts(trainer)
    trainer.train_epoch(3, show_progress=False)
    assert counts(trainer) == before


def test_a_method_that_cannot_be_copied_is_trained_all_the_same(data, tmp_path):
    def method():
        method = foreign(logits_alone)
        method.distiller.lock = open(os.devnull)  # noqa: SIM115 - cannot be copied
        return method

    trainer, _ = train(data, tmp_path, "auto", method)
    assert trainer.step.teacher_pass is None


def test_features_that_are_computed_later():
    """Every way to look at them gives them, computed once."""
    calls = []

    def compute():
        calls.append(1)
        return {"a": 1, "b": 2}

    for look in (
        lambda f: f["a"] == 1,
        lambda f: f.get("b") == 2,
        lambda f: list(f) == ["a", "b"],
        lambda f: dict(f) == {"a": 1, "b": 2},
        lambda f: {**f} == {"a": 1, "b": 2},
        lambda f: (lambda **k: k)(**f) == {"a": 1, "b": 2},
        lambda f: list(f.items()) == [("a", 1), ("b", 2)],
        lambda f: "a" in f and len(f) == 2 and bool(f),
        lambda f: f == {"a": 1, "b": 2},
        lambda f: f | {"c": 3} == {"a": 1, "b": 2, "c": 3},
        lambda f: f.copy() == {"a": 1, "b": 2},
        lambda f: f.pop("a") == 1 and list(f) == ["b"],
        lambda f: isinstance(f, dict) and "'a': 1" in repr(f),
    ):
        calls.clear()
        assert look(LazyFeatures(compute))
        assert len(calls) == 1
    calls.clear()
    LazyFeatures(compute)
    assert not calls


# ---------------------------------------------------------------------------------------------------------------- files


def test_files_that_do_not_fit_are_not_kept(data, tmp_path):
    runtime = Runtime(CPU, teacher_cache_limit=1000)
    trainer = trainer_of(distillation(), loader_of(data), runtime, tmp_path)
    remember_teachers(trainer, data)
    (said,) = trainer.messages
    assert "not kept: all of them would be 0.7 MB, more than --teacher-cache-limit" in said
    assert trainer.step.teacher_pass.files == [None]
    assert not (data.root / ".cache").exists()


def test_a_small_disk(data, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**7, 9 * 10**6, 10**6))
    trainer, _ = train(data, tmp_path)
    assert "more than a quarter of the 1.0 MB that are free there" in trainer.messages[0]
    assert counts(trainer) == (0, 180)


def test_a_full_disk_is_one_line_and_training_goes_on(data, tmp_path, monkeypatch):
    _, want = train(data, tmp_path, "off")
    write, calls = os.pwrite, []

    def fills_up(*args):
        calls.append(1)
        if len(calls) > 70:
            raise OSError(28, "No space left on device")
        return write(*args)

    monkeypatch.setattr(os, "pwrite", fills_up)
    trainer, weights = train(data, tmp_path)
    assert not differences(weights, want)
    assert [m for m in trainer.messages if "No space left" in m] == [
        f"teacher logits: {the_file(data)} cannot be written (No space left on device): training goes on without it"
    ]
    assert len(RowFile(the_file(data)).written()[0]) == 70


def test_a_dataset_that_cannot_be_written_to(data, tmp_path):
    data.root.write_text("a file, no directory")
    trainer, _ = train(data, tmp_path)
    assert "not kept" in trainer.messages[0]
    assert counts(trainer) == (0, 180)


@pytest.mark.slow
def test_rows_that_are_not_what_is_computed_now_are_not_believed(data, tmp_path):
    """Right checksums, other bits: what a machine would find whose kernels differ although their names do not."""
    _, want = train(data, tmp_path)
    file = RowFile(the_file(data), {k: v for k, v in RowFile(the_file(data)).header.items() if k != "version"})
    there, _ = file.written()
    content, _ = file.read(there)
    content[:, 0] ^= 1
    file.write(there, content)
    trainer, weights = train(data, tmp_path)
    assert not differences(weights, want)
    assert "have other bits than are computed now" in trainer.messages[0]
    assert counts(trainer) == (0, 180)


@pytest.mark.slow
def test_other_teachers_images_views_and_threads_have_other_files(data, tmp_path, pixels):
    def names():
        return {path.name for path in (data.root / ".cache/teachers").glob("*.rows")}

    train(data, tmp_path)
    seen = names()
    assert len(seen) == 1
    train(data, tmp_path)
    assert names() == seen

    def other_teacher():
        method = distillation()
        with torch.no_grad():
            next(method.distiller.teacher.parameters()).mul_(1.0001)
        return method

    train(data, tmp_path, method=other_teacher)
    train(data, tmp_path, augmentation=Augmentation(padding=3, flip=True))
    train(data, tmp_path, augmentation=Augmentation(padding=4))
    other = pixels.copy()
    other[0, 0, 0, 0] ^= 1
    changed = Dataset(**{**vars(data), "train": ImageArrays(other, data.train.targets)})
    train(changed, tmp_path)
    assert len(names()) == 5
