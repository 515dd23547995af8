"""The losses against the published implementation's figures: values, and gradients on the student's side."""

import pytest
import torch
import torch.nn.functional as F

from mtkd_rl.losses import feature_kl, feature_mse, logit_losses
from mtkd_rl.multi_teacher import TeacherStudentOutputs, Weights, weighted_losses
from tests.golden import conformance, draw

# the published DIST loss is called by no script
CASES = [c for c in conformance("losses/mtkd_rl.json")["cases"] if c["loss"] != "dist_inter_per_sample"]
WITHOUT_EFFECT = float("nan")  # the temperature of a squared error


def compute(case: dict, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    hyper = case["hyper"]
    if case["loss"].startswith("distill_kl"):
        by_teacher = logit_losses(inputs["student_logits"], inputs["teacher_logits"][:, :, None], hyper["T"])
        return by_teacher[:, 0] if case["loss"].endswith("per_sample") else by_teacher.mean()
    if case["loss"] == "feature_mse_per_sample":
        return feature_mse(inputs["student_feature"], inputs["teacher_feature"], WITHOUT_EFFECT)
    if case["loss"] == "feature_kl_per_sample":
        return feature_kl(inputs["student_feature"], inputs["teacher_feature"], hyper["temperature"])
    weights = Weights(inputs["logit_weights"], inputs["feature_weights"])
    return weighted_losses(several_teachers(inputs, hyper), weights)["loss_kd"].mean()


def several_teachers(inputs: dict[str, torch.Tensor], hyper: dict) -> TeacherStudentOutputs:
    """Losses of a case with several teachers."""
    M, T = hyper["teachers"], hyper["T"]
    logits = torch.stack([inputs[f"teacher_logits_{m}"] for m in range(M)], dim=2)
    maps = [(inputs[f"student_feature_{m}"], inputs[f"teacher_feature_{m}"]) for m in range(M)]
    features = [feature_mse(student, teacher, WITHOUT_EFFECT) for student, teacher in maps]
    by_logits = logit_losses(inputs["student_logits"], logits, T)
    return TeacherStudentOutputs(None, [], logits, [], by_logits[:, 0], by_logits, torch.stack(features, dim=1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_loss(case):
    inputs = {name: draw(spec) for name, spec in case["inputs"].items()}
    wanted = inputs[case["grad_wrt"]].requires_grad_()
    value = compute(case, inputs)
    (gradient,) = torch.autograd.grad(value.mean(), wanted)
    assert torch.allclose(value, torch.tensor(case["value"], dtype=torch.float64), rtol=1e-9, atol=0)
    assert gradient.norm().item() == pytest.approx(case["grad_student_l2"], rel=1e-9)
    first = gradient.flatten()[:4].tolist()
    largest = gradient.abs().max().item()
    assert first == pytest.approx(case["grad_student_first4"], rel=1e-9, abs=1e-9 * largest)


@pytest.mark.parametrize("case", [c for c in CASES if "average_variant" in c], ids=lambda case: case["id"])
def test_averages_and_features_of_several_teachers(case):
    inputs = {name: draw(spec) for name, spec in case["inputs"].items()}
    seen = several_teachers(inputs, case["hyper"])
    even = torch.full_like(seen.logit_losses, 1 / seen.logit_losses.shape[1])
    average = weighted_losses(seen, Weights(even, even))
    chosen = weighted_losses(seen, Weights(inputs["logit_weights"], inputs["feature_weights"]))
    assert average["loss_kd"].mean().item() == pytest.approx(case["average_variant"], rel=1e-9)
    assert average["loss_feat"].mean().item() == pytest.approx(case["average_feature_mse"], rel=1e-9)
    assert chosen["loss_feat"].mean().item() == pytest.approx(case["weighted_feature_mse"], rel=1e-9)


def test_every_kind_of_loss_is_covered():
    assert {case["loss"] for case in CASES} == {
        *("distill_kl", "distill_kl_per_sample", "feature_mse_per_sample", "feature_kl_per_sample"),
        "teacher_weighted_kl",
    }


def test_no_loss_for_the_teacher_itself():
    logits, map = torch.randn(3, 5), torch.randn(3, 2, 4, 4)
    assert torch.allclose(logit_losses(logits, torch.stack([logits, logits], dim=2), 4.0), torch.zeros(3, 2), atol=1e-6)
    for loss in (feature_mse, feature_kl):
        assert F.relu(loss(map, map, 4.0)).max() < 1e-6
