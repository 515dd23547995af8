"""Every distiller once on whole networks, resnet20 teaching resnet8, against the published implementation's figures."""

import pytest
import torch

from common.models import create_model
from edkd.distillers import distiller_dict
from edkd.distillers.VID import initial_log_scale
from edkd.engine.method import Distillation, make_distiller
from tests.edkd.checks import configuration, contrast_indices, fill_named
from tests.golden import conformance, draw, golden_fill, summary

CASES = conformance("losses/whole_distillers.json")["cases"]
# KDSVD computes in float32, and its value depends on the signs that the decomposition returns
TOLERANCE = {"KDSVD": 1e-3}


def build(case: dict, **changes: object) -> tuple[torch.nn.Module, torch.nn.Module]:
    student, teacher = (golden_fill(create_model(case[role], case["classes"])) for role in ("student", "teacher"))
    cfg = configuration(case["distiller"], {**(case.get("hyper") or {}), **changes})
    distiller = make_distiller(cfg, student, teacher, case.get("num_data", 0)).double()
    fill_named(distiller, case["auxiliary_state"], leave=("contrast.params",))
    if case["distiller"] == "VID":
        for log_scale in distiller.log_scales:  # built in float32
            log_scale.data.fill_(initial_log_scale(cfg.VID.INIT_PRED_VAR, cfg.VID.EPS))
    return distiller.train(), teacher


def run(case: dict, distiller: torch.nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    image, target = (draw(case["inputs"][key]) for key in ("image", "target"))
    more = {}
    if "index" in case["inputs"]:
        more["index"], more["contrastive_index"] = contrast_indices(case["inputs"])
    return distiller(image=image, target=target, epoch=case["epoch"], **more)


def test_every_distiller_has_a_case_or_a_trajectory():
    assert set(distiller_dict) - {case["distiller"] for case in CASES} <= {"EDKD"}  # in trajectories/edkd.json


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_losses_and_gradients(case):
    distiller, teacher = build(case)
    Distillation(distiller)  # says which parameters are trained
    logits, losses = run(case, distiller)
    rel = TOLERANCE.get(case["distiller"], 1e-9)
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx(case["losses"], rel=rel)
    total = sum(losses.values())
    assert total.item() == pytest.approx(case["total"], rel=1e-9 if rel == 1e-9 else 1e-6)
    assert summary(logits)["l2"] == pytest.approx(case["student_logits"]["l2"], rel=1e-9)
    total.backward()
    network = distiller.student
    assert network.conv1.weight.grad.norm().item() == pytest.approx(case["grad_conv1_l2"], rel=max(rel, 1e-8))
    assert network.fc.weight.grad.norm().item() == pytest.approx(case["grad_fc_l2"], rel=1e-8)
    assert teacher.conv1.weight.grad is None

    learnable = distiller.get_learnable_parameters()
    assert len(learnable) == case["learnable_tensors"]
    assert sum(p.numel() for p in learnable) == case["learnable_scalars"]
    assert distiller.get_extra_parameters() == case.get("extra_parameters_reported", 0)
    assert teacher.training == case["teacher_in_train_mode"]
    moved = teacher.bn1.running_mean.norm().item()
    assert moved == pytest.approx(case["teacher_bn1_running_mean_l2_after"], rel=1e-9)


@pytest.mark.parametrize("case", [c for c in CASES if c["distiller"] == "OFD"], ids=lambda case: case["id"])
def test_ofd_variants(case):
    variants = case["variants"]
    distiller, _ = build(case, TEACHER_IN_TRAIN_MODE=False)
    loss = run(case, distiller)[1]["loss_kd"].item()
    assert loss == pytest.approx(variants["loss_kd_with_teacher_in_eval_mode"], rel=1e-9)
    for i, expected in enumerate(variants["margins_first4_per_stage"], 1):
        assert getattr(distiller, f"margin{i}")[:4].tolist() == pytest.approx(expected, rel=1e-6)
