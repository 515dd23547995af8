"""Distillers as people write them for mdistiller and its forks, in files of their own, through the training script."""

import io
import json
import math
import textwrap

import pytest
import torch
import torch.nn.functional as F

from common.errors import UserError
from common.models import create_model
from common.training.runtime import Runtime
from edkd.distillers._base import TeacherLogits
from edkd.distillers.PKT import pkt_loss
from edkd.distillers.RKD import rkd_loss
from edkd.engine.cfg import CFG
from edkd.engine.config import check
from edkd.engine.cuda_as_cpu import CudaAsCpu
from edkd.engine.method import make_distiller, make_method
from edkd.engine.registry import load_distiller
from edkd.engine.signatures import extra_parameters

CPU = Runtime(torch.device("cpu"))
HEAD = """
import torch
import torch.nn as nn
import torch.nn.functional as F

from ._base import Distiller
"""
# the body of a distiller that does nothing special; kinds below replace parts of it
PLAIN = """
class Theirs(Distiller):
    def __init__(self, student, teacher, cfg):
        super(Theirs, self).__init__(student, teacher)

    def forward_train(self, image, target, **kwargs):
        logits_student, feature_student = self.student(image)
        with torch.no_grad():
            logits_teacher, feature_teacher = self.teacher(image)
        return logits_student, {
            "loss_ce": F.cross_entropy(logits_student, target),
            "loss_kd": F.mse_loss(logits_student, logits_teacher),
        }
"""


@pytest.fixture
def write(tmp_path):
    """Writes a distiller's file and gives its `FILE.py:CLASS`."""

    def to_file(body: str, name: str = "Theirs", head: str = HEAD) -> str:
        folder = tmp_path / "fork"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(head + textwrap.dedent(body))
        return f"{folder / name}.py:Theirs"

    return to_file


@pytest.fixture
def train(run_script, generated_data, tmp_path):
    """Trains two steps of 50 images by a distiller's file, resnet14 teaching resnet8."""
    torch.save({"model": create_model("resnet14", 100).state_dict()}, tmp_path / "teacher.pth")
    names = [
        "DISTILLER.TEACHER",
        "resnet14",
        "DISTILLER.STUDENT",
        "resnet8",
        "SOLVER.EPOCHS",
        "1",
        "LOG.WANDB",
        "False",
    ]
    place = ["LOG.PREFIX", str(tmp_path / "output"), "SOLVER.BATCH_SIZE", "50", "EXPERIMENT.TAG", "x"]
    where = ["--data-dir", str(generated_data), "--no-download", "--device", "cpu"]
    limits = ["--limit-train-batches", "2", "--limit-eval-batches", "1"]

    def run(source: str, *words: str):
        teacher = [] if "DISTILLER.TEACHER_CKPT" in words else ["DISTILLER.TEACHER_CKPT", str(tmp_path / "teacher.pth")]
        return run_script("train", *where, *limits, *names, *teacher, *place, "DISTILLER.TYPE", source, *words)

    return run


def last_loss(tmp_path) -> dict:
    (file,) = (tmp_path / "output").glob("**/metrics.jsonl")
    return json.loads(file.read_text().splitlines()[-1])


def configured(source: str, **solver: object):
    cfg = CFG.clone()
    cfg.merge_from_mapping({"DISTILLER": {"TYPE": source}, "SOLVER": {"BATCH_SIZE": 8, **solver}})
    check(cfg)
    return cfg


def method_of(source: str, teachers=("resnet14",), **solver: object):
    torch.manual_seed(0)
    student, teachers = create_model("resnet8"), [create_model(name) for name in teachers]
    return make_method(configured(source, **solver), student, teachers, torch.arange(40) % 4, CPU)


IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(memory_format=torch.channels_last)
TARGETS = torch.arange(8)


def step(method, *views):
    return method.train()(IMAGES, TARGETS, torch.arange(8), 2, *views)


