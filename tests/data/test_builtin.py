"""Data sets that need no files."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from dydist.config import DataConfig
from dydist.data import open_dataset


def test_digits_are_all_of_scikit_learns_in_one_split_each() -> None:
    train, test = (open_dataset(DataConfig(name="digits"), split) for split in ("train", "test"))
    assert (train.images.shape, test.images.shape) == ((1437, 3, 8, 8), (360, 3, 8, 8))
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int64)
    assert (train.images.min(), train.images.max()) == (0, 255)
    grey = np.concatenate([train.images, test.images])
    assert np.array_equal(grey[:, 0], grey[:, 1])
    assert np.array_equal(grey[:, 0], grey[:, 2])
    original = load_digits()
    known = sorted(
        (image.tobytes(), label) for image, label in zip(original.images, original.target, strict=True)
    )
    found = np.rint(grey[:, 0] * (16 / 255))
    labels = np.concatenate([train.labels, test.labels])
    assert sorted((image.tobytes(), label) for image, label in zip(found, labels, strict=True)) == known


def test_digits_are_split_evenly_and_once_for_all() -> None:
    test = open_dataset(DataConfig(name="digits"), "test")
    counts = np.bincount(test.labels)
    assert counts.min() >= 34
    assert counts.max() <= 37
    digest = hashlib.sha256(test.images.tobytes() + test.labels.astype("<i8").tobytes()).hexdigest()
    assert digest == "ba6e220d4863b1f3320b4cca1fc0c3e53ca0157c7bfca04031ea8f7b8a2efd9e", (
        "figures of earlier releases were taken on another split"
    )


def test_digits_have_the_mean_and_deviation_they_say() -> None:
    train = open_dataset(DataConfig(name="digits"), "train")
    assert np.mean(train.images / 255) == pytest.approx(train.mean[0], abs=1e-4)
    assert np.std(train.images / 255) == pytest.approx(train.std[0], abs=1e-4)


def test_digits_without_scikit_learn_name_the_extra() -> None:
    script = (
        "import sys; sys.modules['sklearn'] = None\n"  # what an import of it meets where it is not installed
        "from dydist.config import DataConfig; from dydist.data import open_dataset\n"
        "from dydist.errors import UserError\n"
        "try: open_dataset(DataConfig(name='digits'), 'train')\n"
        "except UserError as error: print(error)\n"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install 'dydist[demo]'" in printed


def test_synthetic_images_are_the_same_each_time_and_a_limit_takes_the_first() -> None:
    few, more = (open_dataset(DataConfig(name="synthetic", limit=limit), "train") for limit in (100, 6_000))
    assert more.images.shape == (6_000, 3, 32, 32)
    assert np.array_equal(few.images, more.images[:100])
    assert np.array_equal(few.labels, more.labels[:100])
    test = open_dataset(DataConfig(name="synthetic", limit=100), "test")
    assert not np.array_equal(test.images, few.images)
    digest = hashlib.sha256(few.images.tobytes()).hexdigest()
    assert digest == "f7759cf31183337507e94805baf017cdd5998e5e1adae486f23dd85ba4e5d9d4", (
        "benchmarks of earlier releases ran on other images"
    )


def test_synthetic_images_can_be_learned() -> None:
    train = open_dataset(DataConfig(name="synthetic", limit=2_000), "train")
    test = open_dataset(DataConfig(name="synthetic", limit=500), "test")
    centres = np.stack([train.images[train.labels == label].mean(0) for label in range(10)])
    distance = ((test.images[:, None].astype(np.float32) - centres) ** 2).sum((2, 3, 4))
    assert (distance.argmin(1) == test.labels).mean() > 0.95
    assert np.bincount(train.labels, minlength=10).min() > 100
    pixels = train.images / np.float32(255)
    assert pixels.mean((0, 2, 3)) == pytest.approx(train.mean, abs=0.02)
    assert pixels.std((0, 2, 3)) == pytest.approx(train.std, abs=0.02)


def test_synthetic_has_the_size_of_cifar() -> None:
    assert len(open_dataset(DataConfig(name="synthetic"), "test")) == 10_000


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_nothing_can_be_changed_by_mistake(name: str) -> None:
    dataset = open_dataset(DataConfig(name=name, limit=10), "train")  # type: ignore[arg-type]
    assert len(dataset) == 10
    for array in (dataset.images, dataset.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
