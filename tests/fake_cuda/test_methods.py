"""Every method of every paper on a GPU that computes nothing: nothing mixes devices or waits inside a capture."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.first_run.methods import CLASSES, METHODS, tfkd_sgd
from benchmarks.first_run.steps import is_capturable
from common.training.engine import Trainer
from common.training.method import FrozenTeacher, Method, StepOutput
from common.training.teacher_memory import CurrentBatch, TeacherMemory
from common.training.teacher_pass import LargeBatches, TeacherPass
from mlkd.mixup_cutmix import Mix, MixupCutmix
from tests.fake_cuda.stage import GPU, RefusedError, captured_trainer, fake_batch, fake_gpu


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["off", "bf16"])
@pytest.mark.parametrize("name", METHODS)
def test_steps_and_evaluation(name, amp, monkeypatch):
    """Captured, unless something is known to stand against it; then the same steps run as they are."""
    monkeypatch.setattr(MixupCutmix, "draw", lambda *_: Mix(0.3, 0.3))  # numbers of the host, which are fake here
    setting, capturable = METHODS[name], is_capturable(name)
    method = setting.build(torch.arange(64) % CLASSES)
    with fake_gpu() as gpu:
        trainer = captured_trainer(method, lambda p: setting.make_optimizer(p, setting.lr), amp)
        fused = "dot" not in name
        assert gpu.fused == (0 if not fused else 2 if capturable else 3)
        step, evaluation = trainer.step.graphed, trainer._evaluations["test"]._graphed
        assert evaluation.status == "captured"
        assert (step is not None) == capturable
        if capturable:
            assert step.status == "captured"
            assert gpu.seen > 100


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edkd EDKD", "edkd KD", "tfkd kd"])
def test_remembered_logits_in_captured_steps(name):
    """The lookup reads and writes the GPU alone: its position is a number there, its rows lie where they were."""
    setting = METHODS[name]
    method = setting.build(torch.arange(64) % CLASSES)
    teachers = [module for module in method.modules() if isinstance(module, FrozenTeacher)]
    with fake_gpu() as gpu:
        trainer = captured_trainer(
            method, lambda p: setting.make_optimizer(p, setting.lr), prepare=lambda trainer: remember(trainer, teachers)
        )
        memories = [teacher.memory for teacher in teachers]
        assert trainer.step.graphed.status == "captured"
        assert gpu.seen > 100
        assert [(memory.asked, memory.answered) for memory in memories] == [(2, 2)]  # before the capture, and in it


def remember(trainer: Trainer, teachers: list[FrozenTeacher]) -> None:
    """Give the teachers memories, as `remember_teachers` does after it has tried the method out."""
    batch = CurrentBatch(GPU)
    like = torch.empty(4, CLASSES, device=GPU)
    memories = [TeacherMemory(teacher, batch, 12, like, [4]) for teacher in teachers]
    for memory in memories:
        memory.teacher.memory = memory
    trainer.step.teacher_pass = TeacherPass(
        LargeBatches(trainer.loaders.train, trainer.runtime, trainer.layout, 1024), batch, memories
    )


@pytest.mark.slow
def test_what_cannot_be_captured_is_this():
    """A method that stops being captured is noticed."""
    assert [name for name in METHODS if not is_capturable(name)] == [
        "edkd KDSVD",
        "edkd KD, dot",
        "edkd CRD, crd_dot",
        "mlkd multi-level",
        "mlkd multi-level, labels, no mixing",
        "mlkd teacher",
    ]


# ---------------------------------------------------------------------------------------------------- negative controls


class Faulty(Method):
    """A small network, and a loss that does something wrong: (method, logits, targets) -> loss."""

    graph_capturable = True

    def __init__(self, change: Callable[[Method, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))
        self.change = change

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        return StepOutput(logits, {"loss": self.change(self, logits, targets)})


FAULTS = {
    "mixed devices": (lambda m, x, y: (x * torch.ones(CLASSES, device="cpu")).sum(), "of the host|mixes devices"),
    "item": (lambda m, x, y: x.sum() * (1 if x.sum().item() > 0 else 2), "reads from the device"),
    "truth": (lambda m, x, y: x.sum() if x.sum() > 0 else -x.sum(), "reads from the device"),
    "constant": (lambda m, x, y: (x * torch.tensor([2.0], device=GPU)).sum(), "from the host"),
    "boolean mask": (lambda m, x, y: x[y >= 0].sum(), "by a mask reads|reads from the device"),
    "nonzero": (lambda m, x, y: x[(y >= 0).nonzero()[:, 0]].sum(), "reads from the device"),
    "eigenvalues": (lambda m, x, y: torch.linalg.eigh(x @ x.T).eigenvalues.sum(), "reads from the device"),
    "inverse": (lambda m, x, y: torch.linalg.inv(x @ x.T).sum(), "reads from the device"),
    "sample": (lambda m, x, y: x.sum() * torch.multinomial(x.exp(), 1).sum(), "reads from the device"),
    "to the host": (lambda m, x, y: x.cpu().sum(), "of the host inside a capture"),
}


def steps_of(change: Callable) -> None:
    method = Faulty(change)
    with fake_gpu():
        captured_trainer(method, lambda parameters: tfkd_sgd(parameters, 0.1), warm_up=0)


def test_the_control_itself_is_captured():
    steps_of(lambda m, x, y: F.cross_entropy(x, y))


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_refused(fault):
    change, message = FAULTS[fault]
    with pytest.raises(RefusedError, match=message):
        steps_of(change)


def test_a_network_left_on_the_host_is_refused():
    """Outside a capture, too."""
    method = Faulty(lambda m, x, y: m.forgotten[0](x).sum())
    method.forgotten = [nn.Linear(CLASSES, 2)]  # a plain list: not moved
    method.graph_capturable = False
    # real tensors of the host are what fake ones refuse, whatever the operator
    with fake_gpu(), pytest.raises(AssertionError, match="convert all Tensors to FakeTensors"):
        captured_trainer(method, lambda parameters: tfkd_sgd(parameters, 0.1))


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_state_in_another_layout_is_refused(kind):
    """As a contiguous checkpoint leaves it beside channels-last parameters, unless the loop lays it out."""
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    method = Faulty(lambda m, x, y: F.cross_entropy(x, y)).to(memory_format=torch.channels_last)
    with fake_gpu():
        trainer = captured_trainer(method, lambda parameters: kind(parameters, lr=0.1, **options))
        weight = trainer.method.student[0].weight
        state, name = trainer.step.optimizer.state[weight], "momentum_buffer" if options else "exp_avg"
        trainer.step.update(*fake_batch()[:3])
        transposed = torch.empty_like(state[name]).transpose(2, 3)
        assert transposed.stride() != weight.stride()
        state[name] = transposed
        with pytest.raises(RefusedError, match="other strides"):
            trainer.step.update(*fake_batch()[:3])
