"""The losses against the published implementation's figures, values and gradients."""

import pytest
import torch

from mlkd import mixup_cutmix
from mlkd.losses import kd_loss, mlkd_loss
from tests.golden import conformance, draw

CASES = conformance("losses/mlkd.json")["cases"]
HEADS = ("student_logits", "middle_logits_1", "middle_logits_2", "middle_logits_3")


def draw_target(spec: dict, classes: int, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    if "mixed" not in spec:
        return draw(spec)
    mixed = spec["mixed"]
    assert mixed["b"] == "flip"
    monkeypatch.setattr(mixup_cutmix, "SMOOTHING", mixed["smoothing"])
    rows = mixup_cutmix.smooth_one_hot(draw(mixed["a"]), classes, torch.float64)
    return mixed["lam"] * rows + (1 - mixed["lam"]) * rows.flip(0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_value_and_gradient(case, monkeypatch):
    inputs = case["inputs"]
    heads = {name: draw(inputs[name]).requires_grad_(True) for name in HEADS if name in inputs}
    teacher_logits = draw(inputs["teacher_logits"])
    target = draw_target(inputs["target"], teacher_logits.shape[1], monkeypatch)
    if case["loss"] == "teach_loss":
        value = kd_loss(heads["student_logits"], teacher_logits, target, **case["hyper"])
    else:
        assert len(heads) == 4
        value = sum(mlkd_loss(heads, teacher_logits, target, **case["hyper"]).values())
    assert value.item() == pytest.approx(case["value"], rel=1e-9)
    value.backward()
    grad = heads["student_logits"].grad
    assert grad.norm().item() == pytest.approx(case["grad_student_l2"], rel=1e-9)
    first = case["grad_student_first4"]
    assert grad.flatten()[:4].tolist() == pytest.approx(first, rel=1e-9, abs=1e-9 * max(map(abs, first)))


def test_alpha_one_leaves_labels_out():
    logits, teacher = torch.randn(4, 5), torch.randn(4, 5)
    a, b = (kd_loss(logits, teacher, torch.full((4,), c), alpha=1.0, temperature=10.0) for c in (0, 3))
    assert a == b
