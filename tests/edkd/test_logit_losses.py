"""KD, DKD and EDKD against the published implementation's figures: values, parts and gradients in double precision."""

import math
import re

import pytest
import torch

from edkd.distillers.DKD import decoupled_kl, dkd_loss, warmup_factor
from edkd.distillers.EDKD import dynamic_beta, edkd_loss
from edkd.distillers.KD import kd_loss
from tests.edkd.checks import assert_gradient
from tests.golden import conformance, draw

FILE = conformance("losses/edkd.json")
WARMUP = int(re.search(r"epoch / (\d+)", FILE["warmup_rule"])[1])
CASES = FILE["cases"]
EDKD_CASES = [case for case in CASES if case["loss"] == "edkd"]


def inputs(case: dict) -> tuple[torch.Tensor, ...]:
    student, teacher = (draw(case["inputs"][key]) for key in ("student_logits", "teacher_logits"))
    target = draw(case["inputs"]["target"]) if "target" in case["inputs"] else None
    return student.requires_grad_(), teacher, target


def compute(case: dict, student: torch.Tensor, teacher: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    hyper = case["hyper"]
    if case["loss"] == "kd":
        return kd_loss(student, teacher, hyper["temperature"])
    if case["loss"] == "dkd":
        return dkd_loss(student, teacher, target, **hyper)
    assert case["loss"] == "edkd"
    return edkd_loss(student, teacher, target, hyper["temperature"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_value_and_gradient(case):
    student, teacher, target = inputs(case)
    value = compute(case, student, teacher, target)
    assert value.item() == pytest.approx(case["value"], rel=1e-9)
    for entry in case.get("with_warmup", []):
        factor = warmup_factor(entry["epoch"], WARMUP)
        assert factor == pytest.approx(entry["factor"])
        assert factor * value.item() == pytest.approx(entry["value"], rel=1e-9)
    assert_gradient(value, [student], case)


@pytest.mark.parametrize("case", [c for c in CASES if c["loss"] == "dkd"], ids=lambda case: case["id"])
def test_dkd_parts(case):
    tckd, nckd = decoupled_kl(*inputs(case), case["hyper"]["temperature"])
    assert tckd.mean().item() == pytest.approx(case["components"]["tckd"], rel=1e-9)
    assert nckd.mean().item() == pytest.approx(case["components"]["nckd"], rel=1e-9)


@pytest.mark.parametrize("case", EDKD_CASES, ids=lambda case: case["id"])
class TestEdkdParts:
    def test_beta_weighs_the_batch_and_no_sample(self, case):
        student, teacher, target = inputs(case)
        temperature, parts = case["hyper"]["temperature"], case["components"]
        tckd, nckd = decoupled_kl(student, teacher, target, temperature)
        beta = dynamic_beta(teacher, target, temperature)
        assert beta.tolist() == pytest.approx(case["per_sample_beta"], rel=1e-9)
        assert tckd.mean().item() == pytest.approx(parts["tckd_batch_mean"], rel=1e-9)
        assert nckd.mean().item() == pytest.approx(parts["nckd_batch"], rel=1e-9)
        assert beta.mean().item() == pytest.approx(parts["beta_mean"], rel=1e-9)

    def test_per_sample_form(self, case):
        student, teacher, target = inputs(case)
        value = edkd_loss(student, teacher, target, case["hyper"]["temperature"], form="per_sample")
        expected = case["per_sample_variant"]
        assert value.item() == pytest.approx(expected["value"], rel=1e-9)
        assert_gradient(value, [student], expected)

    def test_config_form(self, case):
        hyper = case["hyper"]
        if "value_if_configured_beta_were_used" not in case:
            pytest.skip("no figure in this case")
        weights = {"alpha": 1.0, "beta": hyper["configured_beta"]}  # the figure is for beta alone
        value = edkd_loss(*inputs(case), hyper["temperature"], form="config", **weights)
        assert value.item() == pytest.approx(case["value_if_configured_beta_were_used"], rel=1e-9)


def test_warmup_factors():
    for epoch, factor in FILE["warmup_factors"]:
        assert warmup_factor(epoch, WARMUP) == pytest.approx(factor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_two_classes_and_large_logits_stay_finite(dtype, scale):
    """With two classes only one is not the target: NCKD is 0, and neither it nor its gradient is NaN."""
    generator = torch.Generator().manual_seed(0)
    student = (scale * torch.randn(6, 2, generator=generator, dtype=dtype)).requires_grad_()
    teacher, target = scale * torch.randn(6, 2, generator=generator, dtype=dtype), torch.tensor([0, 1] * 3)
    _, nckd = decoupled_kl(student, teacher, target, 4.0)
    assert nckd.tolist() == [0.0] * 6
    for value in (edkd_loss(student, teacher, target, 4.0), dkd_loss(student, teacher, target, 1.0, 8.0, 4.0)):
        (grad,) = torch.autograd.grad(value, student, retain_graph=True)
        assert math.isfinite(value.item())
        assert grad.isfinite().all()


def test_a_perfect_student_has_no_loss():
    logits, target = torch.randn(5, 7, dtype=torch.float64), torch.arange(5)
    assert edkd_loss(logits, logits, target, 4.0).item() == pytest.approx(0.0, abs=1e-12)
    assert kd_loss(logits, logits, 4.0).item() == pytest.approx(0.0, abs=1e-12)
