"""Capturing and replaying steps, with a log of operators in place of CUDA graphs."""

import contextlib
import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import TrainingError, UserError
from common.models import create_model
from common.training.cuda_graphs import CaptureError, CudaGraphs, GraphedCallable, graphs_blocker
from common.training.evaluation import Evaluation
from common.training.fast_path import capture_blocker, keep_implementation, use_fused
from common.training.method import StepOutput
from common.training.runtime import Runtime
from common.training.schedules import step_decay
from tests.operators import OperatorLog
from tests.processes import checkpoint, record
from tests.training.test_engine import CPU, Linear, batches, run_directory, trainer


def captured(training, warm_up: int = 3) -> OperatorLog:
    """Let a trainer capture on the CPU."""
    graphs = OperatorLog()
    use_fused(training.step.optimizer)
    training.step.capture(graphs, warm_up)
    return graphs


class Dropping(Linear):
    """Dropout draws again at each step."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(F.dropout(images, 0.5))
        return StepOutput(logits, {"label": F.cross_entropy(logits, targets)})


class Scheduled(Linear):
    """A loss that depends on the epoch, and has other names in some."""

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        losses = {"label": F.cross_entropy(logits, targets) * (1 + epoch)}
        return StepOutput(logits, losses | ({"size": logits.square().mean()} if epoch == 1 else {}))


@pytest.mark.parametrize("method", [Linear, Dropping, Scheduled])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_a_replayed_run_is_the_run(method, kind, tmp_path):
    """Rates that change at every step, an odd last batch, dropout, and what depends on the epoch."""
    runs = []
    for name in ("plain", "captured"):
        training = trainer(
            tmp_path / name,
            method(),
            make_optimizer=lambda parameters: kind(parameters, 0.1),
            schedule=step_decay(0.1, [1], 0.5, warmup_epochs=1),
            train=batches(count=40, shuffle=True),
        )
        graphs = captured(training) if name == "captured" else None
        runs.append((training.fit(None), [training.train_epoch(e, show_progress=False) for e in range(3)], training))
    (_, want, plain), (_, got, replayed) = runs
    # of the seven batches of an epoch: three to warm up in the first, one in the others, and the last, which is odd
    assert (graphs.captures, graphs.replays) == (6, 3 + 5 * 5)
    assert replayed.messages == []
    for ours, theirs in zip(got, want, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    for ours, theirs in zip(replayed.method.parameters(), plain.method.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_what_waits_for_the_host_falls_back(tmp_path):
    training, plain = (trainer(tmp_path / name, Waiting()) for name in ("captured", "plain"))
    graphs = captured(training)
    training.fit(None)
    plain.fit(None)
    assert graphs.replays == 0
    assert training.execution()["step"] == "eager: aten._local_scalar_dense.default waits for the host"
    assert training.train_epoch(0, show_progress=False) == pytest.approx(plain.train_epoch(0, show_progress=False))


def test_the_cause_of_a_fall_back_is_told_once_in_one_line():
    told = []

    def wait(x: Tensor) -> float:
        return x.sum().item()

    call = GraphedCallable(wait, OperatorLog(), "steps", 1, told.append)
    assert [call(torch.full((2,), float(i))) for i in range(4)] == [0, 2, 4, 6]
    assert told == ["steps: not captured as a CUDA graph: aten._local_scalar_dense.default waits for the host"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, None),
        ({"runtime": Runtime(torch.device("cpu"), world_size=2)}, "several ranks"),
        ({"runtime": Runtime(torch.device("cpu"), amp="fp16")}, "fp16"),
        ({"accumulation_steps": 2}, "several batches"),
        ({"optimizer": torch.optim.RMSprop}, "RMSprop takes the learning rate from the host"),
        ({"graph_capturable": False}, "does not say"),
    ],
)
def test_obstacles(options, reason):
    method = Linear()
    method.graph_capturable = options.get("graph_capturable", True)
    optimizer = options.get("optimizer", torch.optim.SGD)(method.parameters(), lr=0.1)
    found = capture_blocker(method, optimizer, options.get("runtime", CPU), options.get("accumulation_steps", 1))
    assert (found is None) if reason is None else (reason in found)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_a_fused_optimizer_takes_the_state_of_another_and_stays_fused(kind):
    def built():
        torch.manual_seed(0)
        network = nn.Linear(3, 2)
        return network, kind(network.parameters(), lr=0.1)

    (network, plain), (other, fused) = built(), built()
    use_fused(fused)
    keep_implementation(fused)
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


def test_checkpoints_of_a_captured_run_hold_the_rate_as_a_number(tmp_path):
    training = trainer(tmp_path)
    captured(training)
    training.fit(None)
    assert all(type(group["lr"]) is float for group in training.step.optimizer.state_dict()["param_groups"])


def test_evaluation_replayed_is_evaluation():
    network, graphs = create_model("resnet8", 3), OperatorLog()

    class Enlarged:
        @staticmethod
        def epoch():
            for batch in batches(count=20).epoch():
                yield batch._replace(images=batch.images.repeat(1, 1, 16, 16))

    evaluation = Evaluation(network, Enlarged, CPU, graphs=graphs)
    for _ in range(2):  # captured once: later weights are seen where they lie
        assert evaluation() == pytest.approx(Evaluation(network, Enlarged, CPU)())
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    assert (graphs.captures, graphs.replays) == (1, 2 + 3)  # one batch before the recording, and the odd one twice


class Constant(Linear):
    """Steps do not depend on the epoch."""

    epoch_dependent_until = 0


class WarmedUp(Linear):
    """A loss that grows over the first two epochs."""

    epoch_dependent_until = 2

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        step = super().forward(images, targets, indices, epoch)
        return StepOutput(step.logits, {name: loss * min(1 + epoch, 3) for name, loss in step.losses.items()})


@pytest.mark.parametrize(("method", "captures"), [(Constant, 1), (WarmedUp, 3), (Linear, 5)])
def test_captured_again_only_where_steps_have_changed(method, captures, tmp_path):
    """The metrics of each epoch are its own all the same, and the odd last batch lies between replays."""
    epochs, runs = 5, {}
    for way in ("eager", "captured"):
        training = trainer(tmp_path / way, method(), train=batches(count=40, shuffle=True))
        graphs = captured(training) if way == "captured" else None
        runs[way] = [training.train_epoch(epoch, show_progress=False) for epoch in range(epochs)]
    assert graphs.captures == captures
    # three to warm up in the first epoch, one more before each further capture, and the odd one of each epoch
    assert graphs.replays == epochs * 7 - 3 - (captures - 1) - epochs
    for ours, theirs in zip(runs["captured"], runs["eager"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_an_epoch_that_is_far_from_the_last_is_captured_again(tmp_path):
    training = trainer(tmp_path, WarmedUp(), train=batches(count=42))
    graphs = captured(training, warm_up=1)
    for epoch, captures in ((5, 1), (7, 1), (2, 1), (0, 2), (9, 3)):
        training.train_epoch(epoch, show_progress=False)
        assert graphs.captures == captures


def test_what_is_loaded_is_not_trained_by_an_old_capture(tmp_path):
    training = trainer(tmp_path, Constant(), train=batches(count=42))
    graphs = captured(training, warm_up=1)
    training.fit(None)
    training.state.save(3)
    assert training.resume()
    training.train_epoch(3, show_progress=False)
    assert graphs.captures == 2


class Learner(Constant):
    """Learns something by itself after each update."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("learned", torch.zeros(()))
        self.calls = self.steps = 0

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        step = super().forward(images, targets, indices, epoch)
        return StepOutput(step.logits, step.losses, transition=step.losses["label"].detach())

    def after_update(self, transition: Tensor) -> None:
        self.calls += 1
        self.learned += transition

    def after_step(self, epoch: int, iteration: int, iterations: int) -> None:
        self.steps += 1


