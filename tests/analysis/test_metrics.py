"""Fidelity and calibration against torchmetrics, SciPy, plain loops, and what can be worked out by hand."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest, entropy
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

from common.analysis.mcnemar import McNemar
from common.analysis.metrics import (
    BINS,
    accuracy,
    accuracy_by_group,
    agreement,
    agreement_by_class,
    agreement_where_wrong,
    calibration_bins,
    expected_calibration_error,
    mean_kl,
    mean_network,
    nll,
    optimal_temperature,
)
from common.analysis.networks import analyze_predictions, with_mean
from common.analysis.superclasses import SUPERCLASSES, superclasses_of

N, K = 400, 10


@pytest.fixture
def drawn():
    """Logits of a student and a teacher that lean towards the labels, and the labels."""
    random = torch.Generator().manual_seed(3)
    targets = torch.randint(K, (N,), generator=random)
    lean = 2.0 * torch.nn.functional.one_hot(targets, K)
    student, teacher = (2 * torch.randn(N, K, generator=random) + lean for _ in range(2))
    return student, teacher, targets


def test_accuracy_and_ece_are_torchmetrics(drawn):
    student, _, targets = drawn
    assert accuracy(student, targets) == pytest.approx(100 * float(multiclass_accuracy(student, targets, K, "micro")))
    by_class = 100 * multiclass_accuracy(student, targets, K, average=None)
    assert accuracy_by_group(student, targets, torch.arange(K)) == pytest.approx(by_class.tolist(), abs=1e-4)
    probabilities = student.double().softmax(1)
    reference = 100 * float(multiclass_calibration_error(probabilities, targets, K, n_bins=BINS, norm="l1"))
    assert expected_calibration_error(calibration_bins(student, targets)) == pytest.approx(reference, abs=1e-5)


def test_bins_are_closed_on_their_upper_side():
    """Guo et al.'s intervals, by a loop; 1/3 and 1 are edges, and a confidence of exactly 1 is in the last bin."""
    probabilities = np.array([[1 / 3, 1 / 3, 1 / 3], [1.0, 0.0, 0.0], [0.4, 0.35, 0.25], [0.97, 0.02, 0.01]])
    targets = torch.tensor([0, 0, 1, 2])
    found = calibration_bins(torch.from_numpy(probabilities).log(), targets, bins=3)
    assert [each.count for each in found] == [1, 1, 2]
    assert found[2].confidence == pytest.approx(98.5)
    assert found[2].accuracy == pytest.approx(50)
    assert found[0].accuracy == 100
    error = 1 / 4 * (200 / 3) + 1 / 4 * 40 + 2 / 4 * 48.5
    assert expected_calibration_error(found) == pytest.approx(error)
    assert expected_calibration_error(found) == pytest.approx(_ece_by_loop(probabilities, targets.numpy(), 3))


def _ece_by_loop(probabilities: np.ndarray, targets: np.ndarray, bins: int) -> float:
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == targets
    total = 0.0
    for m in range(1, bins + 1):
        inside = (confidence > (m - 1) / bins) & (confidence <= m / bins)
        if inside.any():
            total += inside.sum() / len(targets) * abs(correct[inside].mean() - confidence[inside].mean())
    return 100 * total


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergence_goes_from_the_teacher_to_the_student(drawn, temperature):
    student, teacher, _ = drawn
    p, q = ((logits.double() / temperature).softmax(1).numpy() for logits in (teacher, student))
    assert mean_kl(teacher, student, temperature) == pytest.approx(entropy(p, q, axis=1).mean())
    assert mean_kl(student, teacher, temperature) != pytest.approx(mean_kl(teacher, student, temperature))
    assert mean_kl(teacher, teacher + 7) == pytest.approx(0, abs=1e-12)


