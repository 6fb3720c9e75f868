"""What became of a job that the controller has forgotten: by sacct where it answers, else by our own records."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.job_cluster import DAEMONS, Cluster, running_cluster
from helpers.support import missing

pytestmark = pytest.mark.long


@pytest.fixture(params=["with sacct", "without"])
def forgetful(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that forgets ended jobs as soon as SLURM can, with and without accounting."""
    options = ["--nodes", "2", "--min-job-age", "2"]
    if request.param == "with sacct":
        if not shutil.which("slurmdbd", path=DAEMONS) or not shutil.which("mariadbd", path=DAEMONS):
            missing("slurmdbd with MariaDB (apt-get install -y slurmdbd mariadb-server)")
        options.append("--accounting")
    with running_cluster("default", tmp_path, *options) as cluster:
        yield cluster


def test_ended_jobs_that_slurm_has_forgotten(
    forgetful: Cluster, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """One that ran, and decided itself; one whose `setup` ended it; one that an operator cancelled while it waited.

    Of the last only SLURM knows, and `dydist status` where it was asked in time.
    """
    ran = forgetful.submit(tmp_path, "ran", train__max_steps="2")
    assert ran.ended()["state"] == "done"
    file = tmp_path / "broken.yaml"
    file.write_text(json.dumps({"gpus_per_node": 0, "setup": ["echo no such licence", "exit 3"]}))
    broken = forgetful.submit(tmp_path, "broken", "--profile", str(file))
    assert broken.ended()["state"] == "failed"
    waiting = forgetful.submit(tmp_path, "waiting", "--sbatch", "hold")
    forgetful.run("scancel", waiting.id)
    assert waiting.status()["state"] == "cancelled"

    def forgotten() -> bool:
        return not forgetful.run("squeue", "--noheader", "--states=all", check=False).strip()

    forgetful.wait(forgotten, 240, "SLURM to forget")
    done, cancelled = ran.status(), waiting.status()
    assert done["state"] == "done"
    died = broken.status()
    assert (died["state"], died["exit_code"], died["starts"]) == ("failed", 3, 0)
    assert "no such licence" in died["output"]
    if "with sacct" in request.node.name:
        assert (done["scheduler"], done["nodes"]) == ("COMPLETED", forgetful.nodes[0])
        assert (cancelled["state"], cancelled["scheduler"]) == ("cancelled", "CANCELLED")
    else:
        assert done["scheduler"] == "FORGOTTEN"
        assert (cancelled["state"], cancelled["scheduler"]) == ("cancelled", "FORGOTTEN")