KINDS = {
    "nothing special": PLAIN,
    "flattens features and images": PLAIN.replace(
        "F.mse_loss(logits_student, logits_teacher)",
        "sum(f.view(len(f), -1).mean() for f in feature_student['feats'] + feature_teacher['preact_feats'] + [image])",
    ),
    "flattens what its own convolution gives": """
        class Theirs(Distiller):
            def __init__(self, student, teacher, cfg):
                super(Theirs, self).__init__(student, teacher)
                self.conv = nn.Conv2d(64, 64, 3, padding=1)

            def get_learnable_parameters(self):
                return super().get_learnable_parameters() + list(self.conv.parameters())

            def forward_train(self, image, target, **kwargs):
                logits, feature = self.student(image)
                flat = self.conv(feature["feats"][-1]).view(image.size(0), -1)
                return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_kd": flat.pow(2).mean()}
        """,
    "ranks the batch": PLAIN.replace(
        "F.mse_loss(logits_student, logits_teacher)",
        "F.mse_loss(logits_student, logits_teacher, reduction='none').mean(1).topk(40).values",
    ),
    "returns three values": PLAIN.replace("return logits_student, {", "return logits_student, {'acc': 1}, {"),
    "names what it wants": PLAIN.replace("image, target, **kwargs", "image, target, index, epoch")
    .replace("'loss_kd'", "'loss_kd'")
    .replace("        return", "        assert index.shape == target.shape and epoch >= 1\n        return"),
    "wants little": PLAIN.replace("image, target, **kwargs", "image, target"),
    "asks for the size of the training set": PLAIN.replace("teacher, cfg)", "teacher, cfg, num_data)", 1).replace(
        "    def forward_train",
        "        assert num_data == 300\n\n    def forward_train",
    ),
    "keeps what hooks saw": """
        class Theirs(Distiller):
            def __init__(self, student, teacher, cfg):
                super(Theirs, self).__init__(student, teacher)
                self.seen = []
                dict(student.named_modules())["layer3"].register_forward_hook(lambda m, i, o: self.seen.append(o))

            def forward_train(self, image, target, **kwargs):
                self.seen.clear()
                logits, _ = self.student(image)
                assert len(self.seen) == 1
                return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_kd": 0 * logits.sum()}
        """,
    "draws from numpy and from random": PLAIN.replace(
        "F.mse_loss(", "np.random.rand() * random.random() * F.mse_loss("
    ).replace("        return", "        import random\n        import numpy as np\n        return"),
    "replaces a layer": PLAIN.replace(
        "    def forward_train",
        "        self.student.fc = nn.Linear(64, 100, bias=False)\n        self.student.fc.weight.data.zero_()\n\n"
        "    def forward_train",
    ),
    "has an optimizer of its own": """
        class Theirs(Distiller):
            def __init__(self, student, teacher, cfg):
                super(Theirs, self).__init__(student, teacher)
                self.critic = nn.Linear(64, 1)
                self.optimizer = torch.optim.Adam(self.critic.parameters())

            def forward_train(self, image, target, **kwargs):
                logits, feature = self.student(image)
                before = self.critic.weight.clone()
                loss = self.critic(feature["pooled_feat"].detach()).pow(2).mean()
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                assert not torch.equal(before, self.critic.weight)
                score = self.critic(feature["pooled_feat"]).mean()
                return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_kd": score}
        """,
    "differentiates twice": """
        class Theirs(Distiller):
            def forward_train(self, image, target, **kwargs):
                logits, feature = self.student(image)
                grad, = torch.autograd.grad(logits.sum(), feature["feats"][1], create_graph=True)
                return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_kd": grad.pow(2).sum()}

            def __init__(self, student, teacher, cfg):
                super(Theirs, self).__init__(student, teacher)
        """,
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_trains_in_both_modes_with_equal_losses(kind, write, train, tmp_path):
    source, losses = write(KINDS[kind]), []
    for flags in ((), ("--plain",)):
        ended = train(source, "EXPERIMENT.PROJECT", "plain" if flags else "fast", *flags)
        assert ended.code == 0, ended.stderr
    for mode in ("fast", "plain"):
        (file,) = (tmp_path / "output" / mode).glob("*/metrics.jsonl")
        losses.append(json.loads(file.read_text())["train/loss"])
    assert losses[0] == losses[1]


class TestMode:
    """A teacher in the mode that its distiller asks for, in the manner of mdistiller's OFD."""

    BODY = PLAIN.replace(
        "    def forward_train",
        """    def train(self, mode=True):
        self.training = mode
        for module in self.children():
            module.train(mode)
        return self

    def forward_train""",
    )

    def losses(self, body, write) -> tuple[float, float, float]:
        """Its own, and what it should be with a teacher in training and in evaluation mode."""
        method = method_of(write(body))
        torch.manual_seed(0)
        student, teacher = create_model("resnet8"), create_model("resnet14").requires_grad_(False)
        evaluation = F.mse_loss(student(IMAGES), teacher.eval()(IMAGES)).item()
        training = F.mse_loss(student(IMAGES), teacher.train()(IMAGES)).item()
        return step(method).losses["loss_kd"].item(), training, evaluation

    def test_training(self, write):
        own, training, evaluation = self.losses(self.BODY, write)
        assert own == pytest.approx(training, rel=1e-5)
        assert own != pytest.approx(evaluation, rel=1e-2)

    def test_evaluation_is_the_default(self, write):
        own, training, evaluation = self.losses(PLAIN, write)
        assert own == pytest.approx(evaluation, rel=1e-5)
        assert own != pytest.approx(training, rel=1e-2)

    @pytest.mark.slow
    def test_statistics_that_move_are_saved(self, write, train, tmp_path):
        for body, saved in ((self.BODY, True), (PLAIN, False)):
            name = "moves" if saved else "stays"
            ended = train(write(body, name), "EXPERIMENT.PROJECT", name)
            assert ended.code == 0, ended.stderr
            (latest,) = (tmp_path / "output" / name).glob("*/latest")
            weights = torch.load(latest, weights_only=True)["training"]["weights"]
            assert any("teacher" in key for key in weights) == saved

    @pytest.mark.slow
    def test_folded_teachers_cannot(self, write):
        body = self.BODY.replace("class Theirs(Distiller):", "class Theirs(Distiller):\n    teacher_features = False")
        with pytest.raises(UserError, match="teacher_features = False"):
            method_of(write(body))


class TestDerivedFromOneOfOurs:
    """A subclass inherits the code of a distiller, and none of its promises."""

    HEAD = HEAD + "from .DKD import DKD\nfrom .KD import KD\n"
    BODY = """
        class Theirs(BASE):
            STATED

            def forward_train(self, image, target, **kwargs):
                logits, losses = super().forward_train(image, target, **kwargs)
                _, feature = self.student(image)
                _, feature_teacher = self.teacher(image)
                pairs = zip(feature["feats"], feature_teacher["feats"])
                losses["loss_maps"] = sum(F.mse_loss(s.view(len(s), -1), t.view(len(t), -1)) for s, t in pairs)
                return logits, losses
        """

    @pytest.mark.slow
    @pytest.mark.parametrize("base", ["KD", "DKD"])
    def test_nothing_is_promised(self, base, write):
        method = method_of(write(self.BODY.replace("BASE", base).replace("STATED", ""), head=self.HEAD))
        assert not method.graph_capturable
        assert not method.channels_last
        assert method.epoch_dependent_until == math.inf
        assert step(method).losses["loss_maps"] > 0

    def test_its_own_promises_hold(self, write):
        stated = "channels_last = True; graph_capturable = True; epoch_dependent_until = 5; teacher_features = False"
        body = self.BODY.replace("BASE", "KD").replace("STATED", stated).partition("            def forward_train")[0]
        method = method_of(write(body, head=self.HEAD))
        assert (method.graph_capturable, method.channels_last, method.epoch_dependent_until) == (True, True, 4)
        assert isinstance(method.distiller.teacher, TeacherLogits)

    def test_ours_keep_theirs(self):
        method = method_of("DKD")
        assert (method.graph_capturable, method.channels_last, method.epoch_dependent_until) == (True, True, 19)


class TestWhatIsTrained:
    def test_what_the_distiller_froze_stays(self, write):
        body = PLAIN.replace(
            "    def forward_train", "        student.fc.weight.requires_grad = False\n\n    def forward_train"
        )
        method = method_of(write(body))
        trained = {id(p) for p in method.trainable_parameters()}
        assert id(method.student.fc.weight) not in trained
        assert id(method.student.fc.bias) in trained

    def test_a_part_of_the_teacher(self, write):
        body = PLAIN.replace(
            "    def forward_train",
            "    def get_learnable_parameters(self):\n"
            "        return [*self.student.parameters(), *self.teacher.fc.parameters()]\n\n    def forward_train",
        ).replace("with torch.no_grad():", "if True:")
        method = method_of(write(body))
        sum(step(method).losses.values()).backward()
        teacher = method.distiller.teacher
        assert teacher.fc.weight.grad is not None
        assert teacher.conv1.weight.grad is None
        assert method.frozen_modules() == []

    GROUPS = (
        "return [{'params': self.student.parameters()}, {'params': self.extra.weight, 'lr': 0.1}, *named]",
        "return [*self.student.named_parameters(), *self.extra.parameters()]",
        "return nn.ModuleList([self.student, self.extra]).parameters()",
        "return (p for p in self.parameters() if p.requires_grad)",
    )

    def with_learnable(self, text, write):
        body = PLAIN.replace(
            "    def forward_train",
            "        self.extra = nn.Linear(2, 2)\n"
            "        for p in teacher.parameters():\n            p.requires_grad = False\n\n"
            "    def get_learnable_parameters(self):\n        named = [('b', self.extra.bias)]\n"
            f"        {text}\n\n    def forward_train",
        )
        return method_of(write(body))

    @pytest.mark.parametrize("text", GROUPS)
    def test_however_they_are_given(self, text, write):
        method = self.with_learnable(text, write)
        expected = [*method.student.parameters(), *method.distiller.extra.parameters()]
        assert {id(p) for p in method.trainable_parameters()} == {id(p) for p in expected}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("return [{'params': self.student.parameters(), 'weight_decay': 0}]", "group with a weight_decay of"),
            ("return [self.student]", "has a ResNet in it"),
            ("return [torch.nn.Parameter(torch.ones(1))]", "that no module of it owns"),
        ],
    )
    def test_what_cannot_be(self, text, message, write):
        with pytest.raises(UserError, match=message):
            self.with_learnable(text, write)


