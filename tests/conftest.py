"""Fixtures of the whole suite. The real CIFAR images lie outside the project: DYDIST_TEST_DATA names their folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def missing(what: str) -> None:
    """Skip loudly at home; fail in CI, where everything must be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it")
    pytest.skip(f"{what} is missing")


def _unpack(name: str, target: Path) -> Path:
    """Write real CIFAR images in the published layout with the data folder's own script."""
    data = Path(os.environ.get("DYDIST_TEST_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (data / "unpack.py").is_file():
        missing(f"{data / 'unpack.py'} (set DYDIST_TEST_DATA to the folder that holds it)")
    subprocess.run([sys.executable, str(data / "unpack.py"), name, str(target)], check=True)
    return target


@pytest.fixture(scope="session")
def cifar10_exact_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cifar-10-batches-py/: the first 1,017 real images of each published batch, bit-exact."""
    return _unpack("cifar10-exact", tmp_path_factory.mktemp("cifar10-exact"))


@pytest.fixture(scope="session")
def cifar100_exact_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cifar-100-python/: 486 training and 916 test images, bit-exact."""
    return _unpack("cifar100-exact", tmp_path_factory.mktemp("cifar100-exact"))
