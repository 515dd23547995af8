"""What is not finite is never saved, and what is too small has a defined value or is left out aloud."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from common.data import DeviceLoader, ImageArrays, Normalization
from common.data.image_files import ImageFileLoader, ImageFiles
from common.errors import TrainingError, UserError
from common.training.batch_norm import use_channels_last_batch_norm
from common.training.method import Method, StepOutput
from common.training.runs import write_json
from edkd.distillers.RKD import rkd_loss
from mlkd.upscaled import UpscaledLoader
from mtkd_rl.methods import AGENT_LOSSES, Agent, State, Transition, standardize
from tests.processes import checkpoint, metrics, record
from tests.training.test_engine import batches, run_directory, trainer

NORMALIZATION = Normalization((0.5,) * 3, (0.25,) * 3)


class Spoiled(Method):
    """A network that learns well, beside which something turns bad in the second epoch."""

    def __init__(self, spoil) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        self.register_buffer("own", torch.zeros(2))
        self.unused, self.counts, self.spoil = nn.Parameter(torch.zeros(3)), {"best": -math.inf, "last": 0.0}, spoil
        self.figure = 1.0

    def get_extra_state(self) -> dict[str, float]:
        return self.counts

    def set_extra_state(self, state: dict[str, float]) -> None:
        self.counts = state

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        return StepOutput(logits, {"label": F.cross_entropy(logits, targets)})

    def after_step(self, epoch: int, iteration: int, iterations: int) -> None:
        if epoch == 1 and iteration == iterations - 1:
            self.spoil(self)

    def epoch_metrics(self) -> dict[str, Tensor]:
        return {"figure": torch.tensor(self.figure)}


def fill(of: str, value: float):
    def spoil(method: Spoiled) -> None:
        with torch.no_grad():
            method.get_parameter(of).view(-1)[0] = value

    return spoil


def fill_buffer(of: str, value: float):
    return lambda method: method.get_buffer(of).fill_(value)


BAD_STATE = {
    "a weight": (fill("student.3.bias", math.nan), "test loss is not finite"),
    "a weight that no loss sees": (fill("unused", math.inf), "'weights.unused' is not finite"),
    "a buffer of the method": (fill_buffer("own", math.nan), "'weights.own' is not finite"),
    "a running statistic": (fill_buffer("student.2.running_mean", math.nan), "test loss is not finite"),
    "a number of the method": (lambda m: m.counts.update(last=math.nan), "'weights._extra_state.last' is not finite"),
}


@pytest.mark.parametrize("case", BAD_STATE)
def test_state_that_is_not_finite_is_not_saved(case, tmp_path):
    spoil, message = BAD_STATE[case]
    training = trainer(tmp_path, Spoiled(spoil))
    with pytest.raises(TrainingError, match=f"{message} after epoch 2"):
        training.fit(run_directory(tmp_path))
    assert (record(tmp_path)["status"], record(tmp_path)["epochs_done"]) == ("failed", 1)
    assert len(metrics(tmp_path)) == 1
    for name in ("last", "best"):
        content = checkpoint(tmp_path / name)
        assert content["epoch"] == 1
        tensors = [t for t in content["training"]["weights"].values() if isinstance(t, Tensor)]
        assert all(tensor.isfinite().all() for tensor in tensors)
    again = trainer(tmp_path, Spoiled(lambda method: None))
    assert again.resume()
    again.fit(run_directory(tmp_path))
    assert again.state.epochs_done == 3


def test_state_of_the_optimizer_that_is_not_finite_is_not_saved(tmp_path):
    training = trainer(tmp_path, Spoiled(lambda method: None))

    def spoil(method: Spoiled) -> None:
        next(iter(training.step.optimizer.state.values()))["momentum_buffer"].fill_(math.inf)

    training.method.spoil = spoil
    with pytest.raises(TrainingError, match=r"'optimizer\.\S+momentum_buffer' is not finite after epoch 2"):
        training.fit(run_directory(tmp_path))
    assert checkpoint(tmp_path / "last")["epoch"] == 1


def test_a_figure_that_is_not_finite_is_left_out_aloud(tmp_path, capsys):
    """Who reports it goes on training."""
    training = trainer(tmp_path, Spoiled(lambda method: setattr(method, "figure", math.nan)))
    training.fit(run_directory(tmp_path))
    assert ["train/figure" in line for line in metrics(tmp_path)] == [True, False, False]
    assert "warning: figure of epoch 2 is not finite and is left out of the record" in capsys.readouterr().out
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    assert trainer(tmp_path, Spoiled(lambda method: None)).resume()


# ------------------------------------------------------------------------------------- statistics over one sample


def test_standardized_by_one_sample():
    for value in (-3.7, 0.0, 1e30):
        standardized, count = standardize(torch.tensor([value]))
        assert standardized.tolist() == [0.0]
        assert count == 1


def test_standardized_by_two_samples_as_ever():
    standardized, _ = standardize(torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(standardized, torch.tensor([-1.0, 1.0]) / math.sqrt(2))


@pytest.mark.parametrize("samples", [1, 2, 5])
@pytest.mark.parametrize("loss", AGENT_LOSSES)
def test_the_agent_learns_finite_numbers(loss, samples):
    torch.manual_seed(0)
    teachers, classes, width = 2, 5, 3
    agent = Agent(teachers * (3 + width + classes), teachers, dynamic=True, loss=loss)
    before = [parameter.clone() for parameter in agent.learner.parameters()]
    table = torch.rand(samples, teachers)
    state = State(
        *(torch.rand(samples, teachers) for _ in range(3)),
        [torch.rand(samples, width) for _ in range(teachers)],
        torch.rand(samples, classes, teachers),
    )
    transition = Transition(state, agent.act(state), -table.sum(1), -table, -2 * table, torch.zeros(samples))
    assert agent.learn(transition).isfinite()
    after = list(agent.learner.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    if (samples, loss) == (1, "reward-weighted"):  # nothing is learned from one sample
        assert all(map(torch.equal, before, after))


# ----------------------------------------------------------------------------------------- remainders of an epoch


def small(count: int, batch_size: int, *, train: bool, directory: Path, **options) -> DeviceLoader:
    images = ImageArrays(np.zeros((count, 8, 8, 3), np.uint8), np.arange(count) % 2)
    return DeviceLoader(images, batch_size, NORMALIZATION, shuffle=train, **options)


def large(count: int, batch_size: int, *, train: bool, directory: Path, **options) -> ImageFileLoader:
    file = directory / "image.png"
    Image.new("RGB", (8, 8)).save(file)
    images = ImageFiles((file,) * count, np.arange(count) % 2)
    return ImageFileLoader(images, batch_size, NORMALIZATION, train=train, size=8, **options)


def upscaled(count: int, batch_size: int, *, train: bool, directory: Path, **options) -> UpscaledLoader:
    inside = small(count, batch_size, train=train, directory=directory, **options)
    return UpscaledLoader(inside, 8, 8, NORMALIZATION, jitter=0.0, train=train)


LOADERS = {"small images": small, "large images": large, "upscaled images": upscaled}

# images, batch size, processes -> images of an epoch in training
REMAINDERS = [
    (9, 4, 1, 8),
    (10, 4, 1, 10),
    (8, 4, 1, 8),
    (13, 6, 2, 12),
    (15, 6, 2, 12),
    (16, 6, 2, 16),
    (3, 1, 1, 3),
    (5, 2, 2, 4),
]


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize(("count", "batch_size", "processes", "trained"), REMAINDERS)
class TestRemainder:
    def test_in_training(self, count, batch_size, processes, trained, loader, tmp_path):
        seen = []
        for rank in range(processes):
            given = {"train": True, "directory": tmp_path, "rank": rank, "world_size": processes}
            made = LOADERS[loader](count, batch_size, **given)
            assert made.samples == trained
            epoch = list(made.epoch(0))
            assert len(epoch) == len(made)
            seen += torch.cat([batch.indices for batch in epoch]).tolist()
            assert (made.message is None) == (trained == count)
            if made.message:
                assert made.message.startswith(f"each epoch leaves out the last {count - trained} sample")
        assert len(seen) == len(set(seen)) == trained

    def test_in_evaluation(self, count, batch_size, processes, trained, loader, tmp_path):
        seen = []
        for rank in range(processes):
            given = {"train": False, "directory": tmp_path, "rank": rank, "world_size": processes}
            made = LOADERS[loader](count, batch_size, **given)
            assert made.message is None
            seen += [index for batch in made.epoch(0) for index in batch.indices.tolist()]
        assert sorted(seen) == list(range(count))


@pytest.mark.parametrize("loader", LOADERS)
def test_batches_that_cannot_be_shared(loader, tmp_path):
    with pytest.raises(UserError, match="a batch of 1 cannot be divided among 2 processes"):
        LOADERS[loader](9, 1, train=True, directory=tmp_path, world_size=2)


@pytest.mark.parametrize(("count", "limit", "said"), [(19, None, 1), (18, None, 0), (19, 3, 0), (19, 4, 1)])
def test_the_log_says_once_what_is_left_out(count, limit, said, tmp_path, capsys):
    training = trainer(tmp_path, train=batches(count, shuffle=True, limit=limit))
    training.fit(run_directory(tmp_path))
    assert len(re.findall("each epoch leaves out the last 1 sample ", capsys.readouterr().out)) == said


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("kind", ["different", "equal"])
def test_losses_between_samples_have_a_value_for_the_smallest_batch(kind, samples, squared):
    features = torch.randn(samples, 5, generator=torch.Generator().manual_seed(0))
    features = (features if kind == "different" else torch.zeros(samples, 5)).requires_grad_()
    loss = rkd_loss(features, features.detach().flip(1), squared, distance_weight=25.0, angle_weight=50.0)
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    if samples == 1:
        assert loss == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_of_a_single_value_is_one_line(layout, tmp_path):
    """PyTorch refuses it; a variance over one value would be 0/0."""
    training = trainer(tmp_path, Spoiled(lambda method: None), layout=layout)
    use_channels_last_batch_norm(norm := nn.BatchNorm2d(3))
    training.method.forward = lambda images, *_: norm(images.new_ones(1, 3, 1, 1).to(memory_format=layout))
    with pytest.raises(TrainingError, match=r"^batch norm cannot train on a single value .*; take a larger batch size"):
        training.fit(run_directory(tmp_path))
    assert record(tmp_path)["status"] == "failed"
    assert all(value.isfinite().all() for value in norm.state_dict().values())


# ---------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_file_of_numbers_that_are_not_finite_is_not_written(value, tmp_path):
    """JSON has no such numbers, and nothing here would read them again."""
    write_json(tmp_path / "x.json", {"weights": [1.0]})
    with pytest.raises(TrainingError, match=r"cannot write .*x\.json \(a number is not finite\)"):
        write_json(tmp_path / "x.json", {"weights": [1.0, value]})
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        "x.json": '{\n  "weights": [\n    1.0\n  ]\n}\n'
    }
