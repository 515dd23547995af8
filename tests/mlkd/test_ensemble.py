"""The weighted ensemble, its file, and the calibration of its weights."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import UserError
from mlkd.calibration import calibrate, combine, initial_weights
from mlkd.data import NORMALIZATION
from mlkd.ensemble import Ensemble, read_ensemble
from mlkd.teachers import InputSpec, find_checkpoint
from tests.golden import conformance, draw
from tests.mlkd.checks import CONFIG

FIGURES = conformance("losses/mlkd_ensemble.json")


class Says(nn.Module):
    """Answers with given logits, whatever the images."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits


@pytest.fixture
def in_double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("in_double_precision")
@pytest.mark.parametrize("case", FIGURES["ensemble"], ids=lambda case: case["id"])
def test_ensemble(case):
    ensemble = Ensemble([Says(draw(spec)) for spec in case["logits"]], case["weights"])
    value = ensemble(torch.zeros(1))
    want = case["value"]
    assert list(value.shape) == want["shape"]
    assert value.sum().item() == pytest.approx(want["sum"], rel=1e-9)
    assert value.norm().item() == pytest.approx(want["l2"], rel=1e-9)
    assert value.flatten()[:4].tolist() == pytest.approx(want["first4"], rel=1e-9)
    ensemble.weights.copy_(torch.tensor(case["weights"], dtype=torch.float32))
    first = ensemble(torch.zeros(1)).flatten()[:4].tolist()
    assert first == pytest.approx(case["weights_as_float32_first4"], rel=1e-9)


def test_ensemble_is_a_module():
    ensemble = Ensemble([nn.Linear(2, 3), nn.Dropout()], [1.0, 2.0])
    assert {"weights", "members.0.weight", "members.0.bias"} == set(ensemble.state_dict())
    assert not ensemble.eval().members[1].training
    assert ensemble.to("meta").weights.is_meta


