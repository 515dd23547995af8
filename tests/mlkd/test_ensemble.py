"""The weighted ensemble, its file, and the calibration of its weights."""

import json

import pytest
import torch
from torch import nn

from common.errors import UserError
from mlkd.calibration import calibrate, combine
from mlkd.ensemble import Ensemble, read_ensemble
from tests.golden import conformance, draw

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


@pytest.mark.parametrize("swapped", [False, True])
def test_file(tmp_path, swapped):
    names, checkpoints = ["resnet18.a1_in1k", "resnetv2_50x1_bit"], ["models/a.pth", "models/b.pth"]
    lists = (names, checkpoints) if swapped else (checkpoints, names)
    content = {"models": lists[0], "names": lists[1], "weights": [0.9, 1], "note": "kept"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(content))
    file = read_ensemble(path)
    assert (file.names, file.checkpoints, file.weights) == (tuple(names), tuple(checkpoints), (0.9, 1.0))
    file.with_weights([1.5, 2.5])
    assert json.loads(path.read_text()) == {**content, "weights": [1.5, 2.5]}


BAD_FILES = {
    "not JSON": ("{", "not valid JSON"),
    "a list": ("[]", "must hold an object"),
    "no names": ('{"models": ["a.pth"]}', "'names' must be a list"),
    "lengths": ('{"models": ["a.pth"], "names": ["resnet18", "resnet34"]}', "1 models and 2 names"),
    "none": ('{"models": [], "names": []}', "0 models"),
    "weights": ('{"models": ["a.pth"], "names": ["resnet18"], "weights": [1, 2]}', "2 weights for 1 models"),
    "words": ('{"models": ["a.pth"], "names": ["resnet18"], "weights": ["1"]}', "must be a list of numbers"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_files(kind, tmp_path):
    content, message = BAD_FILES[kind]
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_ensemble(tmp_path / "config.json")
