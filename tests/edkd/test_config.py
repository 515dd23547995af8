"""The configuration: published defaults and files, types, errors, and that every key is read by something."""

from pathlib import Path

import pytest
import torch
import yaml

from common.command_line import REPOSITORY
from common.errors import UserError
from common.models import create_model
from common.training.runtime import Runtime
from common.training.schedules import step_decay
from edkd.distillers import distiller_dict
from edkd.engine.cfg import CFG, CN, WITHOUT_EFFECT
from edkd.engine.config import ANY_SIGN, ConfigFlags, check, experiment_name, load_config, output_directory
from edkd.engine.method import make_method
from edkd.engine.node import Node
from edkd.engine.solver import make_optimizer
from tests.edkd.checks import SMALL, configuration
from tests.golden import conformance

CONFIGS = REPOSITORY / "edkd/configs"
PUBLISHED = conformance("params.json")
SCHEDULES = conformance("schedules.json")["edkd"]
# where ours is not the published value, and why
DIFFERENT_DEFAULTS = {"LOG.PREFIX"}  # a directory of the authors' machine
OWN_KEYS = {
    *("DISTILLER.TEACHER_CKPT", "EDKD.FORM", "FITNET.PROBE_IN_TRAIN_MODE", "VID.PROBE_IN_TRAIN_MODE"),
    *("DATASET.IMAGE_SIZE", "VID.LEARN_SCALES", "OFD.TEACHER_IN_TRAIN_MODE", "REVIEWKD.LIMIT_MID_CHANNEL"),
}


def flat(tree: dict, above: str = "") -> dict[str, object]:
    leaves = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return leaves


def flags(cfg: str = "", *opts: str, epochs: int | None = None, seed: int = 0) -> ConfigFlags:
    return ConfigFlags(cfg, opts, epochs, seed)


def test_published_defaults():
    published, ours = flat(PUBLISHED["cfg_defaults"]["edkd_tree"]), dict(CFG.leaves())
    assert {key for key in published if ours[key] != published[key]} == DIFFERENT_DEFAULTS
    assert ours.keys() - published.keys() == OWN_KEYS


@pytest.mark.parametrize("tree", ["in_both_trees", "edkd_tree_only", "mdistiller_tree_only"])
def test_published_files(tree):
    for name, content in PUBLISHED["yaml"][tree].items():
        ours = flat(yaml.safe_load((REPOSITORY / "edkd" / name).read_text()))
        published = flat(content)
        if ours.keys() - published.keys():  # mdistiller's default, which is not the EDKD tree's
            assert ours.pop("DKD.BETA") == 8.0
        if name.endswith("res50_shuv1.yaml"):  # no registered name
            assert published.pop("DISTILLER.TEACHER") == "resnet50"
            assert ours.pop("DISTILLER.TEACHER") == "ResNet50"
        assert ours == published, name


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_file_loads_and_says_its_command(file):
    name = f"configs/{file.relative_to(CONFIGS)}"
    load_config(flags(name))
    assert f"python tools/train.py --cfg {name}" in file.read_text()


def test_every_pair_of_the_table_has_its_files():
    pairs = ["res32x4_res8x4", "wrn40_2_wrn_16_2", "wrn40_2_wrn_40_1", "vgg13_vgg8", "vgg13_mv2", "res50_mv2"]
    for method in ("kd", "dkd", "edkd"):
        for pair in (*pairs, "res32x4_mv2", "res32x4_shuv2", "res56_res20"):
            assert (CONFIGS / "cifar100" / method / f"{pair}.yaml").is_file()


def test_rates():
    for entry in SCHEDULES["entries"]:
        solver = entry["solver"]
        rate = step_decay(solver["LR"], solver["LR_DECAY_STAGES"], solver["LR_DECAY_RATE"])
        for (first, expected), (after, _) in zip(
            entry["lr"], [*entry["lr"][1:], (solver["EPOCHS"] + 1, 0)], strict=True
        ):
            assert rate(first - 1, 0, 10) == rate(after - 2, 9, 10) == pytest.approx(expected, rel=1e-12)


