"""What distillers see of their networks, and how the teacher is treated."""

import copy

import pytest
import torch
from torch import nn

from common.errors import UserError
from common.models import create_model, list_models
from common.training.fast_path import apply_fast_path
from common.training.layouts import CHANNELS_LAST
from common.training.method import FrozenTeacher
from common.training.runtime import Runtime
from edkd.distillers import Distiller, distiller_dict
from edkd.distillers._base import TeacherLogits, student_view, teacher_view
from edkd.engine import teachers
from edkd.engine.method import Distillation, make_distiller
from tests.edkd.checks import configuration

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_features_under_mdistillers_names():
    network = create_model("resnet20").eval()
    expected, features = network.forward_with_features(IMAGES)
    logits, feature = student_view(network)(IMAGES)
    assert torch.equal(logits, expected)
    assert set(feature) == {"feats", "preact_feats", "pooled_feat"}
    assert [f.shape[1] for f in feature["feats"]] == [16, 16, 32, 64]
    assert all(torch.equal(f, p.relu()) for f, p in zip(feature["feats"][1:], feature["preact_feats"][1:], strict=True))
    assert torch.equal(feature["pooled_feat"], features.pooled)


@pytest.mark.parametrize("view", [student_view, teacher_view])
def test_a_view_is_the_network_itself(view):
    """Whatever a distiller asks, sets, lists or saves of it is the network's own."""
    network = create_model("resnet20")
    kind, names = type(network), [name for name, _ in network.named_parameters()]
    shown = view(network)
    assert shown is network
    assert isinstance(shown, kind)
    assert shown.__class__.__name__ == type(shown).__name__ == kind.__name__
    assert shown.get_stage_channels() == [16, 16, 32, 64]
    assert [name for name, _ in shown.named_parameters()] == names
    assert shown.state_dict().keys() == create_model("resnet20").state_dict().keys()
    shown.fc = nn.Linear(64, 7)
    assert shown(IMAGES)[0].shape == (3, 7)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = shown.nonsense
    logits, _ = copy.deepcopy(shown)(IMAGES)
    assert logits.shape == (3, 7)
    assert type(view(create_model("resnet8"))) is type(shown)


@pytest.mark.slow
def test_views_are_contiguous_for_every_network():
    """What `feat.view(N, -1)` needs; networks and images that are contiguous give features that are."""
    for name in list_models("mdistiller"):
        size = 32 if not name.startswith(("imagenet_", "tinyimagenet_")) else 64
        network = student_view(create_model(name, 10)).eval()
        with torch.no_grad():
            logits, feature = network(torch.randn(2, 3, size, size))
        for feat in (logits, feature["pooled_feat"], *feature["feats"], *feature["preact_feats"]):
            assert feat.is_contiguous(), name


def test_nothing_of_a_teacher_is_trained():
    network = create_model("resnet20")
    teacher = teacher_view(network)
    logits, feature = teacher(IMAGES)
    assert not logits.requires_grad
    assert not any(f.requires_grad for f in feature["feats"])
    logits, feature = teacher(IMAGES.clone().requires_grad_())  # a distiller that differentiates through its teacher
    assert torch.autograd.grad(logits.sum(), feature["feats"][1])[0].shape == feature["feats"][1].shape


def test_a_teacher_of_logits_is_frozen():
    network = create_model("resnet20").eval()
    expected = network(IMAGES)
    teacher = TeacherLogits(network)
    assert isinstance(teacher, FrozenTeacher)  # so that checkpoints leave it out
    logits, _ = teacher(IMAGES)
    assert torch.allclose(logits, expected, atol=1e-4)
    assert not any(p.requires_grad for p in teacher.parameters())
    teacher.train()
    with pytest.raises(UserError, match="teacher_features = False"):
        teacher(IMAGES)
    assert not any(module.training for module in teacher.network.modules())
    teacher.eval()(IMAGES)


