"""One tiny run on real CIFAR-10 images, which all tests of this folder look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch

from dydist.data import ImageDataset, open_dataset
from dydist.inference import TrainedModel
from helpers.support import REPOSITORY, train
from helpers.trained_run import STEPS, load


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, cifar10_exact_root: Path) -> Path:
    """The folder of a finished run with averaged weights, stopped where the temperature still falls."""
    folder = tmp_path_factory.mktemp("inference")
    arguments = [
        *(
            "--config",
            REPOSITORY / "launch/recipes/cifar10-small.yaml",
            "--run.dir",
            folder,
            "--run.name",
            "tiny",
        ),
        *("--data.root", cifar10_exact_root, "--model.width", "0.0625", "--train.batch_size", "64"),
        *("--train.max_steps", STEPS, "--train.ema_decay", "0.9", "--temperature.epochs", "2"),
        *("--checkpoint.every_steps", "10", "--parallel.threads", "1", "--monitor.quiet", "true"),
    ]
    train(arguments, 1, folder / "log")
    return folder / "tiny"


@pytest.fixture(autouse=True)
def _numerics() -> Iterator[None]:
    """`dydist evaluate` takes the run's threads, kernels and environment: the other tests have theirs back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with patch.dict(os.environ):
        yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


@pytest.fixture(scope="session")
def model(run_dir: Path) -> TrainedModel:
    return load(run_dir)


@pytest.fixture(scope="session")
def test_set(model: TrainedModel) -> ImageDataset:
    """1,017 real test images."""
    return open_dataset(model.config.data, "test")


@pytest.fixture(scope="session")
def thousand(test_set: ImageDataset) -> np.ndarray:
    """The first 1,000 of them, uint8 [1000, 3, 32, 32]."""
    return test_set.images[:1000].copy()