def test_rates_of_every_published_file():
    for group in SCHEDULES["by_configuration"]:
        for name in group["configurations"]:
            cfg, _ = load_config(flags(name.partition(": ")[2]))
            rate = step_decay(cfg.SOLVER.LR, cfg.SOLVER.LR_DECAY_STAGES, cfg.SOLVER.LR_DECAY_RATE)
            for first, expected in group["lr"]:
                assert rate(first - 1, 0, 1) == pytest.approx(expected, rel=1e-12)


def test_optimizers():
    weights = [torch.nn.Parameter(torch.ones(2))]
    sgd = make_optimizer(configuration("KD", MOMENTUM=0.8, WEIGHT_DECAY=0.01, LR=0.3), weights)
    assert isinstance(sgd, torch.optim.SGD)
    assert [sgd.defaults[k] for k in ("lr", "momentum", "weight_decay", "nesterov")] == [0.3, 0.8, 0.01, False]
    dot = make_optimizer(configuration("KD", TRAINER="dot"), weights)
    assert [dot.defaults[k] for k in ("momentum", "momentum_kd")] == pytest.approx([0.825, 0.975])


class TestValues:
    def setup_method(self):
        self.cfg = CFG.clone()

    @pytest.mark.parametrize(
        ("key", "text", "value"),
        [
            ("SOLVER.LR", "1e-4", 1e-4),
            ("SOLVER.LR", "1", 1.0),
            ("SOLVER.EPOCHS", "3", 3),
            ("SOLVER.EPOCHS", "1e2", 100),
            ("SOLVER.LR_DECAY_STAGES", "[2, 4]", [2, 4]),
            ("SOLVER.LR_DECAY_STAGES", "2,4", [2, 4]),
            ("LOG.WANDB", "False", False),
            ("EXPERIMENT.NAME", "12", "12"),
            ("KD.TEMPERATURE", "2.5", 2.5),
        ],
    )
    def test_values_take_the_type_of_their_default(self, key, text, value):
        self.cfg.merge_from_list([key, text])
        found = dict(self.cfg.leaves())[key]
        assert found == value
        assert type(found) is type(value)

    def test_numbers_in_files(self, tmp_path):
        (tmp_path / "a.yaml").write_text("SOLVER: {WEIGHT_DECAY: 1e-4, LR: 1}\nEXPERIMENT: {NAME: 7}\n")
        self.cfg.merge_from_file(tmp_path / "a.yaml")
        assert self.cfg.SOLVER.WEIGHT_DECAY == 1e-4
        assert isinstance(self.cfg.SOLVER.LR, float)
        assert self.cfg.EXPERIMENT.NAME == "7"

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["SOLVR.LR", "1"], "unknown key 'SOLVR.LR': did you mean 'SOLVER.LR'?"),
            (["KD.T", "1"], "unknown key 'KD.T': did you mean 'KD.TEMPERATURE'?"),
            (["EPOCHS", "1"], "did you mean 'SOLVER.EPOCHS'?"),
            (["SOLVER.EPOCHS", "2.5"], "'SOLVER.EPOCHS' is 2.5, not of type int"),
            (["SOLVER.EPOCHS", "many"], "not of type int"),
            (["LOG.WANDB", "1"], "not of type bool"),
            (["SOLVER.LR_DECAY_STAGES", "[a]"], "not of type int"),
            (["SOLVER", "1"], "is a group of keys"),
            (["SOLVER.LR"], "'SOLVER.LR' has no value"),
        ],
    )
    def test_wrong_overrides(self, words, message):
        with pytest.raises(UserError) as error:
            self.cfg.merge_from_list(words)
        assert message in str(error.value)

    @pytest.mark.parametrize("text", ["a: [", "- 1", "KD: {TEMPERATUR: 1}", "KD: 3", "\0"])
    def test_wrong_files(self, tmp_path, text):
        (tmp_path / "a.yaml").write_text(text)
        with pytest.raises(UserError, match=r"a\.yaml"):
            self.cfg.merge_from_file(tmp_path / "a.yaml")

    def test_registering_as_in_mdistiller(self):
        self.cfg.MYKD = CN()
        self.cfg.MYKD.T = 4.0
        self.cfg.merge_from_list(["MYKD.T", "1e-1"])
        assert self.cfg.MYKD.T == 0.1
        assert "MYKD" not in CFG
        self.cfg.freeze()
        with pytest.raises(AttributeError, match="frozen"):
            self.cfg.MYKD.T = 1.0

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["DISTILLER.TYPE", "DKDD"], "did you mean 'DKD'?"),
            (["SOLVER.TRAINER", "fast"], "SOLVER.TRAINER is 'fast'"),
            (["SOLVER.TYPE", "ADAM"], "SOLVER.TYPE is 'ADAM'"),
            (["SOLVER.BATCH_SIZE", "0"], "at least 1"),
            (["SOLVER.LR", "nan"], "positive"),
            (["SOLVER.LR", "-1"], "positive"),
            (["SOLVER.MOMENTUM", "1"], "below 1"),
            (["DKD.T", "0"], "positive"),
            (["DISTILLER.TYPE", "CRD"], "needs SOLVER.TRAINER crd"),
            (["SOLVER.TRAINER", "dot"], "DISTILLER.TYPE NONE has one"),
            (["SOLVER.TRAINER", "dot", "SOLVER.DOT.DELTA", "0.2", "DISTILLER.TYPE", "KD"], "SOLVER.DOT.DELTA"),
            (["CRD.MODE", "loose"], "CRD.MODE is 'loose'"),
            (["KD.TEMPERATURE", "1e-300"], "KD.TEMPERATURE is 1e-300, but must be positive, at least 1e-12"),
            (["KD.LOSS.CE_WEIGHT", "None"], "KD.LOSS.CE_WEIGHT is None, but must be given"),
            (["FITNET.INPUT_SIZE", "None"], "FITNET.INPUT_SIZE is None, but must be given"),
            (["LOG.WANDB", "None"], "LOG.WANDB is None, but must be given"),
            (["SOLVER.LR_DECAY_STAGES", "[[1]]"], "SOLVER.LR_DECAY_STAGES is [[1]], but must be a list of numbers"),
            (["FITNET.INPUT_SIZE", "[1.5, 2]"], "at least 1, and whole"),
            (["REVIEWKD.IN_CHANNELS", "[0]"], "at least 1, and whole"),
            (["CRD.NCE.MOMENTUM", "1"], "CRD.NCE.MOMENTUM is 1.0, but must be at least 0 and below 1"),
            (["FITNET.INPUT_SIZE", "[32]"], "FITNET.INPUT_SIZE is [32], but must be height and width"),
            (["DISTILLER.TYPE", "REVIEWKD", "REVIEWKD.SHAPES", "[]"], "REVIEWKD.SHAPES is [], but must be a list with"),
            (["DISTILLER.TYPE", "REVIEWKD", "REVIEWKD.IN_CHANNELS", "[64]"], "REVIEWKD.IN_CHANNELS is [64], but must"),
            (["SOLVER.LR_DECAY_RATE", "2"], "SOLVER.LR_DECAY_RATE is 2.0, but must be at most 1"),
            (["LOG.PREFIX", ""], "LOG.PREFIX is '', but must be a directory"),
            (["EXPERIMENT.TAG", ""], "EXPERIMENT.TAG is '', but must be the name of a directory"),
        ],
    )
    def test_values_that_cannot_be(self, words, message):
        self.cfg.merge_from_list(words)
        with pytest.raises(UserError) as error:
            check(self.cfg)
        assert message in str(error.value)

    @pytest.mark.parametrize("key", [k for k, v in CFG.leaves() if type(v) in (int, float) and k not in ANY_SIGN])
    def test_no_number_is_negative(self, key):
        self.cfg.merge_from_list([key, "-1"])
        with pytest.raises(UserError, match=rf"^{key} is -1(\.0)?, but must be "):
            check(self.cfg)