def test_what_a_method_does_after_an_update_is_captured_with_the_step(tmp_path):
    eager, replayed = (trainer(tmp_path / way, Learner(), train=batches(count=40)) for way in ("eager", "captured"))
    captured(replayed)
    for training in (eager, replayed):
        for epoch in range(3):
            training.train_epoch(epoch, show_progress=False)
        assert training.method.steps == 21  # the host's turn comes after every step
    torch.testing.assert_close(replayed.method.learned, eager.method.learned, rtol=1e-5, atol=0)
    assert (eager.method.calls, replayed.method.calls) == (21, 3 + 1 + 3)  # warm-up, capture, odd batches


# ------------------------------------------------------------------------------------------- captures that fail


class Waiting(Linear):
    """Reads a loss back."""

    graph_capturable = True

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        step = super().forward(images, targets, indices, epoch)
        return step if step.losses["label"].item() < 1e9 else None


def test_a_capture_that_cannot_be_recovered_from_ends_the_run_with_one_line(tmp_path):
    training = trainer(tmp_path, Waiting())
    training.step.capture(OperatorLog(recoverable=False))
    line = r"steps cannot be captured .*_local_scalar_dense.*: use --no-graphs"
    with pytest.raises(TrainingError, match=line) as caught:
        training.fit(run_directory(tmp_path))
    assert "\n" not in str(caught.value)
    ended = record(tmp_path)
    assert (ended["status"], ended["epochs_done"]) == ("failed", 1)  # captured with the second epoch's first batch
    assert checkpoint(tmp_path / "last")["epoch"] == 1


