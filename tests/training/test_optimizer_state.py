"""What a checkpoint brings into an optimizer fits the layout of its parameters, whoever wrote it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError
from common.training.fast_path import keep_implementation, keep_parameter_layout, use_fused, use_fused_loss_scaling
from common.training.method import StepOutput
from common.training.runtime import Runtime
from edkd.engine.dot import DOT
from tests.training.test_engine import Linear, trainer

KINDS = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=0.01),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01),
}


def network() -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3)


def steps(module: nn.Module, optimizer: torch.optim.Optimizer, count: int, layout: torch.memory_format) -> None:
    for step in range(count):
        images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        module(images.contiguous(memory_format=layout)).square().mean().backward()
        optimizer.step()


def continued(kind: str, keep: bool) -> tuple[Tensor, Tensor]:
    """Weights of an uninterrupted contiguous run, and of one that resumes fused and channels-last."""
    plain = network()
    optimizer = KINDS[kind](plain.parameters())
    steps(plain, optimizer, 2, torch.contiguous_format)
    state, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(plain.state_dict())
    steps(plain, optimizer, 2, torch.contiguous_format)

    fast = network().to(memory_format=torch.channels_last)
    fused = KINDS[kind](fast.parameters())
    use_fused(fused)
    keep_implementation(fused)
    if keep:
        keep_parameter_layout(fused)
    fused.load_state_dict(state)
    fast.load_state_dict(weights)
    steps(fast, fused, 2, torch.channels_last)
    return plain.weight.detach(), fast.weight.detach()


@pytest.mark.parametrize("kind", KINDS)
def test_contiguous_state_goes_on_beside_channels_last_parameters(kind):
    torch.testing.assert_close(*continued(kind, keep=True), rtol=1e-5, atol=1e-6)


def test_without_that_a_fused_update_is_wrong():
    """The reason why: no error, and other weights."""
    want, got = continued("SGD", keep=False)
    assert (want - got).abs().max() > 1e-4


@pytest.mark.parametrize("kind", [*KINDS, "DOT"])
def test_every_tensor_of_the_state_takes_its_parameters_strides(kind):
    def built(layout: torch.memory_format) -> torch.optim.Optimizer:
        module = network().to(memory_format=layout)
        if kind != "DOT":
            optimizer = KINDS[kind](module.parameters())
            steps(module, optimizer, 1, layout)
            return optimizer
        optimizer = DOT(module.parameters(), lr=0.1, momentum=0.9, momentum_kd=0.95)
        for _ in range(2):  # both losses
            module(torch.ones(1, 3, 6, 6).contiguous(memory_format=layout)).sum().backward()
            if not optimizer._distillation:
                optimizer.take_distillation_gradients()
        optimizer.step()
        return optimizer

    for ours, theirs in (
        (torch.channels_last, torch.contiguous_format),
        (torch.contiguous_format, torch.channels_last),
    ):
        optimizer, other = built(ours), built(theirs)
        keep_parameter_layout(optimizer)
        optimizer.load_state_dict(other.state_dict())
        pairs = zip(optimizer.state.items(), other.state.values(), strict=True)
        for (parameter, state), before in pairs:
            for name, value in state.items():
                assert torch.equal(value, before[name])
                assert value.shape != parameter.shape or value.stride() == parameter.stride(), name


class Convolution(Linear):
    """A small network whose layout shows in its strides."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.student = nn.Sequential(nn.Conv2d(3, 4, 2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))

    def forward(self, images: Tensor, targets: Tensor, indices: Tensor, epoch: int) -> StepOutput:
        logits = self.student(images)
        return StepOutput(logits, {"label": F.cross_entropy(logits, targets)})


