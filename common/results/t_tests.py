"""Student's t-tests of two samples, of which some may have no spread at all."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtr, stdtrit  # `scipy.stats` has the same functions, and takes a second to import


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
    reach = error * float(stdtrit(df, 0.975))
    return TTest(difference, difference - reach, difference + reach, t, df, two_sided_p(t, df))


def _ratio(difference: float, spread: float) -> float:
    """A difference in units of a spread; infinite where there is no spread, and 0 where there is no difference."""
    if spread == 0:
        return math.copysign(math.inf, difference) if difference else 0.0
    return difference / spread


def two_sided_p(t: float, df: float) -> float:
    """Probability that |T| >= |t|, where T has Student's distribution with `df` degrees of freedom."""
    return float(2 * stdtr(df, -abs(t)))