def test_evaluation_that_falls_back_says_so():
    class Reading(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flatten(1)) * x.max().item()

    told, network = [], Reading(12, 3)
    evaluation = Evaluation(network, batches(), CPU, graphs=OperatorLog(), report=told.append)
    assert evaluation.execution == "warming up"
    assert evaluation() == pytest.approx(Evaluation(network, batches(), CPU)())
    assert told == ["evaluation: not captured as a CUDA graph: aten.item.default waits for the host"]
    assert evaluation.execution == "eager: aten.item.default waits for the host"


class Device:
    """What `CudaGraphs` sees of a GPU: streams, graphs, and a state that a broken capture may leave behind.

    Args:
        end_fails: a kernel breaks the first capture, so that it cannot be ended.
        stays_broken: the allocator does not recover.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, end_fails: bool, stays_broken: bool = False) -> None:
        self.end_fails, self.stays_broken, self.broken, self.capturing = False, stays_broken, False, False
        self.current, self.pools = "default", []
        device, handles = self, itertools.count(1)

        class Graph:
            def capture_begin(self, pool: tuple, capture_error_mode: str) -> None:
                assert device.current == "side"
                device.capturing = True
                device.pools.append(pool)

            def capture_end(self) -> None:
                device.capturing = False
                if device.end_fails:
                    device.end_fails, device.broken = False, True
                    raise RuntimeError("operation failed due to a previous error during capture")

            def reset(self) -> None:
                device.broken = device.stays_broken

            def replay(self) -> None:
                pass

        @contextlib.contextmanager
        def stream(name: str):
            before, device.current = device.current, name
            yield
            device.current = before

        def synchronize(*_) -> None:
            if device.broken:
                raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

        fakes = {
            "Stream": lambda _: "side",
            "graph_pool_handle": lambda: (0, next(handles)),
            "CUDAGraph": Graph,
            "stream": stream,
            "synchronize": synchronize,
            "empty_cache": synchronize,
            "is_current_stream_capturing": lambda: device.capturing,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        monkeypatch.setattr(torch.random, "fork_rng", lambda devices: contextlib.nullcontext())
        self.graphs = CudaGraphs(torch.device("cpu"))
        self.end_fails = end_fails  # of what is captured from here on

    def failed(self) -> CaptureError:
        def work() -> None:
            raise ValueError("the cause\nand more")

        with pytest.raises(CaptureError) as caught:
            self.graphs.capture(work)
        return caught.value


@pytest.mark.parametrize(
    ("end_fails", "stays_broken", "version", "recoverable"),
    [
        (False, False, "2.11.0+cu130", True),  # Python stopped, the stream is whole
        (True, False, "2.11.0+cu130", False),
        (True, False, "2.13.1", False),
        (True, False, "2.14.0a0+git1", True),
        (True, True, "2.14.0", False),  # whatever the version says, it is tried
        (True, False, "3.0.0", True),
    ],
)
def test_a_failed_capture_gives_the_stream_back_and_names_the_cause(
    end_fails, stays_broken, version, recoverable, monkeypatch
):
    device = Device(monkeypatch, end_fails, stays_broken)
    monkeypatch.setattr(torch, "__version__", version)
    error = device.failed()
    assert str(error) == "the cause"
    assert isinstance(error.__cause__, ValueError)
    assert error.recoverable is recoverable
    assert (device.current, device.capturing) == ("default", False)


def test_a_capture_that_only_its_end_finds_broken(monkeypatch):
    device = Device(monkeypatch, end_fails=True)
    with pytest.raises(CaptureError, match="previous error during capture"):
        device.graphs.capture(lambda: None)
    assert device.current == "default"


@pytest.mark.slow
def test_all_captures_share_a_pool_that_a_graph_keeps_open(monkeypatch):
    device = Device(monkeypatch, end_fails=False)
    assert device.pools == [(0, 1)]  # the keeper's own
    assert device.graphs.capture(lambda: 5)() == 5
    device.graphs.capture(lambda: None)
    assert device.pools == [(0, 1)] * 3


@pytest.mark.slow
def test_after_a_failed_capture_another_pool_is_kept_open(monkeypatch):
    device = Device(monkeypatch, end_fails=False)
    assert device.failed().recoverable
    device.graphs.capture(lambda: None)
    assert device.pools == [(0, 1), (0, 1), (0, 2), (0, 2)]


# --------------------------------------------------------------------------------------------- memory, and the record


class Hungry(Constant):
    """Needs more memory than there is at one call of its forward pass."""

    graph_capturable = True

    def __init__(self, call: int) -> None:
        super().__init__()
        self.left = call

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        self.left -= 1
        if self.left == 0:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.10 GiB"
            )
        return super().forward(images, targets, indices, epoch)


@pytest.mark.parametrize(
    ("call", "graphs", "what"),
    [
        (2, True, "steps before their capture: CUDA out of memory. Tried to allocate 2.00 GiB; .* or --no-graphs"),
        (5, True, "steps on a batch of another size: CUDA out of memory.*a smaller batch size, or --amp bf16, or --no"),
        (
            2,
            False,
            "training: CUDA out of memory.*; take a smaller batch size, or --amp bf16$",
        ),
    ],
)
def test_a_full_memory_is_said_in_one_line(call, graphs, what, tmp_path):
    training = trainer(tmp_path, Hungry(call), train=batches(count=26))
    if graphs:
        captured(training)
    with pytest.raises(TrainingError, match=what):
        training.fit(run_directory(tmp_path))
    assert "out of memory" in record(tmp_path)["error"]


def test_a_capture_that_needs_too_much_falls_back(tmp_path):
    training = trainer(tmp_path, Hungry(4), train=batches(count=26))
    captured(training)
    training.fit(run_directory(tmp_path))
    assert "CUDA out of memory" in record(tmp_path)["segments"][-1]["execution"]["step"]


def test_the_record_says_how_steps_were_taken(tmp_path):
    training = trainer(tmp_path, Constant(), train=batches(count=42))
    captured(training)
    assert training.execution()["step"] == "warming up"
    training.fit(run_directory(tmp_path))
    assert record(tmp_path)["segments"][-1]["execution"] == {
        "layout": "channels_last",
        "precision": "fp32",
        "step": "captured",
        "evaluation": "eager: no GPU",
        "peak_memory_mib": None,  # of a GPU
    }
    plain = trainer(tmp_path, runtime=Runtime(torch.device("cpu"), plain=True)).execution()
    assert (plain["layout"], plain["step"]) == ("contiguous", "eager: no GPU")


@pytest.mark.parametrize(
    ("options", "blocker"),
    [({}, None), ({"plain": True}, "--plain"), ({"graphs": False}, "--no-graphs")],
)
def test_what_keeps_a_gpu_from_graphs(options, blocker):
    assert graphs_blocker(Runtime(torch.device("cuda"), **options)) == blocker
    assert graphs_blocker(Runtime(torch.device("cpu"), **options)) == "no GPU"


def test_the_old_word_is_refused(tmp_path):
    class Old(Linear):
        recordable = True

    with pytest.raises(UserError, match=r"Old.recordable is called graph_capturable now"):
        trainer(tmp_path, Old())