def test_batch_norm_is_folded_where_only_logits_are_read():
    for kind in ("KD", "DKD", "EDKD", "AT", "RKD"):
        distiller = make_distiller(configuration(kind), create_model("resnet8"), create_model("resnet14"), 0)
        apply_fast_path(Distillation(distiller), CHANNELS_LAST, Runtime(torch.device("cpu")))
        norms = [m for m in distiller.teacher.modules() if isinstance(m, nn.BatchNorm2d)]
        assert (not norms) == (kind in ("KD", "DKD", "EDKD"))


@pytest.mark.parametrize("kind", ["FITNET", "VID"])
def test_probing_moves_the_statistics_by_a_tenth_as_published(kind):
    moved = []
    for probe in (True, False):
        cfg = configuration(kind)
        cfg[kind].PROBE_IN_TRAIN_MODE = probe
        teacher = create_model("resnet14")
        make_distiller(cfg, create_model("resnet8"), teacher, 0)
        moved.append(teacher.bn1.running_var.mean().item() != 1.0)
        assert not teacher.training
    assert moved == [True, False]


def test_vid_trains_its_scales_where_asked_to():
    for learn in (False, True):
        cfg = configuration("VID", {"LEARN_SCALES": learn})
        method = Distillation(make_distiller(cfg, create_model("resnet8"), create_model("resnet14"), 0))
        assert all(p.requires_grad == learn for p in method.distiller.log_scales)


def test_a_distiller_written_for_mdistiller():
    """Its interface as far as published files use it: base class, `.train()`, losses of one number a sample."""

    class Theirs(Distiller):
        def __init__(self, student, teacher, cfg):
            super(Theirs, self).__init__(student, teacher)  # noqa: UP008 - as published files write it
            self.proj = nn.Linear(64, 64)

        def get_learnable_parameters(self):
            return super().get_learnable_parameters() + list(self.proj.parameters())

        def get_extra_parameters(self):
            return sum(p.numel() for p in self.proj.parameters())

        def forward_train(self, image, target, **kwargs):
            logits_student, feature_student = self.student(image)
            with torch.no_grad():
                _, feature_teacher = self.teacher(image)
            distance = (self.proj(feature_student["pooled_feat"]) - feature_teacher["pooled_feat"]).pow(2).sum(1)
            assert kwargs["epoch"] == 7
            return logits_student, {"loss_ce": nn.functional.cross_entropy(logits_student, target), "loss_kd": distance}

    cfg = configuration("KD")
    distiller_dict["THEIRS"] = Theirs
    try:
        cfg.DISTILLER.TYPE = "THEIRS"
        method = Distillation(make_distiller(cfg, create_model("resnet8"), create_model("resnet14"), 0)).train()
    finally:
        del distiller_dict["THEIRS"]
    step = method(IMAGES, torch.tensor([1, 2, 3]), torch.arange(3), 6)
    assert all(loss.ndim == 0 for loss in step.losses.values())
    sum(step.losses.values()).backward()
    assert method.distiller.proj.weight.grad is not None
    assert method.eval().distiller(image=IMAGES).shape == (3, 100)


def test_parameters_that_no_module_owns_are_refused():
    class Hidden(Distiller):
        def __init__(self, student, teacher):
            super().__init__(student, teacher)
            self.scales = [nn.Parameter(torch.zeros(3))]

        def get_learnable_parameters(self):
            return super().get_learnable_parameters() + self.scales

    with pytest.raises(UserError, match="no module"):
        Distillation(Hidden(student_view(create_model("resnet8")), teacher_view(create_model("resnet8"))))


def test_teachers_of_mtkd_rl_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "REPOSITORY", tmp_path)
    folder = tmp_path / "mtkd_rl/checkpoints/teachers/models/resnet8_cifar100_lr_0.05_decay_0.0005_trial_0"
    folder.mkdir(parents=True)
    torch.save({"model": create_model("resnet8", family="mtkd_rl").state_dict()}, folder / "resnet8_best.pth")
    found = teachers.find_teacher("resnet8", "cifar100", tmp_path / "output")
    assert found.path == folder / "resnet8_best.pth"
    found.load_into(create_model("resnet8"))