class TestExtraParameters:
    """For the record, whatever it is."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("return 6", 6),
            ("return '6 numbers'", "6 numbers"),
            ("return None", None),
            ("return torch.tensor(6)", 6),
            ("return self.extra", 6),
            ("return list(self.extra.parameters())", 6),
            ("return sum(p.numel() for p in self.extra.parameters()), 'more'", "(6, 'more')"),
        ],
    )
    def test_value(self, text, value, write):
        body = PLAIN.replace("    def forward_train", "        self.extra = nn.Linear(2, 2)\n\n    def forward_train")
        body += f"\n    def get_extra_parameters(self):\n        {text}\n"
        found = extra_parameters(method_of(write(body)).distiller)
        assert found == value
        assert type(found) is type(value)


ALONE = """
class Theirs(nn.Module):
    def __init__(self, student, CFG):
        super().__init__()
        self.student = student
        self.rate = CFG.SOLVER.LR

    def get_learnable_parameters(self):
        return [parameter for _, parameter in self.student.named_parameters()]

    def get_extra_parameters(self):
        return 0

    def forward(self, **kwargs):
        return self.forward_train(**kwargs) if self.training else self.forward_test(kwargs["image"])

    def forward_train(self, image, target, **kwargs):
        logits, _ = self.student(image)
        return logits, {"loss": F.cross_entropy(logits, target)}

    def forward_test(self, image):
        return self.student(image)[0]
