"""Student's t distribution and tests against closed forms, printed tables, integration, and figures done by hand."""

import math

import numpy as np
import pytest

from common.results.t_tests import hedges_g, paired, two_sided_p, welch


@pytest.mark.parametrize("t", [0.0, 0.1, 1.0, 2.5, 12.0, 400.0])
def test_t_distribution_closed_forms(t):
    third, fourth = math.atan(t / math.sqrt(3)), math.atan(t / 2)
    exact = {
        1: 1 - 2 / math.pi * math.atan(t),
        2: 1 - t / math.sqrt(2 + t * t),
        3: 1 - 2 / math.pi * (third + math.sin(third) * math.cos(third)),
        4: 1 - math.sin(fourth) * (1 + math.cos(fourth) ** 2 / 2),
    }
    for df, p in exact.items():
        assert two_sided_p(t, df) == pytest.approx(p, rel=1e-6, abs=1e-13)
        assert two_sided_p(-t, df) == two_sided_p(t, df)


def integrated_p(t: float, df: float) -> float:
    """Two-sided probability, by Simpson's rule over the density from 0 to t."""
    x = np.linspace(0, t, 20001)
    constant = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi)
    density = constant * (1 + x * x / df) ** (-(df + 1) / 2)
    weights = np.where(np.arange(len(x)) % 2, 4.0, 2.0)
    weights[[0, -1]] = 1
    return 1 - 2 * float(density @ weights) * (x[1] - x[0]) / 3


@pytest.mark.parametrize("df", [1.3, 2.71, 4.0754717, 9.5, 57.2, 311.0])
@pytest.mark.parametrize("t", [0.05, 0.7, 1.96, 4.2])
def test_t_distribution_against_integration(t, df):
    assert two_sided_p(t, df) == pytest.approx(integrated_p(t, df), abs=1e-11)


@pytest.mark.parametrize(("n", "printed"), [(3, 4.30265), (6, 2.57058), (11, 2.22814), (31, 2.04227), (121, 1.97993)])
def test_critical_values_of_printed_tables(n, printed):
    """The interval of n differences of which one is 1 and the others 0 reaches so many standard errors."""
    test = paired([0.0] * n, [1.0, *[0.0] * (n - 1)])
    error = math.sqrt((1 / n) * (1 - 1 / n) * n / (n - 1) / n)
    assert (test.high - test.difference) / error == pytest.approx(printed, rel=5e-6)


def test_welch_by_hand():
    # means 2 and 5; variances 1 and 20/3, over n: 1/3 and 5/3; squared error 2; df = 4 / (1/18 + 25/27)
    test = welch([1, 2, 3], [2, 4, 6, 8])
    assert test.difference == pytest.approx(3)
    assert test.t == pytest.approx(3 / math.sqrt(2), rel=1e-12)
    assert test.df == pytest.approx(216 / 53, rel=1e-12)
    assert test.p == pytest.approx(integrated_p(3 / math.sqrt(2), 216 / 53), abs=1e-11)
    assert integrated_p((test.high - 3) / math.sqrt(2), 216 / 53) == pytest.approx(0.05, abs=1e-9)
    assert test.low + test.high == pytest.approx(6)
    opposite = welch([2, 4, 6, 8], [1, 2, 3])
    assert (opposite.t, opposite.p) == (-test.t, test.p)


def test_paired_by_hand():
    # differences 1, 2, 4: mean 7/3, variance 7/3, so t = sqrt(7) with two degrees of freedom
    test = paired([1, 2, 3], [2, 4, 7])
    assert test.difference == pytest.approx(7 / 3)
    assert test.t == pytest.approx(math.sqrt(7), rel=1e-12)
    assert test.df == 2
    assert test.p == pytest.approx(1 - math.sqrt(7) / 3, rel=1e-10)
    assert test.high - test.difference == pytest.approx(4.30265 * math.sqrt(7) / 3, rel=5e-6)


def test_effect_size_by_hand():
    # pooled variance (2 * 1 + 3 * 20/3) / 5 = 4.4; correction: gamma(5/2) / (sqrt(5/2) gamma(2))
    expected = 3 / math.sqrt(4.4) * (0.75 * math.sqrt(math.pi)) / math.sqrt(2.5)
    assert hedges_g([1, 2, 3], [2, 4, 6, 8]) == pytest.approx(expected, rel=1e-12)


def test_without_any_spread():
    same, other = [50.0, 50.0], [51.0, 51.0]
    assert (welch(same, same).p, paired(same, same).p, hedges_g(same, same)) == (1.0, 1.0, 0.0)
    assert (welch(same, other).p, paired(same, other).p, hedges_g(same, other)) == (0.0, 0.0, math.inf)
    assert (welch(same, other).low, welch(same, other).high) == (1.0, 1.0)
