"""The feature distillers' losses on given arrays, against the published implementation's figures."""

import sys

import pytest
import torch
from torch import nn

from edkd.distillers._common import ConvReg
from edkd.distillers.AT import at_loss
from edkd.distillers.CRD import ContrastMemory, Embed, nce_loss
from edkd.distillers.FitNet import hint_loss
from edkd.distillers.KDSVD import decompose, decompose_by_gram, kdsvd_loss
from edkd.distillers.NST import nst_loss
from edkd.distillers.OFD import margin, partial_l2
from edkd.distillers.PKT import pkt_loss
from edkd.distillers.ReviewKD import hcl_loss
from edkd.distillers.RKD import rkd_loss
from edkd.distillers.SP import sp_loss
from edkd.distillers.VID import initial_log_scale, make_regressor, vid_loss
from tests.edkd.checks import assert_gradient, contrast_indices, fill_named
from tests.golden import conformance, draw, summary

FILE = conformance("losses/feature_distillers.json")


def cases(*losses: str) -> list:
    return [pytest.param(case, id=case["id"]) for case in FILE["cases"] if case["loss"] in losses]


def features(case: dict, side: str) -> list[torch.Tensor]:
    spec = case["inputs"][f"{side}_features"]
    return [draw(entry) for entry in (spec if isinstance(spec, list) else [spec])]


def pair(case: dict) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [f.requires_grad_() for f in features(case, "student")], features(case, "teacher")


def check(value: torch.Tensor, student: list[torch.Tensor], case: dict, rel: float = 1e-9) -> None:
    assert value.item() == pytest.approx(case["value"], rel=rel)
    assert_gradient(value, student, case, rel)


@pytest.mark.parametrize("case", cases("at", "sp", "nst", "hcl"))
def test_losses_over_stages(case, monkeypatch):
    student, teacher = pair(case)
    loss = {"at": at_loss, "sp": sp_loss, "nst": nst_loss, "hcl": hcl_loss}[case["loss"]]
    options = dict(case["hyper"])
    if "levels" in options:
        monkeypatch.setattr(sys.modules[hcl_loss.__module__], "PYRAMID", options.pop("levels"))
    check(loss(student, teacher, **options), student, case)


@pytest.mark.parametrize("case", cases("pkt", "rkd"))
def test_losses_of_embeddings(case):
    student, teacher = pair(case)
    loss = {"pkt": pkt_loss, "rkd": rkd_loss}[case["loss"]]
    check(loss(student[0], teacher[0], **case["hyper"]), student, case)


@pytest.mark.parametrize("case", cases("fitnet_hint"))
def test_fitnet(case):
    student, teacher = pair(case)
    regressor = fill_named(ConvReg(student[0].shape, teacher[0].shape), case["module_state"])
    regressor.train(case["hyper"]["module_mode"] == "train")
    regressed = regressor(student[0])
    assert summary(regressed)["sum"] == pytest.approx(case["regressed"]["sum"], rel=1e-9)
    check(hint_loss(regressed, teacher[0]), student, case)
    fill_named(regressor, case["module_state"])
    regressor.use_relu = False
    assert hint_loss(regressor(student[0]), teacher[0]).item() == pytest.approx(case["value_without_relu"], rel=1e-9)
    fill_named(regressor, case["module_state"]).eval().use_relu = True
    value = hint_loss(regressor(student[0]), teacher[0]).item()
    assert value == pytest.approx(case["value_with_module_in_eval_mode"], rel=1e-9)


@pytest.mark.parametrize("case", cases("vid"))
def test_vid(case):
    student, teacher = pair(case)
    regressor = fill_named(make_regressor(student[0].shape[1], teacher[0].shape[1]), case["module_state"])
    start, eps = initial_log_scale(**case["hyper"]), case["hyper"]["eps"]
    assert start == pytest.approx(case["log_scale_initial"], rel=1e-9)
    log_scale = torch.full((teacher[0].shape[1],), start, dtype=torch.float64, requires_grad=True)
    value = vid_loss(regressor, log_scale, student[0], teacher[0], eps)
    check(value, student, case)
    (grad,) = torch.autograd.grad(vid_loss(regressor, log_scale, student[0], teacher[0], eps), log_scale)
    assert grad[:4].tolist() == pytest.approx(case["grad_log_scale_first4"], rel=1e-7)


def norm_of(weight: torch.Tensor, bias: torch.Tensor) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(len(weight)).double()
    norm.load_state_dict({"weight": weight, "bias": bias}, strict=False)
    return norm


