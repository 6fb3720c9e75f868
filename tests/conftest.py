"""Fixtures of the whole suite. The real CIFAR images lie outside the project: DYDIST_TEST_DATA names their folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

from helpers.support import unpack

# the suite computes on CPUs, the same on every machine; with DYDIST_TEST_GPU=1 what needs a GPU runs too
if os.environ.get("DYDIST_TEST_GPU") != "1":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
# as many tests run at once as there are cores: threads on top of that wait for one another (3 to 10 times as long)
os.environ.setdefault("OMP_NUM_THREADS", "1")
# an example's deadline of 200 ms, and a limit on the time to make examples, say how busy the machine is, no more
# CI draws the same examples each time: a new one is to be found at home, not by whoever lands next
settings.register_profile(
    "dydist",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
settings.load_profile("dydist")


SHARE_SERVICES = ("checkpoint", "hostile", "inference", "jobs")
"""Folders whose files share what takes long to start: SLURM, stores, a trained model."""


def _scope(file: str) -> str:
    """What one worker runs: a file, or a whole folder that shares services."""
    folder = Path(file).parent.name
    return folder if folder in SHARE_SERVICES else file


class _ByService(LoadFileScheduling):
    """Gives the tests of a file to one worker, and those of such a folder: a service starts once."""

    def _split_scope(self, nodeid: str) -> str:
        return _scope(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False  # not by the number of tests: see below
    return _ByService(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Several workers begin with what has slow tests, so that none waits at the end for another's long file."""
    if hasattr(config, "workerinput"):
        slow = {_scope(str(item.path)) for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: _scope(str(item.path)) not in slow)


@pytest.fixture(scope="session", autouse=True)
def measured_choices(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache folder of this session's own: what its runs measure is theirs. Built kernels are shared, by a link.

    Another text of the module that builds them builds anew: else no test would try it where a suite ran before.
    """
    from dydist.models.strategies.native import build, cache_folder

    text = Path(build.__file__).read_bytes()
    built = cache_folder() / f"native-of-tests-{hashlib.sha256(text).hexdigest()[:12]}"
    built.mkdir(parents=True, exist_ok=True)
    folder = tmp_path_factory.mktemp("cache")
    (folder / "native").symlink_to(built)
    before = os.environ.get("DYDIST_CACHE")
    os.environ["DYDIST_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["DYDIST_CACHE"]
    else:
        os.environ["DYDIST_CACHE"] = before


@pytest.fixture(scope="session")
def cifar10_exact_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cifar-10-batches-py/: the first 1,017 real images of each published batch, bit-exact."""
    return unpack("cifar10-exact", tmp_path_factory.mktemp("cifar10-exact"))


@pytest.fixture(scope="session")
def cifar100_exact_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with cifar-100-python/: 486 training and 916 test images, bit-exact."""
    return unpack("cifar100-exact", tmp_path_factory.mktemp("cifar100-exact"))
