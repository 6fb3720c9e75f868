"""Data sets without files: scikit-learn's handwritten digits, and synthetic images for benchmarks."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from dydist.config import DataConfig
from dydist.data.dataset import Arrays
from dydist.errors import UserError
from dydist.randomness import generator

SYNTHETIC_SIZES = {"train": 50_000, "test": 10_000}
DIGITS_TEST = 360
"""Number of test images of the digits; the other 1,437 are for training."""


def digits(config: DataConfig, split: Literal["train", "test"], **_: object) -> Arrays:
    """The 1,797 digits of scikit-learn as uint8 [N, 3, 8, 8] (grey in all channels) and int64 labels [N].

    The split is fixed and stratified by digit. (E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits,
    UCI, 1998.) Raises UserError if scikit-learn is not installed.
    """
    images, labels = _all_digits()
    rows = _digit_rows(tuple(labels.tolist()))[split]
    return Arrays(images[rows], labels[rows], tuple(str(digit) for digit in range(10)))


@lru_cache(maxsize=1)
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    installed = find_spec("sklearn")  # does not import it: that takes as long as importing torch
    folders = (installed and installed.submodule_search_locations) or ["sklearn"]
    file = Path(folders[0], "datasets", "data", "digits.csv.gz")
    if not file.is_file():
        raise UserError(
            "data.name: digits needs scikit-learn, which ships them; install it with `pip install 'dydist[demo]'`"
        )
    rows = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    grey = np.rint(rows[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[:, None], 3, axis=1), rows[:, -1].astype(np.int64)


def _digit_rows(labels: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Rows of each split, in order; about a fifth of each digit's images is for the test."""
    rng = generator(0, "digits split")
    by_digit = [rng.permutation(np.flatnonzero(np.array(labels) == digit)) for digit in range(10)]
    ranked = sorted(
        ((index + 0.5) / len(rows), digit, row)
        for digit, rows in enumerate(by_digit)
        for index, row in enumerate(rows)
    )
    order = np.array([row for _, _, row in ranked])
    return {"test": np.sort(order[:DIGITS_TEST]), "train": np.sort(order[DIGITS_TEST:])}


def synthetic(config: DataConfig, split: Literal["train", "test"], **_: object) -> Arrays:
    """Smooth blobs of noise, one pattern per class plus noise: uint8 [N, 3, 32, 32] and int64 labels [N].

    Learnable, fast to generate, and equal on every machine. Only the first `config.limit` images are generated.
    """
    count = min(SYNTHETIC_SIZES[split], config.limit or SYNTHETIC_SIZES[split])
    patterns = generator(0, "synthetic patterns").integers(64, 192, (10, 3, 4, 4), dtype=np.int16)
    labels = generator(0, f"synthetic {split} labels").integers(0, 10, count)
    noise = generator(0, f"synthetic {split} noise").integers(-64, 64, (count, 3, 32, 32), dtype=np.int8)
    large = patterns.repeat(8, axis=2).repeat(8, axis=3)
    images = np.empty((count, 3, 32, 32), dtype=np.uint8)
    for start in range(0, count, 5_000):  # in blocks: int16 arrays of all images would need a gigabyte
        rows = slice(start, start + 5_000)
        images[rows] = large[labels[rows]] + noise[rows]
    return Arrays(images, labels, tuple(f"class{number}" for number in range(10)))
