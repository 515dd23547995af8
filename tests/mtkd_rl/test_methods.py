"""What the methods do besides the published figures: folding, weights in force, an agent without memory."""

import copy
import gc
import weakref

import pytest
import torch

from common.errors import UserError
from common.models import create_model
from common.training.checkpoints import CheckpointFiles
from common.training.engine import Loaders, Trainer
from common.training.runtime import Runtime
from common.training.schedules import step_decay
from common.training.training_step import Optimization
from mtkd_rl import multi_teacher
from mtkd_rl.methods import MultiTeacherRL, Transition, reward_weighted_cross_entropy
from mtkd_rl.multi_teacher import Averaging, Options
from mtkd_rl.teachers import FeatureTeacher, show

TEACHERS = ("resnet8", "wrn_10_1")
CPU = torch.device("cpu")


def network(name: str, classes: int = 10) -> torch.nn.Module:
    return create_model(name, classes, family="mtkd_rl")


def build(kind=MultiTeacherRL, seed: int = 0, **options):
    torch.manual_seed(seed)
    student, *teachers = map(network, ("resnet8", *TEACHERS))
    return kind(student, dict(zip(TEACHERS, teachers, strict=True)), 32, Options(), **options)


def batch(size: int = 12, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    return images, torch.randint(0, 10, (size,), generator=generator), torch.arange(size)


@pytest.mark.parametrize(
    "name",
    ["resnet8x4", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleV1", "ShuffleV2_0_5", "RegNetX_200MF", "RegNetY_400MF"],
)
def test_a_folded_teacher_shows_what_the_network_does(name):
    torch.manual_seed(0)
    plain = network(name)
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics that folding must carry over
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    plain.eval()
    images, _, _ = batch(2)
    with torch.no_grad():
        expected = show(plain, images)
    teacher = FeatureTeacher(plain).train()
    teacher.fold()
    shown = teacher(images)
    assert not any(module.training for module in teacher.modules())
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in teacher.modules()) < sum(
        isinstance(m, torch.nn.BatchNorm2d) for m in plain.modules()
    )
    for ours, theirs in zip(shown, expected, strict=True):
        assert not ours.requires_grad
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())


class TestWeightsInForce:
    def losses(self, method, epoch: int) -> dict[str, float]:
        return {name: loss.item() for name, loss in method.train()(*batch(), epoch).losses.items()}

    def test_sums_over_teachers_in_epoch_0_and_means_by_averaging(self):
        sums, means = self.losses(build(), 0), self.losses(build(Averaging), 0)
        assert sums["loss_cls"] == means["loss_cls"]
        for part in ("loss_kd", "loss_feat"):
            assert sums[part] == pytest.approx(len(TEACHERS) * means[part])

    def test_the_control_weighs_as_averaging_does_after_epoch_0(self):
        assert self.losses(build(equal_weights=True), 1) == pytest.approx(self.losses(build(Averaging), 1))
        assert self.losses(build(equal_weights=True), 0) == self.losses(build(), 0)
        assert self.losses(build(), 1) != pytest.approx(self.losses(build(Averaging), 1))


@pytest.mark.parametrize("student", [True, False], ids=["student", "teacher"])
def test_each_network_is_shown_one_black_image_which_one_too_small_is_named_by(student, monkeypatch):
    shown = []
    monkeypatch.setattr(multi_teacher, "show", lambda network, images: shown.append(images) or show(network, images))
    good, bad = network("resnet8"), network("vgg8")
    networks = (bad, {"resnet8": good}) if student else (good, {"vgg8": bad})
    Averaging(*networks, 32)
    assert len(shown) == 2
    assert not any(images.any() for images in shown)
    with pytest.raises(UserError, match=r"^vgg8 does not take images of 1 x 1 pixels: [^\n]+$"):
        Averaging(*networks, 1)


