"""Learning rates and optimizers against the published implementation's figures."""

import pytest
import torch

from common.training.schedules import step_decay
from tests.golden import conformance
from tfkd.main import GAMMA, LR_BATCH_SIZE, MILESTONES, MOMENTUM, WEIGHT_DECAY, make_optimizer
from tfkd.params import Params

FIGURES = conformance("schedules.json")


@pytest.mark.parametrize("entry", FIGURES["tfkd"]["entries"], ids=lambda e: f"{e['path']}-{e['base_lr']}-{e['warm']}")
def test_rates(entry):
    base_lr = entry["learning_rate"] * entry["batch_size"] / LR_BATCH_SIZE
    assert base_lr == pytest.approx(entry["base_lr"], rel=1e-12)
    rate = step_decay(base_lr, MILESTONES, GAMMA, warmup_epochs=entry["warm"])
    n = entry["iterations_per_epoch"]
    for iteration, expected in entry["warm_up_epoch_0"]:
        assert rate(0, iteration - 1, n) == pytest.approx(expected, rel=1e-9)
    for epoch, expected in entry["from_epoch_1"]["pinned_framework_closed_form"]:
        assert rate(epoch, 0, n) == pytest.approx(expected, rel=1e-9)
        assert rate(epoch, n - 1, n) == rate(epoch, 0, n)


def params(model: str) -> Params:
    return Params(model, 1.0, "yes", "none", 0.1, 128, 200, "cifar100")


def test_optimizers():
    weights = [torch.nn.Parameter(torch.ones(3))]
    published = FIGURES["constructed_optimizers"]
    sgd = make_optimizer(params("resnet18"), 0.1, weights)
    expected = published["tfkd/main.py, every network but the small plain one"]
    assert (expected["momentum"], expected["weight_decay"]) == (MOMENTUM, WEIGHT_DECAY)
    for key in ("momentum", "weight_decay", "nesterov"):
        assert sgd.defaults[key] == expected[key]
    adam = make_optimizer(params("cnn_distill"), 0.1, weights)
    expected = published["tfkd/main.py, the small plain network"]
    assert isinstance(adam, torch.optim.Adam)
    assert list(adam.defaults["betas"]) == expected["betas"]
    assert (adam.defaults["eps"], adam.defaults["weight_decay"]) == (expected["eps"], expected["weight_decay"])