"""


class TestConstructor:
    @pytest.mark.parametrize(
        "signature",
        [
            "student, teacher, cfg",
            "model_s, model_t, opt",
            "student, teacher",
            "student, teacher, cfg, num_data",
            "student, teacher, cfg, n_data, momentum=0.9",
            "student, teacher, cfg, *, num_data",
            "student, teacher, cfg, **options",
            "*networks",
        ],
    )
    def test_gets_what_it_takes(self, signature, write):
        body = PLAIN.replace("student, teacher, cfg", signature, 1).replace(
            "super(Theirs, self).__init__(student, teacher)\n",
            "given = locals()\n        names = list(given.get('networks', given.values()))\n"
            "        names = [n for n in names if isinstance(n, nn.Module) and n is not self]\n"
            "        super(Theirs, self).__init__(*names)\n"
            "        assert given.get('num_data', given.get('n_data', 40)) == 40\n",
        )
        step(method_of(write(body)))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["cfg", "config", "opt", "args"])
    def test_without_a_teacher(self, name, write, train, tmp_path):
        source = write(ALONE.replace("CFG", name))
        step(method_of(source, teachers=()))
        if name != "cfg":
            return
        ended = train(source, "DISTILLER.TEACHER", "", "DISTILLER.TEACHER_CKPT", "")
        assert ended.code == 0, ended.stderr
        (file,) = (tmp_path / "output").glob("**/run.json")
        assert json.loads(file.read_text())["teachers"] == []


class TestResult:
    @pytest.mark.slow
    @pytest.mark.parametrize("extra", ["0.0", "0", "np.float32(0.5)", "np.float64(0)"])
    def test_numbers_among_the_losses(self, extra, write):
        head = HEAD + "import numpy as np\n"
        plain, more = (
            sum(step(method_of(write(body, name, head))).losses.values())
            for body, name in (
                (PLAIN, "plain"),
                (PLAIN.replace("return logits_student, {", f"return logits_student, {{'n': {extra}, "), "more"),
            )
        )
        assert more.item() == pytest.approx(plain.item() + (0.5 if "32" in extra else 0))

    @pytest.mark.parametrize(
        ("result", "given"),
        [
            ("logits_student", "Tensor"),
            ("logits_student, logits_student.mean()", "Tensor, Tensor"),
            ("logits_student, [logits_student.mean()]", "Tensor, list"),
            ("(logits_student, 1), {'a': logits_student.mean()}", "tuple, dict"),
            ("None", "NoneType"),
        ],
    )
    def test_what_is_none(self, result, given, write):
        body = PLAIN.partition("        return")[0] + f"        return {result}\n"
        with pytest.raises(UserError, match=r"Theirs.forward_train returns \(") as error:
            method_of(write(body))
        assert given in str(error.value)

    def test_modules_of_no_size(self, write):
        with pytest.raises(UserError, match=r"nn\.Lazy"):
            method_of(
                write(
                    PLAIN.replace("    def forward_train", "        self.a = nn.LazyLinear(3)\n\n    def forward_train")
                )
            )

    def test_modules_made_in_training(self, write):
        body = PLAIN.replace(
            "        return",
            "        if not hasattr(self, 'late'):\n            self.late = nn.Linear(2, 2)\n        return",
        )
        (message,) = method_of(write(body)).messages
        assert "Theirs.forward_train makes late, which no optimizer trains" in message


class TestKeywords:
    BODY = (
        PLAIN.replace("image, target, **kwargs", "image_weak, image_strong, target, **kwargs")
        .replace("self.student(image)", "self.student(image_strong)")
        .replace("self.teacher(image)", "self.teacher(image_weak)")
    )

    @pytest.mark.slow
    @pytest.mark.parametrize("trainer", ["ours", "aug", "base_aug"])
    def test_pairs(self, trainer, write, train):
        assert train(write(self.BODY), "SOLVER.TRAINER", trainer).code == 0

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("named", "others"),
        [
            ("image_weak, image_strong", {"epoch"}),
            ("image, image_strong", {"epoch"}),
            ("image_w, image_s", {"epoch"}),
            ("weak_image, strong_image", {"epoch"}),
            ("image, image_aug", {"epoch"}),
            ("image", {"epoch", "image_strong"}),
            ("target=None", {"epoch", "image", "image_weak", "image_strong"}),
        ],
    )
    def test_a_view_has_one_name(self, named, others, write):
        """So that `super().forward_train(image_strong, target, **kwargs)` works, as in the forks."""
        names = named if "target" in named else f"{named}, target"
        view = "kwargs['image']" if "image" not in named else named.partition(",")[0]
        body = PLAIN.replace("image, target, **kwargs", f"{names}, **kwargs").replace("(image)", f"({view})")
        body = body.replace("        return", f"        assert set(kwargs) == {others}, kwargs.keys()\n        return")
        step(method_of(write(body), TRAINER="aug"), IMAGES)

    def test_which_view_is_which(self, write):
        method = method_of(write(self.BODY), TRAINER="aug")
        strong = torch.zeros_like(IMAGES)
        method.student.eval(), method.distiller.teacher.eval()
        logits = method.distiller.train(False).student(strong)[0]
        method.distiller.training = True
        assert torch.allclose(method(IMAGES, TARGETS, TARGETS, 0, strong).logits, logits, atol=1e-5)

    @pytest.mark.parametrize(
        ("wanted", "trainer", "message"),
        [
            ("image_weak", "base", "SOLVER.TRAINER aug has it"),
            ("contrastive_index", "base", "SOLVER.TRAINER crd has it"),
            ("mask", "base", "asks for mask"),
            ("mask", "aug", "image_strong"),
        ],
    )
    def test_what_nobody_hands_out(self, wanted, trainer, message, write):
        body = PLAIN.replace("target, **kwargs", f"target, {wanted}, **kwargs")
        with pytest.raises(UserError, match="forward_train asks for") as error:
            method_of(write(body), TRAINER=trainer)
        assert message in str(error.value)

    def test_a_constructor_that_wants_more(self, write):
        with pytest.raises(UserError, match="asks for alpha"):
            method_of(write(PLAIN.replace("teacher, cfg)", "teacher, cfg, alpha)", 1)))


class TestSeveralTeachers:
    BODY = """
        class Theirs(Distiller):
            def __init__(self, student, teachers, cfg):
                super(Theirs, self).__init__(student, teachers)
                assert [len(t.layer1) for t in teachers] == [2, 1]

            def forward_train(self, image, target, **kwargs):
                logits, _ = self.student(image)
                with torch.no_grad():
                    mean = torch.stack([t(image)[0] for t in self.teacher]).mean(0)
                return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_kd": F.mse_loss(logits, mean)}
        """
    ONE_BY_ONE = """
        class Theirs(Distiller):
            def __init__(self, student, teacher_a, teacher_b, cfg):
                super(Theirs, self).__init__(student, teacher_a)
                self.other = teacher_b

            def train(self, mode=True):
                super(Theirs, self).train(mode)
                self.other.eval()
                return self

            def forward_train(self, image, target, **kwargs):
                logits, _ = self.student(image)
                mean = (self.teacher(image)[0] + self.other(image)[0]) / 2
                return logits, {"loss_ce": F.cross_entropy(logits, target), "loss_kd": F.mse_loss(logits, mean)}
        """

    @pytest.mark.slow
    def test_handed_over_together_or_one_by_one(self, write):
        values = []
        for name, body in (("together", self.BODY), ("one_by_one", self.ONE_BY_ONE)):
            method = method_of(write(body, name), teachers=("resnet14", "resnet8"))
            values.append(step(method).losses["loss_kd"].item())
            assert len(method.frozen_modules()) == 2
        assert values[0] == pytest.approx(values[1], rel=1e-5)

    @pytest.mark.slow
    def test_through_the_script(self, write, train, tmp_path):
        files = []
        for name in ("resnet14", "resnet8"):
            files.append(str(tmp_path / f"{name}.pth"))
            torch.save({"model": create_model(name, 100).state_dict()}, files[-1])
        names = ["DISTILLER.TEACHER", "[resnet14, resnet8]", "DISTILLER.TEACHER_CKPT", ",".join(files)]
        ended = train(write(self.BODY), *names)
        assert ended.code == 0, ended.stderr
        (file,) = (tmp_path / "output").glob("**/run.json")
        record = json.loads(file.read_text())
        assert [teacher["path"] for teacher in record["teachers"]] == files
        assert len({teacher["digest"] for teacher in record["teachers"]}) == 2
        fewer = train(write(self.BODY), *names[:2], "DISTILLER.TEACHER_CKPT", files[0])
        assert fewer.code == 2
        assert (
            "TEACHER_CKPT names 1 for 2 in DISTILLER.TEACHER (resnet14, resnet8): give a file for each" in fewer.stderr
        )


class TestForwardTest:
    """Accuracy is that of the distiller's own `forward_test` (in the manner of SimKD: the teacher's classifier)."""

    BODY = (
        PLAIN
        + """
    def forward_test(self, image):
        return self.teacher.fc(self.student(image)[1]["pooled_feat"])
