"""Confidence intervals of a mean over seeds, and of the difference of two means."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Mean accuracy minus the baseline's, and its confidence interval; None if either has only one run."""

    mean: float
    low: float | None
    high: float | None


def difference(accuracies: Sequence[float], baseline: Sequence[float]) -> Difference:
    """Mean of `accuracies` minus mean of `baseline`, with Welch's confidence interval of `CONFIDENCE`.

    Variances may differ (B. L. Welch, The generalization of 'Student's' problem, Biometrika 34, 1947). Seeds are not
    paired, since two networks use the same seed differently.
    """
    mean = statistics.fmean(accuracies) - statistics.fmean(baseline)
    if min(len(accuracies), len(baseline)) < 2:
        return Difference(mean, None, None)
    parts = [statistics.variance(group) / len(group) for group in (accuracies, baseline)]
    variance = sum(parts)
    if variance == 0:
        return Difference(mean, mean, mean)
    freedom = variance**2 / sum(
        part**2 / (len(group) - 1) for part, group in zip(parts, (accuracies, baseline), strict=True)
    )
    reach = _quantile(freedom) * math.sqrt(variance)
    return Difference(mean, mean - reach, mean + reach)


def confidence_half_width(values: Sequence[float]) -> float | None:
    """Half the width of the mean's confidence interval (Student's t); None for a single value."""
    if len(values) < 2:
        return None
    return _quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, 0.5 + CONFIDENCE / 2))