def test_members_activations_do_not_add_up():
    """Under no-grad a member leaves nothing behind but its logits."""
    alive = []

    class Counting(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert not [ref for ref in alive if ref() is not None]
            hidden = images + 1
            import weakref

            alive.append(weakref.ref(hidden))
            return hidden.mean(1, keepdim=True)

    with torch.no_grad():
        Ensemble([Counting(), Counting(), Counting()], [1, 1, 1])(torch.zeros(2, 3))
    assert len(alive) == 3


@pytest.mark.parametrize("case", FIGURES["calibration"], ids=lambda case: f"{case['models']} models")
def test_calibration(case):
    batches = []
    for b in range(case["batches_per_epoch"]):
        base = case["seed_base"] + 100 * b
        shape = [case["batch"], case["classes"]]
        logits = [draw({"seed": base + m, "shape": shape, "scale": 2.0}) for m in range(case["models"])]
        targets = draw({"seed": base + 50, "classes": case["classes"], "size": case["batch"]})
        batches.append((torch.stack(logits), targets))
    weights, losses = calibrate(
        batches,
        torch.tensor(case["initial_weights"], dtype=torch.float64),
        epochs=case["epochs"],
        accumulation_steps=max(1, 128 // case["batch_size_flag"]),
    )
    assert losses == pytest.approx(case["loss_per_batch"], rel=1e-9)
    assert weights.tolist() == pytest.approx(case["final_weights"], rel=1e-9)


def test_the_mean_is_what_the_ensemble_computes():
    logits, weights = torch.randn(3, 4, 5), [0.5, 1.0, 2.0]
    ensemble = Ensemble([Says(member) for member in logits], weights)
    with torch.no_grad():
        combined = combine(logits, torch.tensor(weights), "mean")
        assert torch.allclose(ensemble(torch.zeros(1)), combined)
        assert torch.allclose(combine(logits, torch.tensor(weights), "sum"), 3 * combined)


def test_the_published_fit_begins_as_a_linear_layer_does():
    """Uniform within 1 / sqrt(M): weights of 300 seeds, five at a time, as those of the figures' two cases are not."""
    weights = torch.stack([initial_weights(5, seed) for seed in range(300)])
    bound = 5**-0.5
    assert weights.abs().max() < bound
    assert weights.abs().max() > 0.99 * bound
    assert weights.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert weights.mean().abs() < 0.03
    assert torch.equal(initial_weights(5, 1), weights[1])
    state = torch.get_rng_state()
    initial_weights(5, 2)
    assert torch.equal(torch.get_rng_state(), state)


def write(directory: Path, models: list[str], names: list[str], **more) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps({"models": models, "names": names, **more}))
    return path


NAMES, PATHS = ["resnet18.a1_in1k", "resnetv2_50x1_bit"], ["models/a.pth", "models/b.pth"]
READINGS = {
    "as published": (CONFIG["models"], CONFIG["names"], "models"),
    "checkpoints as paths": (NAMES, PATHS, "models"),
    "the other way round": (PATHS, NAMES, "names"),
    "the other way round, by name": (["a", "b"], NAMES, "names"),
    "checkpoints called like networks": (NAMES, ["resnet18", "resnet50"], "models"),
    "one of them": (NAMES, ["resnet152", "mine"], "models"),
    "one of them, the other way round": (["resnet152", "mine"], NAMES, "names"),
    "a misspelled network": (["resnet19"], ["mine"], "models"),
    "a misspelled network, the other way round": (["mine.pth"], ["resnet19"], "names"),
}


@pytest.mark.parametrize("kind", READINGS)
def test_readings(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    models, names, where = READINGS[kind]
    file = read_ensemble(write(tmp_path, models, names))
    lists = {"models": tuple(models), "names": tuple(names)}
    assert file.names == lists.pop(where)
    assert file.checkpoints == next(iter(lists.values()))
    assert file.weights == (1.0,) * len(models)
    assert file.reading.startswith(f"config.json: timm's names are those in '{where}', checkpoints")


def test_files_decide_where_both_lists_have_networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path, ["resnet50"], ["resnet18"])
    (tmp_path / "models").mkdir()
    (tmp_path / "models/resnet50.pth").touch()
    assert read_ensemble(path).names == ("resnet18",)
    (tmp_path / "models/resnet18.pth").touch()
    assert read_ensemble(path).names == ("resnet50",)


def test_weights_are_written_and_the_rest_stays(tmp_path):
    path = write(tmp_path, NAMES, PATHS, weights=[0.9, 1], note="kept")
    file = read_ensemble(path)
    assert file.weights == (0.9, 1.0)
    file.with_weights([1.5, 2.5])
    assert json.loads(path.read_text()) == {"models": NAMES, "names": PATHS, "weights": [1.5, 2.5], "note": "kept"}


@pytest.mark.parametrize("written", ["oxford_deit", "oxford_deit.pth", "models/oxford_deit.pth"])
def test_checkpoints_by_name_and_by_path(written, tmp_path, monkeypatch):
    """The run's own directory, which has the same name, is none."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/oxford_deit").mkdir(parents=True)
    assert find_checkpoint(written) is None
    (tmp_path / "models/oxford_deit.pth").touch()
    assert find_checkpoint(written) == tmp_path / "models/oxford_deit.pth"


def test_absent_members_are_named_together_with_commands_that_make_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/e_gmlp.pth").touch()
    given = InputSpec(224, 10, NORMALIZATION, ("-d", "cifar-10"))
    with pytest.raises(UserError) as error:
        read_ensemble(write(tmp_path, **CONFIG)).load(given)
    message = str(error.value)
    commands = re.findall(r"`python3 train_teacher.py --model (\S+) -d cifar-10 -n (\S+)`", message)
    wanted = list(zip(CONFIG["models"], CONFIG["names"], strict=True))
    assert commands == wanted[:2] + wanted[3:]
    assert (
        "no checkpoints models/oxford_deit.pth, models/e_convnext.pth, models/e_hrnet.pth, models/e_swin.pth" in message
    )
    assert message.endswith("(config.json: timm's names are those in 'models', checkpoints those in 'names')")


BAD_FILES = {
    "not JSON": ("{", "not valid JSON"),
    "a list": ("[]", "must hold an object"),
    "no names": ('{"models": ["a.pth"]}', "'names' must be a list"),
    "lengths": ('{"models": ["a.pth"], "names": ["resnet18", "resnet34"]}', "1 models and 2 names"),
    "none": ('{"models": [], "names": []}', "0 models"),
    "weights": ('{"models": ["a.pth"], "names": ["resnet18"], "weights": [1, 2]}', "2 weights for 1 models"),
    "words": ('{"models": ["a.pth"], "names": ["resnet18"], "weights": ["1"]}', "must be a list of finite numbers"),
    "misspelled": ('{"models": ["a.pth"], "names": ["resnet18"], "weigths": [1]}', "no 'weights' but 'weigths'"),
    "huge": ('{"models": ["a.pth"], "names": ["resnet18"], "weights": [1e300]}', "must be from -1e.12 to 1e.12"),
    "not a number": ('{"models": ["a.pth"], "names": ["resnet18"], "weights": [NaN]}', "NaN is not a number of JSON"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(kind, tmp_path):
    content, message = BAD_FILES[kind]
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_ensemble(tmp_path / "config.json")
