"""The student: the published layout and outputs, and timm's network of the same weights."""

import pytest
import timm
import torch
from timm.models.resnetv2 import ResNetV2

from common.training.checkpoints import save_checkpoint
from mlkd.exits import count_macs
from mlkd.student import EXITS, MultiResNetV2, plain_state
from tests.golden import conformance, golden_fill, golden_input
from tests.models.conformance_checks import TOLERANCE, check_layout

FIGURES = conformance("models/mlkd__MultiResNetV2.json")
OUTPUTS = ("final", "exit_1", "exit_2", "exit_3")  # in the order of the figures


@pytest.fixture(scope="module")
def student() -> MultiResNetV2:
    """With its initial weights, in evaluation mode."""
    return MultiResNetV2(37).eval()


def test_layout(student):
    check_layout(student, FIGURES)


@pytest.mark.slow
def test_outputs():
    student, images = golden_fill(MultiResNetV2(37)), golden_input(FIGURES["input_shape"])
    for mode in ("eval", "train"):  # in this order: training moves the running statistics, and reads none
        with torch.no_grad():
            heads = student.train(mode == "train").heads(images)
        assert tuple(heads) == EXITS
        check_outputs(heads, mode)


def check_outputs(heads: dict[str, torch.Tensor], mode: str) -> None:
    wanted = [FIGURES[mode], *FIGURES[mode]["branches"]]
    for name, want in zip(OUTPUTS, wanted, strict=True):
        got, scale = heads[name], want["logits_abs_mean"]
        assert got.sum().item() == pytest.approx(want["logits_sum"], rel=TOLERANCE, abs=TOLERANCE * scale * got.numel())
        assert got.abs().mean().item() == pytest.approx(scale, rel=TOLERANCE)
        assert got[0, :8].tolist() == pytest.approx(want["logits_row0_first8"], rel=TOLERANCE, abs=TOLERANCE * scale)
        assert got[1, -8:].tolist() == pytest.approx(want["logits_row1_last8"], rel=TOLERANCE, abs=TOLERANCE * scale)


def test_each_exit_alone_gives_what_all_together_give(student):
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        together = student.heads(images)
        for name in EXITS:
            assert torch.equal(student.exit(images, name), together[name])
        assert torch.equal(student(images), together["final"])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Mapping deprecated model name")
def test_timm_reads_what_is_saved(student, tmp_path):
    """The name of the published page, today's full name and an older one: same class, same logits, bit for bit."""
    state = plain_state(student.state_dict())
    assert (len(state), len(student.state_dict())) == (153, 222)
    file, images = tmp_path / "student.pth", torch.randn(1, 3, 224, 224)
    save_checkpoint(state, file)
    with torch.no_grad():
        logits = student(images)
        for name in ("resnetv2_50x1_bit", "resnetv2_50x1_bit.goog_distilled_in1k", "resnetv2_50x1_bitm"):
            network = timm.create_model(name, checkpoint_path=str(file), num_classes=37).eval()
            assert type(network) is ResNetV2
            assert torch.equal(network(images), logits)


def test_macs(student):
    """The exits' costs add up by hand; with all branches the student costs what the figures say."""
    costs = count_macs(student, 224)
    assert list(costs) == list(EXITS)
    branches = [cost_of_branch(student, i, 56 >> i) for i in range(3)]
    assert costs["final"] + sum(branches) == FIGURES["multiply_adds"]
    stem = 7 * 7 * 3 * 64 * 112**2
    assert costs["exit_1"] == stem + stage_cost(student.stages0, 56) + branches[0]


def cost_of_branch(student: MultiResNetV2, i: int, side: int) -> int:
    """By hand: three convolutions at their maps' sides, and the classifier."""
    first, second, third = (student.get_submodule(f"bottleneck{i}_1").op[n].weight for n in (0, 3, 6))
    small = side // second.shape[-1]
    classifier = student.get_submodule(f"middle_fc{i}").fc.weight
    return first.numel() * side**2 + (second.numel() + third.numel()) * small**2 + classifier.numel()


def stage_cost(stage: torch.nn.Module, side: int) -> int:
    """By hand, of a stage that keeps its side."""
    return side**2 * sum(p.numel() for p in stage.parameters() if p.dim() == 4)
