"""Intervals of means and differences, against SciPy's own tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from dydist.compare.statistics import Difference, confidence_half_width, difference


@pytest.mark.parametrize(("first", "second"), [(3, 3), (2, 7), (5, 2)])
def test_welch(first: int, second: int) -> None:
    rng = np.random.default_rng(first)
    a, b = rng.normal(0.9, 0.02, first).tolist(), rng.normal(0.8, 0.001, second).tolist()
    expected = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = difference(a, b)
    assert found.mean == pytest.approx(np.mean(a) - np.mean(b))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    low, high = stats.t.interval(0.95, first - 1, loc=np.mean(a), scale=stats.sem(a))
    assert confidence_half_width(a) == pytest.approx((high - low) / 2)


def test_one_run_has_no_interval_and_equal_runs_a_sharp_one() -> None:
    assert difference([0.75], [0.5, 0.25]) == Difference(0.375, None, None)
    assert difference([0.75, 0.75], [0.5, 0.5]) == Difference(0.25, 0.25, 0.25)
    assert confidence_half_width([0.5]) is None
