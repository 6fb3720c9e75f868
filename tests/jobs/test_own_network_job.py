"""A job that trains a network of one's own, which is edited while the job waits, and of which a process is killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.job_cluster import RECIPE, STEPS, Cluster, flags, metrics, weights
from helpers.pages import read
from helpers.support import REPOSITORY


@pytest.mark.long
def test_the_submitted_network_comes_back_with_the_same_bits(cluster: Cluster, tmp_path: Path) -> None:
    (text,) = re.findall(r"```python\n(# my_network.py\n.*?)```", read("docs/your-network.md"), re.DOTALL)
    (tmp_path / "my_network.py").write_text(text)
    own = {"model.factory": "my_network:make", "model.options": "{width: 8}"}
    alone = [*flags({**RECIPE, **own}), "--run.dir", str(tmp_path), "--run.name", "alone"]
    subprocess.run(
        [sys.executable, str(REPOSITORY / "dydist" / "train.py"), *alone],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
    )
    network = cluster.project / "my_network.py"
    network.write_text(text)
    try:
        job = cluster.submit(
            tmp_path,
            "job",
            "--nodes",
            "2",
            model__factory=own["model.factory"],
            model__options=own["model.options"],
        )
        network.write_text("raise SystemExit('edited after the submission')\n")
        job.at_step(12)
        job.signal_rank(1, signal.SIGKILL)
        assert job.ended()["state"] == "done"
        assert len(job.starts()) == 2
        assert weights(job.run_dir) == weights(tmp_path / "alone")
        assert [line["loss"] for line in metrics(job.run_dir)] == [
            line["loss"] for line in metrics(tmp_path / "alone")
        ]
        network.write_text(text)
        assert f"step {STEPS}" in cluster.dydist("evaluate", str(job.run_dir))
    finally:
        network.unlink()
