"""Whatever happens to a job on a real cluster, it finishes by itself, with the bits of an uninterrupted run."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from job_cluster import Cluster, Job, metrics, weights

pytestmark = pytest.mark.slow


def assert_like(reference: Path, job: Job, status: dict[str, Any]) -> None:
    assert status["state"] == "done", job.evidence()
    assert weights(job.run_dir) == weights(reference)
    assert metrics(job.run_dir) == metrics(reference), "a gap, an overlap or a duplicate"


def test_preemption_in_mid_epoch(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path, "preempted", "--nodes", "2")
    with job.held(12):
        preemptor = cluster.testcluster("preempt", "--nodes", "3", "--seconds", "600").strip()
        job.until(job.warned, 30, "the warning")
    job.until(lambda: len(job.decisions()) == 1, 30, "the requeue")
    cluster.run("scancel", preemptor)
    assert_like(reference, job, job.ended())
    assert "preempted" in job.decisions()[0]["reason"]
    assert job.decisions()[0]["saved_step"] >= 12


def test_a_killed_node(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path, "lost", "--nodes", "2")
    with job.held(12):
        cluster.testcluster("kill", "n1")
    assert_like(reference, job, job.ended())
    assert len(job.starts()) == 2


@pytest.mark.long
def test_a_hung_rank(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path, "hung", "--nodes", "2", "--hang-timeout-s", "6")
    job.at_step(12)
    job.signal_rank(1, signal.SIGSTOP)
    assert_like(reference, job, job.ended())
    assert job.decisions()[0]["reason"].startswith("rank 1 on node n2: hung")


@pytest.mark.long
def test_an_out_of_memory_kill(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path, "oom", "--nodes", "2")
    job.at_step(12)
    job.signal_rank(1, signal.SIGKILL)
    assert_like(reference, job, job.ended())
    assert job.decisions()[0]["reason"].startswith("rank 1 on node n2: killed")


@pytest.mark.long
def test_a_killed_node_task(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    """The task that watches and decides is itself killed: the batch script has the job requeued."""
    job = cluster.submit(tmp_path, "headless", "--nodes", "2")
    with job.held(12):
        for process in job.processes():
            first = process.environ().get("SLURM_PROCID") == "0"
            if first and process.cmdline()[1:4] == ["-u", "-m", "submitit.core._submit"]:
                process.kill()
    assert_like(reference, job, job.ended())
    assert [len(job.starts()), len(job.decisions())] == [2, 1]


@pytest.mark.long
def test_three_time_limits(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    """Training is held while the scheduler, which looks at limits every 30 s, comes to send its warning."""
    job = cluster.submit(tmp_path, "limited", "--nodes", "2", "--time", "10")
    for count in range(3):
        with job.held(6 * (count + 1)):
            cluster.run("scontrol", "update", f"JobId={job.id}", "TimeLimit=1")
            job.until(job.warned, 90, "the warning")
        job.until(lambda: job.scheduler().startswith("PENDING"), 30, "the queue")
        cluster.run("scontrol", "update", f"JobId={job.id}", "TimeLimit=10")
        job.start_now()
    assert_like(reference, job, job.ended())
    assert [("time limit" in one["reason"]) for one in job.decisions()] == [True, True, True, False]
