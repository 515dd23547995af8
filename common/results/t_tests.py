"""Student's t-tests of two samples, from their formulas: numpy and PyTorch have no t distribution."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

_TERMS = 300  # of the continued fraction; about sqrt(max(a, b)) are needed


@dataclasses.dataclass(frozen=True)
class TTest:
    """A two-sided test of whether a mean difference is zero.

    Attributes:
        difference: the mean difference; low, high: its 95 % confidence interval.
        t, df: the statistic and its degrees of freedom.
        p: how often a difference at least as large would come from chance alone.
    """

    difference: float
    low: float
    high: float
    t: float
    df: float
    p: float


def welch(a: Sequence[float], b: Sequence[float]) -> TTest:
    """Mean of `b` minus mean of `a`, independent samples of two or more with variances of their own (Welch, 1947)."""
    parts = [statistics.variance(sample) / len(sample) for sample in (a, b)]
    total = sum(parts)
    if total == 0:
        df = float(len(a) + len(b) - 2)
    else:
        df = total**2 / sum(part**2 / (len(sample) - 1) for part, sample in zip(parts, (a, b), strict=True))
    return _test(statistics.fmean(b) - statistics.fmean(a), math.sqrt(total), df)


def paired(a: Sequence[float], b: Sequence[float]) -> TTest:
    """Mean of `b - a`, two or more pairs."""
    differences = [y - x for x, y in zip(a, b, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return _test(statistics.fmean(differences), error, float(len(differences) - 1))


def hedges_g(a: Sequence[float], b: Sequence[float]) -> float:
    """Mean of `b` minus mean of `a` in pooled standard deviations, without the bias of small samples (Hedges, 1981)."""
    df = len(a) + len(b) - 2
    pooled = math.sqrt(((len(a) - 1) * statistics.variance(a) + (len(b) - 1) * statistics.variance(b)) / df)
    correction = math.exp(math.lgamma(df / 2) - math.lgamma((df - 1) / 2)) / math.sqrt(df / 2)
    return correction * _ratio(statistics.fmean(b) - statistics.fmean(a), pooled)


def _test(difference: float, error: float, df: float) -> TTest:
    t = _ratio(difference, error)
    reach = error * _critical_t(0.05, df)
    return TTest(difference, difference - reach, difference + reach, t, df, two_sided_p(t, df))


def _ratio(difference: float, spread: float) -> float:
    """A difference in units of a spread; infinite where there is no spread, and 0 where there is no difference."""
    if spread == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / spread


def two_sided_p(t: float, df: float) -> float:
    """Probability that |T| >= |t|, where T has Student's distribution with `df` degrees of freedom."""
    return 0.0 if math.isinf(t) else regularized_beta(df / (df + t * t), df / 2, 0.5)


def _critical_t(p: float, df: float) -> float:
    """The t > 0 whose two-sided probability is `p`."""
    high = 1.0
    while two_sided_p(high, df) > p:
        high *= 2
    return _bisect(lambda t: two_sided_p(t, df) > p, 0.0, high)


def _bisect(is_below: Callable[[float], bool], low: float, high: float) -> float:
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if is_below(middle) else (low, middle)
    return high


def regularized_beta(x: float, a: float, b: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, 0 <= x <= 1 (DLMF 8.17.22: a continued fraction)."""
    if x in (0.0, 1.0):
        return x
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly, its mirror image converges fast
        return 1 - regularized_beta(1 - x, b, a)
    fraction = 1.0
    for n in range(_TERMS, 0, -1):
        m = n // 2
        if n % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        fraction = 1 + term / fraction
    log_factor = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_factor) / (a * fraction)