@pytest.mark.parametrize("case", cases("ofd_partial"))
def test_ofd(case):
    student, teacher = pair(case)
    margins = margin(norm_of(*(draw(case["inputs"][key]) for key in ("bn_weight", "bn_bias"))))
    assert margins.tolist() == pytest.approx(case["margins_as_stored_float32"], rel=1e-7)
    check(partial_l2(student[0], teacher[0], margins), student, case)
    exact = torch.tensor(case["margins_exact"], dtype=torch.float64)
    assert partial_l2(student[0], teacher[0], exact).item() == pytest.approx(case["value_with_exact_margins"], rel=1e-9)


def test_ofd_margins():
    table = FILE["ofd_margin_table"]
    weight, bias = (torch.tensor([row[key] for row in table], dtype=torch.float64) for key in ("bn_weight", "bn_bias"))
    assert margin(norm_of(weight, bias)).tolist() == pytest.approx([row["margin"] for row in table], rel=1e-6)


@pytest.mark.parametrize("decomposition", [decompose, decompose_by_gram])
@pytest.mark.parametrize("case", cases("kdsvd"))
def test_kdsvd(case, decomposition, monkeypatch):
    """The value depends on signs that the decomposition chooses; the figures bound it over all of them."""
    monkeypatch.setattr(sys.modules[kdsvd_loss.__module__], "decompose", decomposition)
    student, teacher = pair(case)
    value = kdsvd_loss(student, teacher, **case["hyper"])
    low, high = case["range_over_sign_conventions"]
    assert low * (1 - 1e-4) <= value.item() <= high * (1 + 1e-4)
    if value.item() == pytest.approx(case["value"], rel=1e-4):  # else this machine's decomposition has other signs
        check(value, student, case, rel=1e-4)


@pytest.mark.parametrize("shape", [(4, 8, 16, 16), (4, 32, 8, 8), (2, 9, 8, 33)])
def test_kdsvd_decomposes_gram_matrices_to_the_same_vectors(shape):
    """What a GPU does, in float32: values, and where they lead both vectors and gradients, whatever their signs."""
    torch.manual_seed(0)
    found = []
    for way in (decompose, decompose_by_gram):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)).relu().flatten(1, 2).requires_grad_()
        s, v = way(matrices)
        onto = v[:, :, :4] @ v[:, :, :4].transpose(1, 2)  # the projection onto the first four, which has no signs
        (onto * torch.linspace(0, 1, onto.numel()).view_as(onto)).sum().backward()
        found.append((s.detach() / s[:, :1].detach(), onto.detach(), matrices.grad / matrices.grad.norm()))
    assert found[0][0].diff(dim=1).le(0).all()
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", cases("crd"))
def test_crd(case, monkeypatch):
    hyper = case["hyper"]
    monkeypatch.setattr(sys.modules[nce_loss.__module__], "EPSILON", hyper["eps"])
    dims = [case["module_state"][f"embed_{side}.linear.weight"][1] for side in "st"]
    contrast = ContrastMemory(
        hyper["feature_dim"], hyper["num_data"], hyper["K"], hyper["temperature"], hyper["momentum"]
    )
    modules = nn.ModuleDict(
        {
            "embed_s": Embed(dims[0], hyper["feature_dim"]),
            "embed_t": Embed(dims[1], hyper["feature_dim"]),
            "contrast": contrast,
        }
    )
    fill_named(modules, case["module_state"], leave=case["not_filled"])
    for call in case["calls"]:
        student, teacher = (draw(call["inputs"][f"{side}_features"]) for side in ("student", "teacher"))
        student.requires_grad_()
        index, contrast_index = contrast_indices(call["inputs"])
        scores = contrast(modules["embed_s"](student), modules["embed_t"](teacher), index, contrast_index)
        parts = [nce_loss(x, hyper["num_data"]) for x in scores]
        assert parts[0].item() == pytest.approx(call["student_part"], rel=1e-9)
        assert parts[1].item() == pytest.approx(call["teacher_part"], rel=1e-9)
        check(sum(parts), [student], call)
        assert contrast.params[2:4].tolist() == pytest.approx(call["normalisation_constants"], rel=1e-9)
        for name in ("memory_v1", "memory_v2"):
            assert summary(getattr(contrast, name))["sum"] == pytest.approx(call[name]["sum"], rel=1e-9)
            assert summary(getattr(contrast, name))["l2"] == pytest.approx(call[name]["l2"], rel=1e-9)
        row = contrast.memory_v1[index[0]][:4].tolist()
        assert row == pytest.approx(call["memory_v1_row_of_first_index_first4"], rel=1e-9)
