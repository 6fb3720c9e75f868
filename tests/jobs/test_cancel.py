"""`dydist cancel` of several jobs: all are gone through, and each one's outcome is told. Flags of `submit`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from helpers.job_cluster import Cluster


def test_cancel_goes_on_where_slurm_cannot_signal_one(cluster: Cluster, tmp_path: Path) -> None:
    jobs = [cluster.submit(tmp_path, f"held{number}", "--sbatch", "hold") for number in range(3)]
    file = jobs[1].run_dir / "job.json"
    record = json.loads(file.read_text())
    blocked = jobs[1].run_dir / "blocked"
    blocked.touch()
    file.write_text(json.dumps({**record, "log_dir": str(blocked / "logs")}))  # the cancel cannot be recorded
    words = [sys.executable, "-m", "dydist.cli.main", "cancel", *(str(job.run_dir) for job in jobs)]
    words.append(jobs[0].id)  # named twice
    result = subprocess.run(
        words, capture_output=True, text=True, env=cluster.env, cwd=cluster.folder, **cluster.user
    )
    assert result.returncode == 1
    assert result.stdout.splitlines() == [f"job {jobs[0].id} is ended", f"job {jobs[2].id} is ended"]
    assert result.stderr.startswith(f"job {jobs[1].id} could not be cancelled: ")


def test_the_commands_flags_go_to_slurm(cluster: Cluster, tmp_path: Path) -> None:
    words = ("--mem", "900M", "--cpus-per-task", "2", "--sbatch", "hold", "--sbatch", "nice=7", "wckey=w")
    job = cluster.submit(tmp_path, "flags", *words)
    shown = cluster.run("scontrol", "--oneliner", "show", "job", job.id)
    for text in ("MinMemoryNode=900M", "CPUs/Task=2", "Nice=7", "Priority=0"):
        assert text in shown
    assert "held by you" in cluster.dydist("status", job.id)
    cluster.dydist("cancel", job.id)


def test_submit_wants_a_recipe(cluster: Cluster) -> None:
    cluster.dydist("submit", "--cpu", code=2)