@pytest.mark.parametrize("first", [True, False])
def test_plain_may_change_when_a_run_is_resumed(first, tmp_path):
    """It is no setting of a run: whoever changes it goes on with the same numbers up to rounding."""

    def built(plain: bool, epochs: int):
        return trainer(tmp_path, Convolution(), epochs, runtime=Runtime(torch.device("cpu"), plain=plain))

    uninterrupted = built(first, 3)
    uninterrupted.fit(None)
    begun = built(first, 2)
    begun.fit(None)
    begun.state.save(2)
    resumed = built(not first, 3)
    assert resumed.resume()
    resumed.epochs_done = 2
    if first:  # what a GPU does besides
        use_fused(resumed.step.optimizer)
    resumed.fit(None)
    layouts = {training.layout for training in (begun, resumed)}
    assert layouts == {torch.channels_last, torch.contiguous_format}
    for ours, theirs in zip(resumed.method.parameters(), uninterrupted.method.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_a_published_optimizers_state_is_laid_out_too(tmp_path):
    """`--restore_file` goes another way than `--resume`."""
    written = trainer(tmp_path, Convolution(), 1, runtime=Runtime(torch.device("cpu"), plain=True))
    written.train_epoch(0, show_progress=False)
    training = trainer(tmp_path, Convolution())
    training.state.restore_optimizer({"optim_dict": written.step.optimizer.state_dict()})
    weight = training.method.student[0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert training.step.optimizer.state[weight]["momentum_buffer"].stride() == weight.stride()


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_the_kernels_are_those_of_the_run_that_loads(kind, plain, tmp_path):
    """`--plain` stays unfused after a GPU's checkpoint, a GPU's run fused after a plain one."""
    runtime = Runtime(torch.device("cpu"), plain=plain)
    training = trainer(tmp_path, Convolution(), runtime=runtime, make_optimizer=KINDS[kind])
    optimizer = KINDS[kind](Convolution().parameters())
    flags = {"fused": True, "foreach": False, "capturable": True} if plain else {"fused": False, "foreach": None}
    for group in optimizer.param_groups:
        group.update({flag: value for flag, value in flags.items() if flag in group}, lr=0.5)
    if not plain:
        use_fused(training.step.optimizer)  # what a GPU does besides
    own = {flag: training.step.optimizer.param_groups[0].get(flag) for flag in flags}
    training.state.restore_optimizer({"optim_dict": optimizer.state_dict()})
    (group,) = training.step.optimizer.param_groups
    assert {flag: group.get(flag) for flag in flags} == own
    assert group["lr"] == 0.5  # what is computed with is loaded
    assert bool(group["fused"]) != plain


def test_a_state_of_other_groups_is_refused(tmp_path):
    training, other = trainer(tmp_path, Convolution()), Convolution()
    parts = [{"params": list(part.parameters())} for part in (other.student[0], other.student[3])]
    with pytest.raises(UserError, match="no optimizer state that fits"):
        training.state.restore_optimizer({"optim_dict": KINDS["SGD"](parts).state_dict()})


# ----------------------------------------------------------------------------------------------------- loss scaling


@pytest.mark.parametrize("kind", KINDS)
def test_a_fused_optimizer_under_loss_scaling_steps_as_a_plain_one(kind, monkeypatch):
    """Without reading anything back; the first step, whose gradients overflow, is skipped."""

    def run(fused: bool) -> tuple[Tensor, float]:
        module = network()
        optimizer = KINDS[kind](module.parameters())
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
        if fused:
            use_fused(optimizer)
            use_fused_loss_scaling(optimizer)
            monkeypatch.setattr(scaler, "_maybe_opt_step", None)  # what asks the device whether to step
        for step in range(4):
            optimizer.zero_grad()
            loss = module(torch.full((2, 3, 6, 6), 1.0 + step)).square().mean()
            scaler.scale(loss * (1e38 if step == 0 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
        return module.weight.detach(), scaler.get_scale()

    (plain, scale), (fused, fused_scale) = run(False), run(True)
    assert scale == fused_scale == 2.0**10  # halved once, doubled once
    torch.testing.assert_close(fused, plain, rtol=1e-5, atol=1e-6)
    assert not torch.equal(plain, network().weight)
