"""Whatever happens to a job on a real cluster, it finishes by itself, with the bits of an uninterrupted run."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from helpers.job_cluster import Cluster, assert_like, memory_limit

pytestmark = pytest.mark.slow
HUNGRY = """
import os, threading

def eat():
    open(os.environ["EAT"]).read()
    hoard = b"x" * (3 << 30)
    threading.Event().wait()

if os.environ.get("RANK") == "1":
    threading.Thread(target=eat, daemon=True).start()
"""
"""A sitecustomize module: Python runs it at the start of every process that finds it."""


@pytest.mark.long
def test_preemption_in_mid_epoch_and_then_a_killed_node(
    cluster: Cluster, reference: Path, tmp_path: Path
) -> None:
    """One job after the other fault: it comes back twice."""
    job = cluster.submit(tmp_path, "unlucky", "--nodes", "2")
    with job.held(12):
        preemptor = cluster.testcluster("preempt", "--nodes", "3", "--seconds", "600").strip()
        job.until(job.warned, 180, "the warning")
    job.until(lambda: len(job.decisions()) == 1, 180, "the requeue")
    cluster.operate("scancel", preemptor)
    job.until(lambda: job.scheduler().startswith("PENDING"), 180, "the queue")
    job.start_now()
    with job.held(20):
        cluster.testcluster("kill", psutil.Process(job.pid(0)).environ()["DYDIST_NODE"])
    assert_like(reference, job, job.ended())
    assert len(job.starts()) == 3
    assert "preempted" in job.decisions()[0]["reason"]
    assert job.decisions()[0]["saved_step"] >= 12


@pytest.mark.long
@pytest.mark.parametrize("lost", [0, 1], ids=["the first node", "the second node"])
def test_a_node_lost_before_the_first_save(
    cluster: Cluster, reference: Path, tmp_path: Path, lost: int
) -> None:
    """Its peer fails with an error about the connection, which would be for good by itself."""
    job = cluster.submit(tmp_path, "early", "--nodes", "2", checkpoint__every_steps="30")
    with job.held(3):
        cluster.testcluster("kill", cluster.nodes[lost])
    status = job.ended()
    assert_like(reference, job, status)
    reasons = [one["reason"] for one in status["requeues"]]
    assert reasons == [f"node {cluster.nodes[lost]}: it has not reported (lost?)"], job.evidence()
    assert [one["saved_step"] for one in job.decisions()] in ([30], [0, 30])


@pytest.mark.long
def test_a_hung_rank(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path, "hung", "--nodes", "2", "--hang-timeout-s", "15")
    job.at_step(12)
    job.signal_rank(1, signal.SIGSTOP)
    assert_like(reference, job, job.ended())
    assert job.decisions()[0]["reason"].startswith(f"rank 1 on node {cluster.nodes[1]}: hung")
    assert [one["action"] for one in job.decisions()] == ["restart", "finish"]


@pytest.mark.long
def test_a_killed_rank(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path, "killed", "--nodes", "2")
    job.at_step(12)
    job.signal_rank(1, signal.SIGKILL)
    assert_like(reference, job, job.ended())
    assert job.decisions()[0]["reason"].startswith(f"rank 1 on node {cluster.nodes[1]}: killed")
    assert [one["action"] for one in job.decisions()] == ["restart", "finish"]


@pytest.mark.long
def test_a_rank_that_the_kernel_kills_for_its_memory(
    cluster: Cluster, reference: Path, tmp_path: Path
) -> None:
    """Saving takes more memory than its group may have: what a site's cgroups do to a job."""
    job = cluster.submit(tmp_path, "oom", "--nodes", "2")
    with ExitStack() as stack:
        with job.held(12):
            kills = stack.enter_context(memory_limit(job.pid(0), 4 << 20))
        job.until(lambda: len(job.decisions()) == 1, 180, "the requeue")
        assert kills() >= 1
    assert_like(reference, job, job.ended())
    assert job.decisions()[0]["reason"].startswith(f"rank 0 on node {cluster.nodes[0]}: killed")


@pytest.mark.long
def test_a_job_that_slurm_kills_for_its_memory(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    """One process takes more than the job's --mem: SLURM kills every task, so that nobody is left to decide."""
    cluster.only("default", "SLURM adds up the memory of its steps there")
    (tmp_path / "hungry").mkdir()
    (tmp_path / "hungry" / "sitecustomize.py").write_text(HUNGRY)
    os.mkfifo(tmp_path / "eat")
    profile = tmp_path / "hungry.yaml"
    profile.write_text(f"{{env: {{PYTHONPATH: {tmp_path / 'hungry'}, EAT: {tmp_path / 'eat'}}}, mem: 2G}}")
    job = cluster.submit(tmp_path, "greedy", "--nodes", "2", "--profile", str(profile))
    job.at_step(12)
    (tmp_path / "eat").write_text("now")
    status = job.ended()
    assert_like(reference, job, status)
    assert [len(job.starts()), len(job.decisions())] == [2, 1]
    assert "exceeded memory limit" in status["requeues"][0]["reason"]


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
            assert job.near_limit()
            job.until(job.warned, 180, "the warning")
        job.until(lambda: job.scheduler().startswith("PENDING"), 180, "the queue")
        cluster.operate("scontrol", "update", f"JobId={job.id}", "TimeLimit=10")
        job.start_now()
    assert_like(reference, job, job.ended())
    assert [("time limit" in one["reason"]) for one in job.decisions()] == [True, True, True, False]