class TestNames:
    def test_directory_as_published(self):
        given = flags("configs/cifar100/kd.yaml", "SOLVER.LR", "0.1", "KD.TEMPERATURE", "2")
        directory = output_directory(given, load_config(given)[0])
        assert directory == Path("output/cifar100_baselines/kd,res32x4,res8x4SOLVER.LR:0.1,KD.TEMPERATURE:2")

    def test_a_name_takes_the_place_of_the_tag(self):
        given = flags("configs/cifar100/kd.yaml", "EXPERIMENT.NAME", "mine", "LOG.PREFIX", "/x/y", seed=3)
        assert output_directory(given, load_config(given)[0]) == Path(
            "/x/y/cifar100_baselines/mineEXPERIMENT.NAME:mine,seed:3"
        )

    def test_overrides_that_no_name_can_have(self):
        with pytest.raises(UserError, match=r"^DISTILLER.TEACHER is 'a\\nb', but must be printable: overrides name"):
            load_config(flags("configs/cifar100/kd.yaml", "DISTILLER.TEACHER", "a\nb"))

    def test_experiment(self):
        given = flags("configs/cifar100/edkd/a.yaml", "SOLVER.LR", "0.1", "LOG.WANDB", "False", "EDKD.T", "2")
        assert experiment_name(given) == "cifar100/edkd/a EDKD.T 2 SOLVER.LR 0.1"
        given = flags("/elsewhere/configs/cifar100/edkd/a.yaml", "SOLVER.EPOCHS", "3", "EXPERIMENT.NAME", "x")
        assert experiment_name(given) == "cifar100/edkd/a"

    def test_shorter_runs_keep_the_shape_of_the_schedule(self):
        cfg, published = load_config(flags("configs/cifar100/edkd/res56_res20.yaml", epochs=24))
        assert (cfg.SOLVER.EPOCHS, published) == (24, {"published_epochs": 240, "published_batch_size": 64})
        assert cfg.SOLVER.LR_DECAY_STAGES == [15, 18, 21]
        assert cfg.EDKD.WARMUP == 2


