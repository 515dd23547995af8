"""Names under which files of mdistiller import what is here, and packages of forks in `edkd/distillers/`."""

import importlib
import sys

import pytest
import torch

import edkd
from common.models import create_model
from common.own_code import own_files
from edkd import distillers
from edkd.engine.method import make_distiller
from edkd.engine.registry import load_distiller
from tests.edkd.checks import configuration

FORK = {
    "__init__.py": "from .Own import Own\n",
    # a fork's base class, which is not ours
    "_base.py": """
import torch.nn as nn

class Distiller(nn.Module):
    fork = True

    def __init__(self, student, teacher):
        super(Distiller, self).__init__()
        self.student = student
        self.teacher = teacher

    def train(self, mode=True):
        if not isinstance(mode, bool):
            raise ValueError("training mode is expected to be boolean")
        self.training = mode
        for module in self.children():
            module.train(mode)
        self.teacher.eval()
        return self

    def get_learnable_parameters(self):
        return [v for k, v in self.student.named_parameters()]

    def get_extra_parameters(self):
        return 0

    def forward_train(self, **kwargs):
        raise NotImplementedError()

    def forward_test(self, image):
        return self.student(image)[0]

    def forward(self, **kwargs):
        if self.training:
            return self.forward_train(**kwargs)
        return self.forward_test(kwargs["image"])
""",
    "Own.py": """
import torch
from ._base import Distiller
from ._common import ConvReg
from .KD import kd_loss
from ..engine.cfg import CFG
from ..models import cifar_model_dict

class Own(Distiller):
    def __init__(self, student, teacher, cfg):
        super(Own, self).__init__(student, teacher)

    def forward_train(self, image, target, **kwargs):
        logits, _ = self.student(image)
        return logits, {"loss_kd": kd_loss(logits, self.teacher(image)[0], CFG.KD.TEMPERATURE)}
""",
}


@pytest.fixture
def fork(tmp_path):
    """A directory with a fork's files."""
    folder = tmp_path / "some_fork"
    folder.mkdir()
    for name, text in FORK.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def forget():
    """Modules that a test imports are unknown afterwards."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("mdistiller.distillers._base", "edkd.distillers._base"),
        ("mdistiller.distillers._common", "edkd.distillers._common"),
        ("mdistiller.distillers.DKD", "edkd.distillers.DKD"),
        ("mdistiller.distillers", "edkd.distillers"),
        ("mdistiller.engine.cfg", "edkd.engine.cfg"),
        ("mdistiller.engine.utils", "edkd.engine.utils"),
        ("mdistiller.models", "edkd.models"),
        ("mdistiller.models.cifar", "edkd.models.cifar"),
        ("mdistiller.models.cifar.resnet", "edkd.models.cifar.resnet"),
        ("mdistiller.models.imagenet", "edkd.models.imagenet"),
        ("mdistiller", "edkd"),
    ],
)
def test_absolute_imports_give_the_same_module(theirs, ours):
    module, own = importlib.import_module(theirs), importlib.import_module(ours)
    assert module is own
    assert own.__name__ == own.__spec__.name == ours
    importlib.reload(importlib.import_module("edkd.engine.utils"))  # specs are as they were


def test_statements_as_files_have_them():
    space: dict = {}
    exec(
        "from mdistiller.distillers import distiller_dict\nfrom mdistiller.distillers._base import Distiller\n"
        "from mdistiller.models import cifar_model_dict, imagenet_model_dict, tiny_imagenet_model_dict\n"
        "from mdistiller.engine.utils import load_checkpoint, accuracy, AverageMeter\n"
        "import mdistiller.distillers._base as base\n",
        space,
    )
    assert space["Distiller"] is distillers.Distiller is space["base"].Distiller
    build, _ = space["cifar_model_dict"]["resnet8"]
    logits, feature = build(num_classes=10)(torch.zeros(2, 3, 32, 32))
    assert logits.shape == (2, 10)
    assert set(feature) == {"feats", "preact_feats", "pooled_feat"}
    assert space["accuracy"](torch.eye(3), torch.tensor([0, 1, 1]), (1, 2))[0].item() == pytest.approx(200 / 3)
    meter = space["AverageMeter"]()
    meter.update(1.0, 3)
    meter.update(5.0)
    assert (meter.avg, meter.val) == (2.0, 5.0)


@pytest.mark.parametrize(
    ("module", "names", "kind"),
    [
        ("resnet", ("resnet8", "resnet20", "resnet8x4", "resnet32x4"), "ResNet"),
        ("resnetv2", ("ResNet18", "ResNet50"), "ResNet"),
        ("wrn", ("wrn_16_1", "wrn_40_2"), "WideResNet"),
        ("vgg", ("vgg8_bn", "vgg13_bn"), "VGG"),
        ("mobilenetv2", ("mobile_half",), "MobileNetV2"),
        ("ShuffleNetv1", ("ShuffleV1",), "ShuffleNet"),
        ("ShuffleNetv2", ("ShuffleV2",), "ShuffleNetV2"),
    ],
)
def test_builders_of_networks_in_their_published_modules(module, names, kind):
    """Each builds a network that answers as distillers expect, and is an instance of the module's class."""
    module = importlib.import_module(f"mdistiller.models.cifar.{module}")
    with torch.device("meta"):
        for name in names:
            network = getattr(module, name)(num_classes=10)
            assert type(network).__name__ == kind
            assert isinstance(network, getattr(module, kind))
            logits, feature = network(torch.empty(2, 3, 32, 32))
            assert logits.shape == (2, 10)
            assert set(feature) == {"feats", "preact_feats", "pooled_feat"}


