"""Expected calibration error, against a plain loop and against cases that can be told by hand."""

from __future__ import annotations

import numpy as np
import pytest

from dydist.inference.calibration import calibration


def by_hand(confidence: np.ndarray, right: np.ndarray, bins: int) -> tuple[float, list[int]]:
    error, images = 0.0, []
    for number in range(bins):
        inside = [
            (c, r)
            for c, r in zip(confidence, right, strict=True)
            if number / bins < c <= (number + 1) / bins  # Guo et al., section 2: I_m = ((m-1)/M, m/M]
        ]
        if inside:
            error += abs(sum(c - r for c, r in inside)) / len(confidence)
            images.append(len(inside))
    return error, images


def test_it_is_the_sum_over_bins() -> None:
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.uniform(0.1, 1, 500), [1.0, 0.2, 1 / 3, 0.5]])
    right = rng.random(504) < confidence**2
    for bins in (1, 10, 15):
        error, found = calibration(confidence, right, bins)
        expected, images = by_hand(confidence, right, bins)
        assert error == pytest.approx(expected)
        assert [one.images for one in found] == images


def test_bounds() -> None:
    assert calibration(np.ones(8), np.ones(8, dtype=bool))[0] == 0
    assert calibration(np.ones(8), np.zeros(8, dtype=bool))[0] == 1
    assert calibration(np.full(4, 0.75), np.array([True, True, True, False]))[0] == 0