"""
    )

    @pytest.mark.slow
    def test_is_what_is_evaluated(self, write, train):
        method = method_of(write(self.BODY))
        monitored = method.evaluated.eval()
        pooled = method.student(IMAGES.contiguous())[1]["pooled_feat"]
        assert torch.allclose(monitored(IMAGES), method.distiller.teacher.fc(pooled), atol=1e-5)
        assert monitored.training is method.distiller.training is False
        ended = train(write(self.BODY))
        assert "accuracy is that of Theirs.forward_test" in ended.stdout

    def test_of_several_values_the_first(self, write):
        method = method_of(write(PLAIN + "\n    def forward_test(self, image):\n        return self.student(image)\n"))
        monitored = method.evaluated.eval()
        assert torch.equal(monitored(IMAGES), method.student(IMAGES.contiguous())[0])

    @pytest.mark.slow
    def test_nothing_is_said_where_it_is_the_student(self, write, train):
        assert "forward_test" not in train(write(PLAIN)).stdout


class TestCuda:
    BODY = PLAIN.replace(
        "    def forward_train", "        self.w = torch.ones(1).cuda()\n\n    def forward_train"
    ).replace("F.mse_loss(", "self.w * torch.ones(1, device='cuda').to('cuda:0') * F.mse_loss(")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_the_line_that_insists_on_a_gpu(self, write, train):
        source = write(self.BODY)
        ended = train(source)
        assert ended.code == 2
        assert len(ended.stderr.splitlines()) == 1
        line = (HEAD + self.BODY).splitlines().index("        self.w = torch.ones(1).cuda()") + 1
        assert f"{source.partition(':')[0]}:{line}, in __init__" in ended.stderr
        assert "insists on a GPU" in ended.stderr
        assert "--cuda-as-cpu" in ended.stderr

    @pytest.mark.slow
    def test_the_switch(self, write, train, tmp_path):
        for body, name in (
            (self.BODY, "on_cuda"),
            (PLAIN, "on_cpu"),
        ):  # a `cuda.py` would be PyTorch's module for others
            ended = train(write(body, name), "--cuda-as-cpu", "EXPERIMENT.PROJECT", name)
            assert ended.code == 0, ended.stderr
        losses = [
            json.loads(next((tmp_path / "output" / name).glob("*/metrics.jsonl")).read_text())["train/loss"]
            for name in ("on_cuda", "on_cpu")
        ]
        assert losses[0] == losses[1]


class TestCudaAsCpu:
    """What a file that insists on a GPU says, and what that means on a CPU."""

    @pytest.mark.parametrize(
        "call",
        [
            "torch.ones(2).cuda(non_blocking=True)",
            "torch.ones(2, device='cuda:0')",
            "torch.ones(2).to(torch.device('cuda'))",
            "torch.ones(2).to(0)",
            "torch.ones(2, device=torch.cuda.current_device())",
            "torch.cuda.FloatTensor(2).fill_(1)",
            "torch.ones(2).type(torch.cuda.FloatTensor)",
            "nn.Linear(1, 2).cuda().weight[:, 0] * 0 + 1",
            "torch.cuda.synchronize() or torch.ones(2)",
            "torch.cuda.set_device(0) or torch.ones(2)",
            "torch.ones(2).type('torch.cuda.FloatTensor')",
            "torch.cuda.ByteTensor(2).fill_(1).float()",
            "torch.ones(2).pin_memory()",
            "torch.rand(2, generator=torch.Generator(device='cuda'), device='cuda') * 0 + 1",
            "torch.cuda.Stream().synchronize() or torch.ones(2)",
            "torch.cuda.current_stream().wait_stream(torch.cuda.default_stream()) or torch.ones(2)",
            "torch.ones(2) * (torch.cuda.Event(enable_timing=True).elapsed_time(torch.cuda.Event()) + 1)",
            "torch.load(saved, map_location='cuda')",
        ],
    )
    def test_a_call(self, call):
        before, saved = (dict(vars(torch.cuda)), dict(vars(torch))), io.BytesIO()
        torch.save(torch.ones(2), saved)
        saved.seek(0)
        with CudaAsCpu():
            value = eval(call, {"torch": torch, "nn": torch.nn, "saved": saved})
            with torch.cuda.device(0), torch.cuda.stream(torch.cuda.Stream()):
                assert value.device.type == "cpu"
        assert torch.equal(value, torch.ones(2))
        assert (dict(vars(torch.cuda)), dict(vars(torch))) == before


class TestWhatForksDo:
    """Single habits of theirs that a constructor, a mode or a global has to bear."""

    def test_train_may_return_nothing(self, write):
        body = PLAIN + "\n    def train(self, mode=True):\n        super(Theirs, self).train(mode)\n"
        assert method_of(write(body)).distiller.training

    @pytest.mark.slow
    def test_a_teacher_that_a_step_moves_is_part_of_checkpoints(self, write):
        toggled = PLAIN.replace(
            "            logits_teacher, feature_teacher = self.teacher(image)\n",
            "            self.teacher.train()\n"
            "            logits_teacher, feature_teacher = self.teacher(image)\n"
            "            self.teacher.eval()\n",
        )
        for body, frozen in ((PLAIN, 1), (toggled, 0)):
            method = method_of(write(body, f"Frozen{frozen}"))
            assert len(method.frozen_modules()) == frozen
            assert any("teacher" in key for key in method.distiller.state_dict())

    @pytest.mark.parametrize(("argument", "kind"), [("teachers", torch.nn.ModuleList), ("teacher", torch.nn.Module)])
    def test_a_list_of_one_teacher(self, write, argument, kind):
        body = PLAIN.replace("student, teacher, cfg", f"student, {argument}, cfg").replace(
            "super(Theirs, self).__init__(student, teacher)",
            f"super(Theirs, self).__init__(student, {argument}[0] if isinstance({argument}, nn.ModuleList) else "
            f"{argument})\n        self.given = [{argument}]",
        )
        cfg = configured(write(body, argument))
        cfg.defrost()
        cfg.DISTILLER.TEACHER = ["resnet14"]
        (given,) = make_distiller(cfg, create_model("resnet8"), [create_model("resnet14")], 40).given
        assert isinstance(given, kind)
        assert isinstance(given, torch.nn.ModuleList) == (kind is torch.nn.ModuleList)

    @pytest.mark.slow
    def test_the_global_configuration_is_the_runs(self, write, train, tmp_path):
        """mdistiller's scripts merge into that very object, and distillers read it when they are called."""
        own = PLAIN.replace("F.mse_loss(", "CFG.KD.TEMPERATURE * F.mse_loss(")
        given = PLAIN.replace("(student, teacher)\n", "(student, teacher)\n        self.T = cfg.KD.TEMPERATURE\n", 1)
        given = given.replace("F.mse_loss(", "self.T * F.mse_loss(")
        before = CFG.clone()
        for name, body in (("own", own), ("given", given)):
            source = write("from mdistiller.engine.cfg import CFG\n" + textwrap.dedent(body), name)
            ended = train(source, "EXPERIMENT.PROJECT", name, "KD.TEMPERATURE", "2")
            assert ended.code == 0, ended.stderr
        lines = [next((tmp_path / "output" / name).glob("*/metrics.jsonl")).read_text() for name in ("own", "given")]
        losses = [json.loads(line)["train/loss"] for line in lines]
        assert losses[0] == losses[1]
        assert before == CFG
        assert not CFG.is_frozen()

    def test_losses_take_their_arguments_in_mdistillers_order(self):
        f_s, f_t = torch.randn(6, 4), torch.randn(6, 4)
        named = rkd_loss(f_s, f_t, squared=False, eps=1e-12, distance_weight=25, angle_weight=50)
        assert rkd_loss(f_s, f_t, False, 1e-12, 25, 50) == rkd_loss(f_s, f_t) == named
        assert pkt_loss(f_s, f_t, 1e-7) == pkt_loss(f_s, f_t)


