"""Recording and replaying steps, with a log of operators in place of CUDA graphs."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.models import create_model
from common.training.evaluation import Evaluation
from common.training.fast import recording_obstacle, use_fused
from common.training.method import Step
from common.training.recording import Recorded
from common.training.runtime import Runtime
from common.training.schedules import step_decay
from tests.operators import OperatorLog
from tests.training.test_engine import CPU, Linear, batches, trainer


def recorded(training, warm_up: int = 3) -> OperatorLog:
    """Let a trainer record on the CPU."""
    graphs = OperatorLog()
    use_fused(training.optimizer)
    training._record_updates(graphs)
    training._recorded.warm_up = warm_up
    return graphs


class Dropping(Linear):
    """Dropout draws anew at each step."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> Step:
        logits = self.student(F.dropout(images, 0.5))
        return Step(logits, {"label": F.cross_entropy(logits, targets)})


class Scheduled(Linear):
    """A loss that depends on the epoch, and has other names in some."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> Step:
        logits = self.student(images)
        losses = {"label": F.cross_entropy(logits, targets) * (1 + epoch)}
        return Step(logits, losses | ({"size": logits.square().mean()} if epoch == 1 else {}))


@pytest.mark.parametrize("method", [Linear, Dropping, Scheduled])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_replayed_run_is_the_run(method, kind, tmp_path):
    """Rates that change at every step, an odd last batch, dropout, and what depends on the epoch."""
    runs = []
    for name in ("plain", "recorded"):
        training = trainer(
            tmp_path / name,
            method(),
            make_optimizer=lambda parameters: kind(parameters, 0.1),
            schedule=step_decay(0.1, [1], 0.5, warmup_epochs=1),
            train=batches(count=40, shuffle=True),
        )
        graphs = recorded(training) if name == "recorded" else None
        runs.append((training.fit(None), [training.train_epoch(e, show_progress=False) for e in range(3)], training))
    (_, want, plain), (_, got, replayed) = runs
    # of the seven batches of an epoch: three to warm up in the first, one in the others, and the last, which is odd
    assert (graphs.recordings, graphs.replays) == (6, 3 + 5 * 5)
    assert replayed.remarks == []
    for ours, theirs in zip(got, want, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    for ours, theirs in zip(replayed.method.parameters(), plain.method.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_what_waits_for_the_host_falls_back(tmp_path):
    class Waiting(Linear):
        def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> Step:
            step = super().forward(images, targets, indices, epoch)
            return step if step.losses["label"].item() < 1e9 else None

    training, plain = (trainer(tmp_path / name, Waiting()) for name in ("recorded", "plain"))
    graphs = recorded(training)
    training.fit(None)
    plain.fit(None)
    assert graphs.replays == 0
    assert training.train_epoch(0, show_progress=False) == pytest.approx(plain.train_epoch(0, show_progress=False))


def test_the_reason_of_a_fall_back_is_told_once_in_one_line():
    told = []

    def wait(x: Tensor) -> float:
        return x.sum().item()

    call = Recorded(wait, OperatorLog(), 1, told.append)
    assert [call(torch.full((2,), float(i))) for i in range(4)] == [0, 2, 4, 6]
    assert told == ["aten._local_scalar_dense.default waits for the host"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, None),
        ({"runtime": Runtime(torch.device("cpu"), world_size=2)}, "several processes"),
        ({"runtime": Runtime(torch.device("cpu"), amp="fp16")}, "loss scaling"),
        ({"accumulation_steps": 2}, "several batches"),
        ({"optimizer": torch.optim.RMSprop}, "RMSprop takes the learning rate from the host"),
        ({"recordable": False}, "does not say"),
    ],
)
def test_obstacles(options, reason):
    method = Linear()
    method.recordable = options.get("recordable", True)
    optimizer = options.get("optimizer", torch.optim.SGD)(method.parameters(), lr=0.1)
    found = recording_obstacle(method, optimizer, options.get("runtime", CPU), options.get("accumulation_steps", 1))
    assert (found is None) if reason is None else (reason in found)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_fused_optimiser_takes_the_state_of_another_and_stays_fused(kind):
    def built():
        torch.manual_seed(0)
        network = nn.Linear(3, 2)
        return network, kind(network.parameters(), lr=0.1)

    (network, plain), (other, fused) = built(), built()
    use_fused(fused)
    for step in range(6):
        if step == 3:
            fused.load_state_dict(copy.deepcopy(plain.state_dict()))
            other.load_state_dict(network.state_dict())
        for module, optimizer in ((network, plain), (other, fused)):
            optimizer.zero_grad()
            module(torch.full((1, 3), float(step))).square().sum().backward()
            optimizer.step()
    assert fused.param_groups[0]["fused"]
    assert not plain.param_groups[0].get("fused")
    torch.testing.assert_close(other.weight, network.weight)


def test_checkpoints_of_a_recorded_run_hold_the_rate_as_a_number(tmp_path):
    training = trainer(tmp_path)
    recorded(training)
    training.fit(None)
    assert all(type(group["lr"]) is float for group in training.optimizer.state_dict()["param_groups"])


def test_evaluation_replayed_is_evaluation():
    network, graphs = create_model("resnet8", 3), OperatorLog()

    class Enlarged:
        @staticmethod
        def epoch():
            for batch in batches(count=20).epoch():
                yield batch._replace(images=batch.images.repeat(1, 1, 16, 16))

    evaluation = Evaluation(network, Enlarged, CPU, graphs=graphs)
    for _ in range(2):  # recorded once: later weights are seen where they lie
        assert evaluation() == pytest.approx(Evaluation(network, Enlarged, CPU)())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert (graphs.recordings, graphs.replays) == (1, 2 + 3)  # one batch before the recording, and the odd one twice
