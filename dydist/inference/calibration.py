"""Calibration: whether predictions with a confidence of 80 % are correct 80 % of the time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 15


@dataclass(frozen=True)
class Bin:
    """Images with low < confidence ≤ high: their number, mean confidence and accuracy."""

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> tuple[float, list[Bin]]:
    """Expected calibration error, a fraction, and the non-empty bins of a reliability diagram.

    `confidence`: float64 [N], the probability of each image's predicted class; `right`: bool [N]. Bins of equal width
    over (0, 1]; the error is Σ images/N · |accuracy - confidence| (Guo et al., On Calibration of Modern Neural
    Networks, ICML 2017, arXiv:1706.04599, eq. 3; 15 bins as in its table 1).
    """
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    found = []
    error = 0.0
    for number in range(bins):
        inside = index == number
        images = int(inside.sum())
        if images == 0:
            continue
        mean, accuracy = float(confidence[inside].mean()), float(right[inside].mean())
        found.append(Bin(number / bins, (number + 1) / bins, images, mean, accuracy))
        error += images / len(confidence) * abs(accuracy - mean)
    return error, found