BROKEN = {
    "a name that is not there": (
        "F.mse_loss(logits_student",
        "F.mse_los(logits_student",
        "AttributeError",
        "error in the code",
    ),
    "a key of features that is not there": (
        "F.mse_loss(",
        "feature_teacher['maps'] * F.mse_loss(",
        "KeyError: 'maps'",
        "code",
    ),
    "a wrong type": ("F.mse_loss(", "'a' + F.mse_loss(", "TypeError", "error in the code"),
    "maps that do not fit": (
        "F.mse_loss(logits_student, logits_teacher)",
        "F.mse_loss(feature_student['feats'][1], feature_teacher['feats'][2])",
        "RuntimeError: The size of tensor",
        "does not fit resnet14 -> resnet8",
    ),
    "a stage too many": ("F.mse_loss(", "feature_teacher['feats'][9] * F.mse_loss(", "IndexError", "does not fit"),
    "a key that is not declared": ("F.mse_loss(", "self.cfg.THEIRS.W * F.mse_loss(", "'THEIRS'", "declare it in"),
    "a method that networks lack": (
        "F.mse_loss(",
        "self.teacher.get_maps() * F.mse_loss(",
        "'get_maps'",
        "does not fit",
    ),
}


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("kind", BROKEN)
def test_errors_say_what_and_where(kind, write, train, tmp_path):
    old, new, what, verdict = BROKEN[kind]
    body = PLAIN.replace(old, new).replace("(student, teacher)\n", "(student, teacher)\n        self.cfg = cfg\n")
    source = write(body)
    ended = train(source)
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    lines = (HEAD + body).splitlines()
    line = next(i for i, text in enumerate(lines, 1) if new.partition("(")[0] in text)
    for part in (what, verdict, f"{source.partition(':')[0]}:{line}, in forward_train", "traceback in"):
        assert part in ended.stderr
    (log,) = (tmp_path / "output").glob("**/train.log")
    assert "Traceback (most recent call last)" in log.read_text()
    assert f"line {line}, in forward_train" in log.read_text()
    assert not list((tmp_path / "output").glob("**/run.json"))