@pytest.mark.slow
def test_every_key_is_read_by_something(monkeypatch, run_script, generated_data, tmp_path):
    """Builds every distiller and runs the script once; listing keys is not reading them."""
    seen = set()
    read = Node.__getattr__

    def spy(node, key):
        seen.add((id(node), key))
        return read(node, key)

    kept = []  # alive, so that no id is used twice

    def paths(node: Node, above: str = "") -> dict[tuple[int, str], str]:
        found = {}
        for key, value in node.items():
            name = f"{above}{key}"
            found |= paths(value, f"{name}.") if isinstance(value, Node) else {(id(node), key): name}
        return found

    monkeypatch.setattr(Node, "__getattr__", spy)
    targets = torch.arange(20) % 4
    for kind in distiller_dict:
        trainer = {"CRD": "crd", "KD": "dot"}.get(kind, "base")
        cfg = configuration(kind, SMALL.get(kind), TRAINER=trainer)
        cfg.REVIEWKD.LIMIT_MID_CHANNEL = True
        check(cfg)
        student, teacher = create_model("resnet8", 4), create_model("resnet14", 4)
        method = make_method(cfg, student, teacher, targets, Runtime(torch.device("cpu")))
        make_optimizer(cfg, list(method.parameters()))
        kept.append(cfg)
    clone = Node.clone
    monkeypatch.setattr(Node, "clone", lambda node: kept.append(clone(node)) or kept[-1])
    data = ["--data-dir", str(generated_data), "--no-download", "--device", "cpu", "--limit-train-batches", "1"]
    student = ["DISTILLER.STUDENT", "resnet8", "SOLVER.EPOCHS", "1", "LOG.PREFIX", str(tmp_path)]
    assert run_script("train", *student, *data).code == 0
    teacher = ["DISTILLER.TYPE", "KD", "DISTILLER.TEACHER", "resnet8"]
    assert run_script("train", *student, *teacher, *data).code == 0
    names = {path for cfg in kept for place, path in paths(cfg).items() if place in seen}
    unread = {key for key, _ in CFG.leaves()} - names
    assert unread == set(WITHOUT_EFFECT)