def test_builders_of_imagenet_networks():
    from mdistiller.models.imagenet.mobilenetv1 import MobileNetV1
    from mdistiller.models.imagenet.resnet import ResNet, resnet18

    with torch.device("meta"):
        assert isinstance(resnet18(), ResNet)
        assert MobileNetV1().fc.out_features == 1000


def test_what_is_not_there_is_said():
    with pytest.raises(ModuleNotFoundError, match=r"docs/distillers\.md"):
        importlib.import_module("mdistiller.dataset")


def test_mdistiller_itself_comes_first(tmp_path, monkeypatch, forget):
    """Where the real package is installed, nobody gets ours for it."""
    (tmp_path / "mdistiller").mkdir()
    (tmp_path / "mdistiller/__init__.py").write_text("REAL = True\n")
    (tmp_path / "mdistiller/engine.py").write_text("REAL = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mdistiller"]:
        monkeypatch.delitem(sys.modules, name)
    assert importlib.import_module("mdistiller").REAL
    assert importlib.import_module("mdistiller.engine").REAL
    assert importlib.import_module("mdistiller") is not edkd


def test_a_fork_as_a_package(fork, monkeypatch, forget):
    """`edkd/distillers/<name>/`: its own files where it has them, ours where it lacks them."""
    monkeypatch.setattr(distillers, "__path__", [*distillers.__path__, str(fork.parent)])
    own = importlib.import_module("edkd.distillers.some_fork").Own
    assert own.fork
    assert not hasattr(distillers.Distiller, "fork")
    assert importlib.import_module("edkd.distillers.some_fork._common") is importlib.import_module(
        "edkd.distillers._common"
    )
    monkeypatch.setitem(distillers.distiller_dict, "OWN", own)
    student, teacher = create_model("resnet8"), create_model("resnet14")
    distiller = make_distiller(configuration("OWN"), student, teacher, 0)
    assert distiller.training
    assert not teacher.training
    _, losses = distiller(image=torch.randn(4, 3, 32, 32), target=torch.arange(4), epoch=1)
    assert losses["loss_kd"].item() > 0


def test_a_fork_from_where_it_lies(fork, forget):
    kind = load_distiller(f"{fork / 'Own.py'}:Own")
    assert kind.fork
    assert load_distiller(f"{fork / 'Own.py'}:Own") is kind


def test_a_forks_helper_by_its_absolute_name(tmp_path, forget):
    (tmp_path / "helper_loss.py").write_text("def half(x):\n    return x / 2\n")
    (tmp_path / "Theirs.py").write_text(
        "from mdistiller.distillers._base import Distiller\nfrom mdistiller.distillers.helper_loss import half\n"
        "class Theirs(Distiller):\n    scale = half(8)\n"
    )
    kind = load_distiller(f"{tmp_path / 'Theirs.py'}:Theirs")
    assert kind.scale == 4
    assert tmp_path / "helper_loss.py" in own_files(kind)
    with pytest.raises(ModuleNotFoundError, match=r"there is no mdistiller\.distillers\.nowhere here"):
        importlib.import_module("mdistiller.distillers.nowhere")
