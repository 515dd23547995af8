"""The losses against the published implementation's figures: values, parts and gradients in double precision."""

import pytest
import torch
import torch.nn.functional as F

from tests.golden import conformance, draw
from tfkd import losses
from tfkd.losses import kd_loss, label_smoothing_loss, regularization_loss, regularization_scale, virtual_teacher

CASES = conformance("losses/tfkd.json")["cases"]


def compute(case: dict, student_logits: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    hyper, inputs = case["hyper"], case["inputs"]
    targets = draw(inputs["target"])
    if case["loss"] in ("tfkd_kd", "tfkd_self"):
        return kd_loss(student_logits, draw(inputs["teacher_logits"]), targets, **hyper)
    if case["loss"] == "tfkd_reg":
        renamed = {key.removeprefix("reg_"): value for key, value in hyper.items()}
        return regularization_loss(student_logits, targets, **renamed)
    assert case["loss"] == "label_smoothing"
    monkeypatch.setattr(losses, "SMOOTHING", hyper["alpha"])
    return label_smoothing_loss(student_logits, targets)


def soft_weight(case: dict) -> float:
    return case["hyper"].get("alpha", case["hyper"].get("reg_alpha"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_value_parts_and_gradient(case, monkeypatch):
    student_logits = draw(case["inputs"]["student_logits"]).requires_grad_()
    parts = compute(case, student_logits, monkeypatch)
    total = sum(parts.values())
    assert total.item() == pytest.approx(case["value"], rel=1e-9)
    if "components" in case:
        alpha = soft_weight(case)
        assert parts["cross_entropy"].item() == pytest.approx((1 - alpha) * case["components"]["ce"], rel=1e-9)
        assert parts["soft"].item() == pytest.approx(alpha * case["components"]["soft_term"], rel=1e-9)
    total.backward()
    grad = student_logits.grad
    assert grad.norm().item() == pytest.approx(case["grad_student_l2"], rel=1e-9)
    scale = grad.abs().max().item()
    assert grad.flatten()[:4].tolist() == pytest.approx(case["grad_student_first4"], rel=1e-9, abs=1e-9 * scale)


@pytest.mark.parametrize("case", [c for c in CASES if "virtual_teacher" in c], ids=lambda case: case["id"])
def test_virtual_teacher(case):
    targets = draw(case["inputs"]["target"])
    K = draw(case["inputs"]["student_logits"]).shape[1]
    p_d = virtual_teacher(targets, K, torch.float64)
    softened = (p_d / case["hyper"]["reg_temperature"]).softmax(1)
    right, wrong = targets[0], (targets[0] + 1) % K
    assert [p_d[0, right].item(), p_d[0, wrong].item()] == pytest.approx(case["virtual_teacher"]["before_softmax"])
    assert [softened[0, right].item(), softened[0, wrong].item()] == pytest.approx(
        case["virtual_teacher"]["after_softmax"], rel=1e-9
    )
    assert p_d.sum(1).tolist() == pytest.approx([1.0] * len(targets))


class TestPaperForm:
    """The printed formulas, each against a form written out by hand."""

    def setup_method(self):
        generator = torch.Generator().manual_seed(0)
        self.z = torch.randn(6, 10, generator=generator, dtype=torch.float64)
        self.z_t = torch.randn(6, 10, generator=generator, dtype=torch.float64)
        self.targets = torch.randint(0, 10, (6,), generator=generator)
        self.H = F.cross_entropy(self.z, self.targets).item()

    def kl(self, q: torch.Tensor, p: torch.Tensor) -> float:
        return (q * (q / p).log()).sum(1).mean().item()

    def test_kd(self):
        kl = self.kl((self.z_t / 4).softmax(1), (self.z / 4).softmax(1))
        total = sum(
            kd_loss(self.z, self.z_t, self.targets, alpha=0.7, temperature=4, multiplier=50, form="paper").values()
        )
        assert total.item() == pytest.approx(0.3 * self.H + 0.7 * kl)

    def test_regularization(self):
        softened = virtual_teacher(self.targets, 10, torch.float64) ** (1 / 20)
        kl = self.kl(softened / softened.sum(1, keepdim=True), (self.z / 20).softmax(1))
        options = {"alpha": 0.1, "temperature": 20, "multiplier": 100}
        total = sum(regularization_loss(self.z, self.targets, **options, form="paper").values())
        assert total.item() == pytest.approx(0.9 * self.H + 0.1 * kl)

    def test_label_smoothing(self):
        smoothed = 0.9 * F.one_hot(self.targets, 10) + 0.1 / 10
        expected = -(smoothed * self.z.log_softmax(1)).sum(1).mean().item()
        assert label_smoothing_loss(self.z, self.targets, form="paper")["cross_entropy"].item() == pytest.approx(
            expected
        )

    def test_scale_of_regularization(self):
        """The gradient is scale * (p - targets) / N with targets that do not depend on the student."""
        options = {"alpha": 0.95, "multiplier": 1.0}
        scale = regularization_scale(*options.values(), K=10)
        assert scale == pytest.approx(0.05 + 0.95 / 10)
        assert regularization_scale(0.95, 1.0, 10, form="paper") == 1.0

        def implied_targets(z):
            z = z.clone().requires_grad_()
            sum(regularization_loss(z, self.targets, temperature=40, **options).values()).backward()
            return z.detach().softmax(1) - z.grad * len(z) / scale

        one, other = implied_targets(self.z), implied_targets(self.z_t)
        assert one.numpy() == pytest.approx(other.numpy())
        assert one.min() > 0

    def test_forms_agree_where_nothing_differs(self):
        """With tau = 1 and multiplier K the published KD is the printed one."""
        options = {"alpha": 0.5, "temperature": 1.0}
        code = kd_loss(self.z, self.z_t, self.targets, **options, multiplier=10.0)
        paper = kd_loss(self.z, self.z_t, self.targets, **options, form="paper")
        assert code["soft"].item() == pytest.approx(paper["soft"].item())