def test_the_students_optimizer_leaves_the_agent_alone():
    method = build(dynamic=True)
    ours = {id(p) for p in method.trainable_parameters()}
    assert ours == {id(p) for part in (method.student, method.transforms) for p in part.parameters()}
    sum(method.train()(*batch(), 1).losses.values()).backward()
    assert all(parameter.grad is None for parameter in method.agent.parameters())
    assert all(parameter.grad is not None for parameter in method.trainable_parameters())


def test_learning_at_once_is_as_replaying_the_stored_states():
    """The published form, written down: keep every state, then one SGD step for each, in order. The same bits."""
    method = build(dynamic=True, agent_step=3).train()
    stored, policy = [], copy.deepcopy(method.agent.policy).requires_grad_(True)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    for iteration in range(8):
        acting = copy.deepcopy(method.agent.policy.state_dict())
        transition = method(*batch(seed=iteration), 1).transition
        stored.append(Transition(*copy.deepcopy(tuple(transition))))
        method.after_update(transition)
        method.after_step(1, iteration, 8)
        if iteration in (3, 6, 7):
            for kept in stored:
                optimizer.zero_grad()
                reward_weighted_cross_entropy(policy(kept.state), kept).backward()
                optimizer.step()
            stored.clear()
            assert not torch.equal(acting["steam.0.weight"], policy.steam[0].weight)
        for key, value in policy.state_dict().items():
            assert torch.equal(value, method.agent.policy.state_dict()[key]), (iteration, key)


@pytest.mark.slow
def test_nothing_of_a_batch_is_kept():
    method = build().train()
    for iteration in range(2):
        transition = method(*batch(), 1).transition
        method.after_update(transition)
        method.after_step(1, iteration, 1000)
        parts = [weakref.ref(tensor) for tensor in (transition.reward, transition.logit_rewards, *transition.weights)]
        del transition
        gc.collect()
        assert not any(part() is not None for part in parts)


class TestInTheLoop:
    def trainer(self, tmp_path, **runtime):
        class Fixed:
            def __len__(self):
                return 2

            def epoch(self, epoch):
                from common.data import Batch

                for step in range(2):
                    yield Batch(*batch(seed=step), 12)

        return Trainer(
            build(),
            Optimization(lambda parameters: torch.optim.SGD(parameters, lr=1e-3), step_decay(1e-3, (), 1.0), epochs=2),
            Loaders(Fixed(), Fixed()),
            Runtime(CPU, **runtime),
            CheckpointFiles(tmp_path / "last", tmp_path / "best"),
            settings={},
        )

    def figures(self, tmp_path, monkeypatch, **runtime) -> list[dict[str, float]]:
        trainer, dtypes = self.trainer(tmp_path, **runtime), set()
        learn = trainer.method.agent.learn
        monkeypatch.setattr(
            trainer.method.agent, "learn", lambda t: (dtypes.update(table.dtype for table in t.weights), learn(t))[1]
        )
        figures = [trainer.train_epoch(epoch, show_progress=False) for epoch in range(2)]
        assert dtypes == {torch.float32}
        return figures

    @pytest.mark.slow
    def test_bf16_is_near_float32_and_the_agent_keeps_its_precision(self, tmp_path, monkeypatch):
        plain, mixed = self.figures(tmp_path, monkeypatch), self.figures(tmp_path, monkeypatch, amp="bf16")
        for a, b in zip(plain, mixed, strict=True):
            assert a != b
            for key in a.keys() - {"accuracy"}:
                differences = ("loss_kd", "agent_loss")  # small ones, of large figures
                assert b[key] == pytest.approx(a[key], rel=0.5 if key in differences else 0.05), key

    def test_an_epochs_figures_begin_at_nought(self, tmp_path):
        trainer = self.trainer(tmp_path)
        trainer.method.agent.sync_policy = trainer.method.agent.learn = lambda *_: torch.zeros(())
        first = trainer.train_epoch(1, show_progress=False)
        weights = {key: value for key, value in first.items() if "weight" in key}
        assert sum(weights.values()) == pytest.approx(2)
        assert not any(buffer.any() for buffer in trainer.method.record.buffers())