@pytest.mark.slow
def test_errors_in_the_middle_of_training(write, train, tmp_path):
    body = PLAIN.replace(
        "        return", "        if kwargs['epoch'] > 1:\n            raise KeyError('late')\n        return"
    )
    ended = train(write(body), "SOLVER.EPOCHS", "2")
    assert ended.code == 1
    assert "KeyError: 'late'" in ended.stderr
    line = next(i for i, text in enumerate((HEAD + body).splitlines(), 1) if "raise KeyError" in text)
    assert f"Theirs.py:{line}, in forward_train) (traceback in" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    (log,) = (tmp_path / "output").glob("**/train.log")
    assert "Traceback (most recent call last)" in log.read_text()
    (record,) = (tmp_path / "output").glob("**/run.json")
    assert json.loads(record.read_text())["status"] == "failed"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_like_this", "ModuleNotFoundError"),
        ("def f(:", "SyntaxError"),
        ("from ._base import Nobody", "cannot import name 'Nobody'"),
        ("import mdistiller.dataset", "docs/distillers.md"),
        ("Theirs = 3", "has no class 'Theirs'"),
    ],
)
def test_files_that_cannot_be_loaded(text, message, write, train):
    ended = train(write(text, "Bad", head=""))
    assert ended.code == 2
    assert len(ended.stderr.splitlines()) == 1
    assert "Bad.py" in ended.stderr
    assert message in ended.stderr


