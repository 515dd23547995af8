"""Fast ways of taking a step against the plain one: the same losses over 50 steps, in float32, for every paper."""

import shutil
from functools import partial

import pytest
import torch
from torch import nn

from common.data import Batch
from common.models import create_model
from common.models.cifar_resnet import BasicBlock
from common.models.network import Features, Network
from common.models.stage import Stage
from common.training.runtime import Runtime
from common.training.schedules import step_decay
from edkd.distillers import distiller_dict
from edkd.engine.method import make_method
from mlkd.methods import MultiLevel
from mlkd.mixup_cutmix import MixupCutmix
from mlkd.student import MultiResNetV2
from mtkd_rl.methods import MultiTeacherRL
from tests.edkd.checks import SMALL, configuration
from tests.mlkd.checks import SMALL as SMALL_STUDENT
from tests.trajectories import watched_steps
from tfkd.methods import Distillation

EPOCHS, STEPS, CLASSES = 5, 10, 100


class Noise:
    """Random batches, the same each time."""

    targets = torch.arange(64) % CLASSES

    def __len__(self) -> int:
        return STEPS

    def epoch(self, epoch: int):
        random = torch.Generator().manual_seed(epoch)
        for _ in range(STEPS):
            images = torch.randn(8, 3, 32, 32, generator=random).contiguous(memory_format=torch.channels_last)
            indices = torch.randperm(64, generator=random)[:8]
            yield Batch(images, self.targets[indices], indices, 8)


def tfkd():
    student, teacher = (create_model(name, CLASSES, family="tfkd") for name in ("shufflenet_v2", "cnn"))
    return Distillation(student, teacher, alpha=0.9, temperature=20.0)


class Shallow(Network):
    """A block of a resnet: a compiler takes seconds for each shape of each operation that it meets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.stage = Stage(BasicBlock(8, 8))
        self.fc = nn.Linear(8, CLASSES)

    def forward_with_features(self, images: torch.Tensor) -> tuple[torch.Tensor, Features]:
        x, residual_sum = self.stage(self.conv(images))
        pooled = x.mean((2, 3))
        return self.fc(pooled), Features([x], [residual_sum], pooled)


def distiller(kind: str, *networks: Network, **solver):
    changes = {"CRD": {"NCE": {"K": 16}}, "OFD": {"LOSS": {"FEAT_WEIGHT": 1e-5}}}
    cfg = configuration(kind, {**SMALL.get(kind, {}), **changes.get(kind, {})}, **solver)
    networks = networks or (create_model("resnet8"), create_model("resnet14"))
    return make_method(cfg, *networks, Noise.targets, Runtime(torch.device("cpu")))


def edkd():
    return distiller("EDKD")


def mtkd_rl():
    names = ("resnet14", "wrn_16_1")
    teachers = {name: create_model(name, CLASSES, family="mtkd_rl") for name in names}
    return MultiTeacherRL(create_model("resnet8", CLASSES, family="mtkd_rl"), teachers, 32, agent_step=7)


def mlkd():
    return MultiLevel(
        MultiResNetV2(CLASSES, **SMALL_STUDENT), create_model("resnet8"), MixupCutmix(CLASSES, 0, 0), 0.5, 10
    )


def losses(build, way: str, tmp_path, rate: float = 1e-4, epochs: int = EPOCHS) -> list[float]:
    """Of each step, taken in one of the ways, from the same weights."""
    torch.manual_seed(0)
    method = build()
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        seen = watched_steps(
            method,
            lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9, weight_decay=5e-4),
            step_decay(rate, [3], 0.1, warmup_epochs=1),
            Noise(),
            range(epochs),
            tmp_path,
            monkeypatch,
            way,
        )
    return [sum(parts.values()) for _, parts in seen]


# At higher rates, networks of initial weights make much of a difference in the last bit; the trajectories of the
# papers' own tests, in double precision, take the same ways at rates as published.
@pytest.mark.slow
@pytest.mark.parametrize("way", ["fast", "captured"])
@pytest.mark.parametrize(("build", "rate"), [(tfkd, 1e-5), (edkd, 1e-4), (mtkd_rl, 1e-4), (mlkd, 1e-6)])
def test_fifty_steps_are_those_of_the_plain_way(build, rate, way, tmp_path):
    want = losses(build, "plain", tmp_path, rate)
    assert len(want) == 50
    assert losses(build, way, tmp_path, rate) == pytest.approx(want, rel=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="torch.compile needs a C++ compiler")
def test_compiled_steps_are_those_of_the_plain_way(tmp_path):
    """Tf-KD's: tests/training/test_engine.py."""

    def build():
        return distiller("EDKD", Shallow(), Shallow())

    want = losses(build, "plain", tmp_path, epochs=2)
    assert losses(build, "compile", tmp_path, epochs=2) == pytest.approx(want, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("build", "rate"), [(mtkd_rl, 1e-4), (mlkd, 1e-6)])
def test_steps_can_be_traced(build, rate, tmp_path, monkeypatch):
    """What a compiler gets to see; to write and build its code takes a minute for these."""
    want = losses(build, "plain", tmp_path, rate, epochs=2)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    assert losses(build, "compile", tmp_path, rate, epochs=2) == pytest.approx(want, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted({*distiller_dict} - {"EDKD"}))
def test_every_distiller_can_be_captured(kind, tmp_path):
    """Or says why not."""

    def build():
        method = distiller(kind, TRAINER="crd" if kind == "CRD" else "base")
        assert method.graph_capturable is (kind != "KDSVD")
        return method

    want = losses(build, "fast", tmp_path, epochs=1)
    assert losses(build, "captured", tmp_path, epochs=1) == pytest.approx(want, rel=1e-5)