def test_divergence_from_a_teacher_that_is_certain_is_finite():
    teacher, student = torch.tensor([[1e4, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert mean_kl(teacher, student) == pytest.approx(math.log(2))


def test_agreement_and_where_the_teacher_is_wrong():
    teacher = torch.eye(3)[[0, 1, 2, 0]]
    student = torch.eye(3)[[0, 1, 1, 0]]
    targets = torch.tensor([0, 0, 0, 2])
    assert agreement(student, teacher) == 75
    assert agreement_where_wrong(student, teacher, targets) == pytest.approx(200 / 3)
    assert agreement_where_wrong(student, teacher, torch.tensor([0, 1, 2, 0])) is None
    assert agreement_by_class(student, teacher, targets, 3) == [pytest.approx(200 / 3), None, 100]


def test_the_mean_network_has_the_mean_probabilities(drawn):
    student, teacher, _ = drawn
    mean = mean_network([student, teacher]).softmax(1)
    assert torch.allclose(mean, (student.double().softmax(1) + teacher.double().softmax(1)) / 2)
    assert with_mean({"a": teacher}).keys() == {"a"}
    assert with_mean({"a": teacher, "b": student}).keys() == {"a", "b", "mean"}


def test_the_optimal_temperature_minimizes_the_nll(drawn):
    student, _, targets = drawn
    found = optimal_temperature(student, targets)
    reference = minimize_scalar(lambda t: nll(student, targets, t), bounds=(0.1, 10), method="bounded").x
    assert found == pytest.approx(reference, rel=1e-4)
    assert optimal_temperature(3 * student, targets) == pytest.approx(3 * found, rel=1e-6)


def test_no_temperature_is_the_best_of_what_is_all_right_or_no_better_than_chance():
    targets = torch.tensor([0, 1])
    assert optimal_temperature(torch.eye(2), targets) is None
    assert optimal_temperature(-torch.eye(2), targets) is None


def test_classes_without_samples_have_no_accuracy():
    assert accuracy_by_group(torch.eye(3)[:2], torch.tensor([0, 1]), torch.arange(3)) == [100, 100, None]


def test_superclasses_divide_the_hundred_classes_into_twenty_of_five():
    from common.analysis.superclasses import _MEMBERS

    names = [name for members in _MEMBERS.values() for name in members.split()]
    assert len(names) == len(set(names)) == 100
    groups = superclasses_of(sorted(names))
    assert np.bincount(groups).tolist() == [5] * 20
    assert SUPERCLASSES[groups[sorted(names).index("maple_tree")]] == "trees"
    assert superclasses_of(["cat", "dog"]) is None


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 15), (30, 31), (0, 40)])
def test_mcnemar_is_the_exact_binomial_test(only_a, only_b):
    targets = torch.zeros(100 + only_a + only_b, dtype=torch.int64)
    right = torch.ones(len(targets), dtype=torch.bool)
    a, b = right.clone(), right.clone()
    a[:only_b], b[only_b : only_b + only_a] = False, False
    test = McNemar.of(*(torch.stack([hit.double(), 0.5 * right.double()], 1) for hit in (a, b)), targets)
    assert (test.both, test.only_a, test.only_b, test.neither) == (100, only_a, only_b, 0)
    unequal = only_a + only_b
    assert test.p == pytest.approx(binomtest(only_a, unequal).pvalue if unequal else 1.0)
    assert test.difference == pytest.approx(100 * (only_b - only_a) / len(targets))
    low, high = test.interval
    assert low <= test.difference <= high


def test_the_whole_analysis_is_json_and_says_none_where_there_is_nothing(drawn):
    student, teacher, targets = drawn
    classes = [f"class {i}" for i in range(K)]
    alone = analyze_predictions(student, targets, {}, classes)
    assert (alone["fidelity"], alone["optimal_temperature"], alone["accuracy_by_superclass"]) == ({}, None, None)
    both = analyze_predictions(
        student, targets, with_mean({"a": teacher, "b": student}), classes, temperature=4.0, validation_temperature=2.0
    )
    assert both["fidelity"]["b"]["agreement"] == 100
    assert both["fidelity"]["a"]["kl_at_temperature"] < both["fidelity"]["a"]["kl"]
    assert both["fidelity"]["a"]["agreement_by_class"][0] is not None
    assert both["ece_at_optimal_temperature"] == pytest.approx(
        expected_calibration_error(calibration_bins(student / 2, targets)), rel=1e-5
    )
    json.dumps([alone, both], allow_nan=False)