@pytest.mark.slow
def test_keys_declared_in_the_file(write, train):
    head = HEAD + "from mdistiller.engine.cfg import CFG, CN\n\nCFG.THEIRS = CN()\nCFG.THEIRS.W = 2.0\n"
    body = PLAIN.replace("F.mse_loss(", "self.w * F.mse_loss(").replace(
        "(student, teacher)\n", "(student, teacher)\n        self.w = cfg.THEIRS.W\n"
    )
    try:
        ended = train(write(body, head=head), "THEIRS.W", "1e-1")
        assert ended.code == 0, ended.stderr
    finally:
        CFG.pop("THEIRS", None)


def test_a_registered_name_and_its_file_are_one(write):
    source = write(PLAIN)
    assert load_distiller(source) is load_distiller(source)
    distiller = make_distiller(configured(source), create_model("resnet8"), create_model("resnet14"), 0)
    assert distiller.training
    assert not distiller.teacher.training


@pytest.mark.slow
def test_two_versions_of_a_file_are_two_experiments(write, train, tmp_path):
    """A distiller's code, with what it imports, belongs to the settings of its runs; what the commit says does not."""
    helpers = tmp_path / "fork/helpers.py"
    source = write(PLAIN.replace("F.mse_loss(", "WEIGHT * F.mse_loss("), head=HEAD + "from .helpers import WEIGHT\n")
    helpers.write_text("WEIGHT = 1.0\n")
    ended = train(source)
    assert ended.code == 0, ended.stderr
    (file,) = (tmp_path / "output").glob("**/run.json")
    record = json.loads(file.read_text())
    assert {str(helpers), source.partition(":")[0]} <= set(record["details"]["own_files"])
    assert record["settings"]["own_code"]
    assert train(source, "--resume").code == 0
    helpers.write_text("WEIGHT = 2.0\n")
    for flags, message in (((), "with own_code = "), (("--resume",), "own_code")):
        ended = train(source, *flags)
        assert ended.code == 2
        assert message in ended.stderr
    ours = train("KD", "EXPERIMENT.PROJECT", "ours")
    assert ours.code == 0, ours.stderr
    (file,) = (tmp_path / "output/ours").glob("**/run.json")
    assert "own_code" not in json.loads(file.read_text())["settings"]
