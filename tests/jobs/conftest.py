"""Fixtures of the tests of jobs: the real cluster, and the run that every job must equal."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dydist.models.strategies.native import library
from helpers.job_cluster import DAEMONS, RECIPE, REPOSITORY, SITE, Cluster, flags, running_cluster


@pytest.fixture(scope="session")
def slurm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, up once for the session; DYDIST_TEST_SITE=strict is one whose site differs in much."""
    if absent := [name for name in ("slurmctld", "slurmd", "munged") if not shutil.which(name, path=DAEMONS)]:
        what = f"{', '.join(absent)} not found: apt-get install -y slurm-wlm munge"
        if os.environ.get("CI"):
            pytest.fail(f"{what}; CI must have it")
        pytest.skip(what)
    library()  # built, if it is not yet: that takes a minute, which jobs' time limits do not have
    with running_cluster(SITE, tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def cluster(slurm_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, idle before and after."""
    yield slurm_cluster
    slurm_cluster.quiet()


@pytest.fixture
def tmp_path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder of the user's whose jobs they are, in their project: on the strict site with spaces in its path."""
    if "cluster" not in request.fixturenames:
        return tmp_path
    cluster: Cluster = request.getfixturevalue("slurm_cluster")
    return tmp_path if cluster.site == "default" else cluster.owned(cluster.project / tmp_path.name)


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of RECIPE on one process, uninterrupted: what every job must come to."""
    runs = tmp_path_factory.mktemp("reference")
    words = [*flags(RECIPE), "--run.dir", str(runs), "--run.name", "one"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / "dydist" / "train.py"), *words]
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return runs / "one"
