"""Learning rates and optimizers against the published implementation's figures."""

import pytest
import torch

from common.training.schedules import step_decay
from mtkd_rl.experiment import GAMMA, MILESTONES, in_proportion
from mtkd_rl.methods import AGENT_LR, Agent
from mtkd_rl.setting import LIGHT_MODELS
from mtkd_rl.student import make_optimizer, make_schedule
from mtkd_rl.train_baseline import parse_arguments
from tests.golden import conformance

FIGURES = conformance("schedules.json")
TEACHERS, STUDENTS = FIGURES["mtkd_rl"]["train_baseline"], FIGURES["mtkd_rl"]["train_student"]


def drops(rate, epochs: int, first: int) -> list[list[float]]:
    """[epoch, rate] wherever the rate changes, with epochs counted from `first`."""
    rates = [rate(epoch, 0, 10) for epoch in range(epochs)]
    return [[e + first, r] for e, r in enumerate(rates) if e == 0 or r != rates[e - 1]]


def close(ours: list[list[float]], theirs: list[list[float]]) -> bool:
    return [e for e, _ in ours] == [e for e, _ in theirs] and [r for _, r in ours] == pytest.approx(
        [r for _, r in theirs], rel=1e-9
    )


@pytest.mark.parametrize(
    ("figures", "flags"),
    [
        ("default_models", ["--model", "resnet32x4"]),
        ("MobileNetV2_ShuffleV1_ShuffleV2", ["--model", "ShuffleV1"]),
        ("ShuffleV2_0_5", ["--model", "ShuffleV2_0_5"]),
        ("MobileNetV2_with_learning_rate_flag_0.2", ["--model", "MobileNetV2", "--learning_rate", "0.2"]),
        (
            "decay_epochs_100_and_150_rate_0.2_of_160",
            ["--learning_rate", "0.1", "--lr_decay_epochs", "100,150", "--lr_decay_rate", "0.2", "--epochs", "160"],
        ),
    ],
)
def test_rates_of_teachers(figures, flags, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_baseline.py", *flags])
    args = parse_arguments()
    rate = step_decay(args.learning_rate, args.lr_decay_epochs, args.lr_decay_rate)
    assert close(drops(rate, args.epochs, TEACHERS["epochs_counted_from"]), TEACHERS[figures])


def test_all_figures_of_teachers_are_covered():
    assert len([key for key, value in TEACHERS.items() if isinstance(value, list)]) == 5
    assert set(LIGHT_MODELS) == {"MobileNetV2", "ShuffleV1", "ShuffleV2"}


def test_rates_of_students():
    epochs = STUDENTS["epochs"]
    multistep = make_schedule("multistep", 0.05, MILESTONES, epochs)
    assert close(drops(multistep, epochs, STUDENTS["epochs_counted_from"]), STUDENTS["multistep"])
    cosine = make_schedule("cosine", 0.05, MILESTONES, epochs)
    assert [cosine(epoch, 0, 10) for epoch in range(epochs)] == pytest.approx(STUDENTS["cosine"], rel=1e-9)


def test_shorter_runs_move_the_published_milestones_only():
    assert in_proportion(MILESTONES, 80) == [50, 60, 70]
    assert in_proportion([150, 180, 210], 80) == [150, 180, 210]
    assert GAMMA == 0.1


def test_optimizers():
    parameters = [torch.nn.Parameter(torch.ones(3))]
    published = FIGURES["constructed_optimizers"]
    expected = published["mtkd_rl/train_student_rl.py and train_student_avg.py"]
    sgd = make_optimizer(parameters, 0.05, 1e-4)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.defaults["nesterov"] == expected["nesterov"]
    assert (sgd.defaults["momentum"], sgd.defaults["weight_decay"]) == (0.9, 1e-4)
    expected = published["mtkd_rl agent"]
    assert (expected["type"], expected["lr"], expected["momentum"], expected["weight_decay"]) == ("SGD", AGENT_LR, 0, 0)
    assert not dict(Agent(7, 2, dynamic=False, loss="reward-weighted").named_buffers())  # plain SGD keeps nothing
