"""Fixtures of the whole suite. The real CIFAR images lie outside the project: DYDIST_TEST_DATA names their folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import unpack


@pytest.fixture(scope="session")
def cifar10_exact_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cifar-10-batches-py/: the first 1,017 real images of each published batch, bit-exact."""
    return unpack("cifar10-exact", tmp_path_factory.mktemp("cifar10-exact"))


@pytest.fixture(scope="session")
def cifar100_exact_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cifar-100-python/: 486 training and 916 test images, bit-exact."""
    return unpack("cifar100-exact", tmp_path_factory.mktemp("cifar100-exact"))
