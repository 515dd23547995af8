"""The tool that says whether a distiller's file fits, and the way from it into the tables."""

import shutil
import sys

import pytest
import torch
import yaml

from common.models import create_model
from common.plan.plan import load_plan
from common.results.reported import EXPERIMENTS, load_tables
from edkd.engine import enter
from edkd.engine.cfg import CFG
from edkd.engine.check import _chains, _Read
from edkd.engine.enter import _plan_entry, configuration
from edkd.engine.registry import load_distiller
from edkd.tools.check_distiller import settle_batch_norm

FILE = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from mdistiller.engine.cfg import CFG, CN

from ._base import Distiller

CFG.THEIRS = CN()
CFG.THEIRS.W = 2.0


class Theirs(Distiller):
    def __init__(self, student, teacher, cfg):
        super(Theirs, self).__init__(student, teacher)
        self.w = cfg.THEIRS.W
        self.calls = 0

    def forward_train(self, image, target, **kwargs):
        logits, feature = self.student(image)
        with torch.no_grad():
            logits_teacher, feature_teacher = self.teacher(image)
        losses = {"loss_ce": F.cross_entropy(logits, target), "loss_kd": self.w * F.mse_loss(logits, logits_teacher)}
        return logits, losses
"""
SMALL = ["DISTILLER.TEACHER", "resnet14", "DISTILLER.STUDENT", "resnet8", "SOLVER.BATCH_SIZE", "16"]


@pytest.fixture
def check(run_script, generated_data, tmp_path):
    """Runs the tool on the file above, with one line of it replaced by another."""

    def run(old: str = "", new: str = "", *words: str):
        file = tmp_path / "Theirs.py"
        file.write_text(FILE.replace(old, new, 1) if old else FILE)
        where = ["--data-dir", generated_data, "--device", "cpu", "--steps", "2", "--pair", "res56_res20"]
        try:
            return run_script("check_distiller", f"{file}:Theirs", *where, *SMALL, *words)
        finally:
            CFG.pop("THEIRS", None)  # the next file declares it again
            for name in [name for name in sys.modules if name.startswith("edkd.distillers.files_")]:
                del sys.modules[name]

    return run


PAIRS = ("SOLVER.TRAINER", "aug", "--cuda-as-cpu")
LAST = '        losses = {"loss_ce"'


@pytest.mark.slow
def test_one_that_fits(check):
    ended = check()
    assert ended.code == 0, ended.stderr
    assert "NO" not in ended.stdout
    for line in (
        "ok  signature  Theirs(student, teacher, cfg), forward_train(self, image, target, **kwargs)",
        "ok  keys       THEIRS.W",
        "ok  a step     forward, backward, evaluation of a batch of 16",
        "--  teacher    evaluated",
        "--  features   of the student: none",
        "`teacher_features = False` in the class",
        "ok  fast mode  the losses of --plain",
        "`channels_last = True` in the class works as well",
        "nothing is against `graph_capturable = True`",
    ):
        assert line in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        (
            LAST,
            "        flat = feature['feats'][1].view(len(image), -1)\n" + LAST,
            "channels-last features fail (RuntimeError",
        ),
        (LAST, "        flat = feature_teacher.get('feats')\n" + LAST, "of the teacher: feats"),
        (LAST, "        self.w = logits.mean().item()\n" + LAST, "Theirs.py:23"),
        (LAST, "        self.calls += 1\n" + LAST, "Python changes calls in a step"),
        (LAST, "        import random; random.random()\n" + LAST, "Python changes random in a step"),
        (
            "    def forward_train",
            "    def train(self, mode=True):\n        return nn.Module.train(self, mode)\n\n    def forward_train",
            "teacher    in training mode",
        ),
        ("        self.calls = 0", "        self.c = student.get_stage_channels()", "student.get_stage_channels"),
    ],
)
def test_what_is_good_to_know(old, new, found, check):
    ended = check(old, new)
    assert ended.code == 0, ended.stderr + ended.stdout
    assert found in ended.stdout


@pytest.mark.slow
def test_what_a_class_keeps_for_all_is_not_taken_from_one_trial_into_the_next(check):
    ended = check(
        LAST, "        Theirs.seen = getattr(Theirs, 'seen', 0) + 1\n        logits = logits * Theirs.seen\n" + LAST
    )
    assert ended.code == 0, ended.stderr + ended.stdout
    assert "ok  fast mode  the losses of --plain" in ended.stdout


@pytest.mark.slow
def test_who_watches_a_teachers_batch_norm_is_not_told_to_do_without(check):
    """Its hooks would see nothing, or other values, where batch norm is folded."""
    hook = (
        "        self.means = []\n"
        "        for module in teacher.modules():\n"
        "            if isinstance(module, nn.BatchNorm2d):\n"
        "                module.register_forward_hook(lambda m, i, o: self.means.append(o.mean()))\n"
        "        self.calls = 0"
    )
    old = FILE[FILE.index("        self.calls = 0") : FILE.index(LAST)]
    new = old.replace("        self.calls = 0", hook) + "        logits = logits * (1 + sum(self.means))\n"
    ended = check(old, new + "        self.means.clear()\n")
    assert ended.code == 0, ended.stderr + ended.stdout
    assert "teacher_features = False" not in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "line", "error"),
    [
        ("cfg.THEIRS.W", "cfg.THEIRS.GAMMA", "--  keys       not declared: THEIRS.GAMMA", "declare it in"),
        (LAST, "        self.student.get_maps()\n" + LAST, "--  networks   student.get_maps", "does not fit"),
        ("class Theirs(Distiller):", "class Theirs(Distiller):\n    graph_capturable = True", None, None),
        ("image, target, **kwargs", "image, target, mask", "forward_train(self, image, target, mask)", "asks for mask"),
    ],
)
def test_what_does_not_fit(old, new, line, error, check):
    ended = check(old, new)
    assert (ended.code == 2) == (error is not None)
    if error:
        assert line in ended.stdout
        assert error in ended.stderr
        assert len(ended.stderr.splitlines()) == 1


@pytest.mark.slow
def test_cuda_calls_and_pairs(check):
    ended = check("image, target, **kwargs):", "image, image_strong, target, **kwargs):\n        image.cuda()", *PAIRS)
    assert ended.code == 0, ended.stderr
    assert "ok  fast mode" in ended.stdout


@pytest.mark.slow
def test_a_class_that_says_too_much(check):
    ended = check("    def __init__", "    graph_capturable = True\n\n    def __init__")
    assert ended.code == 0
    body = FILE.replace(LAST, "        self.calls += 1\n" + LAST, 1)
    ended = check(FILE, body.replace("    def __init__", "    graph_capturable = True\n\n    def __init__"))
    assert ended.code == 2
    assert "NO  capture    `graph_capturable = True` is in the class, but it Python changes" in ended.stdout
    assert "does not fit: see NO above" in ended.stderr


@pytest.mark.slow
def test_into_the_tables(check, tmp_path, monkeypatch):
    """What --enter writes is a configuration that loads and a plan whose tables have the row."""
    configs, experiments = tmp_path / "configs/cifar100", tmp_path / "experiments"
    shutil.copytree(enter.CONFIGS, configs)
    shutil.copytree(EXPERIMENTS / "plan", experiments / "plan")
    shutil.copy(EXPERIMENTS / "reported.json", experiments)
    monkeypatch.setattr(enter, "CONFIGS", configs)
    monkeypatch.setattr(enter, "EXPERIMENTS", experiments)
    (tmp_path / "own.yaml").write_text("SOLVER: {LR: 7.0, EPOCHS: 3}\nTHEIRS: {W: 3.0}\nLOG: {PREFIX: /nowhere}\n")
    ended = check("", "", "--enter", "--cfg", str(tmp_path / "own.yaml"))
    assert ended.code == 0, ended.stderr
    written = yaml.safe_load((configs / "theirs/res56_res20.yaml").read_text())
    published = yaml.safe_load((configs / "kd/res56_res20.yaml").read_text())
    assert written["SOLVER"] == published["SOLVER"]  # trained as the published ones are
    assert written["DISTILLER"] == {**published["DISTILLER"], "TYPE": f"{tmp_path / 'Theirs.py'}:Theirs"}
    assert written["THEIRS"] == {"W": 3.0}
    assert "LOG" not in written
    (run,) = (run for run in load_plan(experiments) if run.experiment == "cifar100/theirs/res56_res20")
    assert run.depends_on == ("cifar100/vanilla DISTILLER.STUDENT resnet56",)
    (table,) = (t for t in load_tables(experiments) if t.id == "edkd/dkd-original")
    column = {cell.row for cell in table.cells if cell.column == "resnet56 / resnet20"}
    assert {"theirs", "KD", "DKD", "EDKD", "no teacher"} <= column
    assert "./run_all.sh --budget small --seeds 0,1,2 --cells 'cifar100/*kd/res56_res20'" in ended.stdout
    again = check("", "", "--enter")
    assert again.code == 2
    assert "is there already" in again.stderr


def test_every_way_of_reading_features_is_noted():
    content = {"feats": 1, "preact_feats": 2, "pooled_feat": 3}
    for read, expected in (
        (lambda f: f["feats"], {"feats"}),
        (lambda f: f.get("pooled_feat"), {"pooled_feat"}),
        (lambda f: f.pop("feats"), {"feats"}),
        (lambda f: {**f}, set(content)),
        (lambda f: list(f.items()), set(content)),
        (lambda f: f | {}, set(content)),
        (lambda f: len(f), set()),
    ):
        seen: set[str] = set()
        read(_Read(content, seen))
        assert seen == expected


def test_words_in_comments_are_no_keys_and_no_attributes(tmp_path):
    (tmp_path / "Words.py").write_text(
        "from ._base import Distiller\n\n\nclass Words(Distiller):\n"
        '    """Unlike cfg.WORDS.OLD, and not student.flatten."""\n\n'
        "    def __init__(self, student, teacher, cfg):  # cfg.WORDS.OLDER\n"
        "        super().__init__(student, teacher)\n        self.w = cfg.KD.TEMPERATURE * cfg.WORDS.W.bit_length()\n"
        "        self.fc = self.student.fc.weight\n"
    )
    chains = _chains(load_distiller(f"{tmp_path / 'Words.py'}:Words"))
    assert {c for c in chains if c.startswith(("cfg", "student"))} == {
        "cfg.KD.TEMPERATURE",
        "cfg.WORDS.W.bit_length",
        "student.fc.weight",
    }


def test_an_untrained_network_gets_statistics_by_which_it_can_be_evaluated():
    torch.manual_seed(0)
    network, images = create_model("resnet56"), torch.randn(16, 3, 32, 32)
    exploding = network.eval()(images).abs().max()
    settle_batch_norm(network, images)
    momenta = {module.momentum for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)}
    assert momenta == {0.1}
    assert network.eval()(images).abs().max() < min(10, exploding)


def test_overrides_and_several_teachers_are_entered():
    overrides = ["SOLVER.TRAINER", "base_aug", "KD.TEMPERATURE", "2", "DISTILLER.TEACHER", "[resnet56, resnet110]"]
    content = configuration("KD", "res56_res20", None, [*overrides, "SOLVER.LR", "0.5"])
    assert content["SOLVER"]["TRAINER"] == "base_aug"
    assert content["SOLVER"]["LR"] == 0.05
    assert content["KD"]["TEMPERATURE"] == 2
    assert content["DISTILLER"]["TEACHER"] == ["resnet56", "resnet110"]
    planned = _plan_entry("cifar100/mine/res56_res20", "mine", content["DISTILLER"]["TEACHER"], "resnet56 / resnet20")
    assert planned["runs"][0]["depends_on"] == [
        f"cifar100/vanilla DISTILLER.STUDENT {teacher}" for teacher in ("resnet56", "resnet110")
    ]
    assert planned["controls"]
