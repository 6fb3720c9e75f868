"""A job's life on a real cluster: submitted, followed, shown, cancelled, and with fewer nodes than asked for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from helpers.job_cluster import STEPS, Cluster, metrics, start_to_first_step, weights


@pytest.mark.long
def test_two_nodes_with_two_processes_each_equal_one_process(
    cluster: Cluster, reference: Path, tmp_path: Path
) -> None:
    """Status is right at every stage, `logs --follow` ends with the job, and submitting and starting are quick."""
    for node in cluster.nodes[1:]:
        cluster.testcluster("drain", node)
    began = time.monotonic()
    job = cluster.submit(tmp_path, "whole", "--nodes", "2", "--processes-per-node", "2")
    assert time.monotonic() - began < 15  # 3 on a quiet machine: tests/jobs/timings.py
    status = job.status()
    assert (status["state"], status["starts"], status["run"]["step"]) == ("pending", 0, None)
    command = [sys.executable, "-m", "dydist.cli.main", "logs", "--follow", job.id]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=cluster.env,
        cwd=cluster.project,
        **cluster.user,
    ) as follow:
        cluster.testcluster("undrain", cluster.nodes[1])
        job.until(lambda: job.starts(), 180, "the start")
        assert job.status()["state"] == "starting"
        with job.held(2) as pids:
            status = job.status()
            known = [psutil.Process(pid).environ() for pid in pids]
        (until,) = {float(env["DYDIST_UNTIL"]) for env in known if env["RANK"] == "0"}
        assert 0 < until - time.time() < 24 * 3600  # what a last save's time is cut to
        assert (status["state"], status["scheduler"], status["nodes"]) == (
            "running",
            "RUNNING",
            cluster.hosts(1, 2),
        )
        assert status["run"]["total_steps"] == STEPS
        assert status["updated_age_s"] < 30
        text, errors = follow.communicate(timeout=400)
    assert follow.returncode == 0, errors
    assert f"done: step {STEPS} of {STEPS}" in text
    assert errors.endswith(f"job {job.id}: done.\n")
    status = job.status()
    assert (status["state"], status["run"]["step"], status["requeues"]) == ("done", STEPS, [])
    assert status["last_checkpoint"]["step"] == STEPS
    assert weights(job.run_dir) == weights(reference)
    assert metrics(job.run_dir) == metrics(reference)
    assert start_to_first_step(job) < 90  # 15 on a quiet machine: tests/jobs/timings.py
    ranked = cluster.dydist("logs", "--rank", "0", str(job.run_dir)).splitlines()
    assert ranked
    assert all("[rank 0]" in line for line in ranked)


@pytest.mark.slow
def test_warned_it_comes_back_and_cancelled_it_goes_on_with_fewer_nodes(
    cluster: Cluster, reference: Path, tmp_path: Path
) -> None:
    job = cluster.submit(tmp_path, "again", "--nodes", "2", "--preflight", "off")
    refused = [
        *(
            "submit",
            "--cpu",
            "--",
            "--data.name",
            "digits",
            "--run.dir",
            str(tmp_path),
            "--run.name",
            "again",
        ),
    ]
    cluster.dydist(*refused, code=2)
    with job.held(4):  # SLURM's warning: it saves, and comes back
        cluster.run("scancel", "--signal=USR2", job.id)
        job.until(job.warned, 180, "the warning")
    job.until(lambda: job.scheduler().startswith("PENDING"), 180, "the queue")
    assert [one["action"] for one in job.decisions()] == ["requeue"]
    job.start_now()
    with job.held(8):
        answer = cluster.dydist("cancel", job.id)
        job.until(job.warned, 180, "the request")
    assert "asked to save and stop" in answer
    job.until(lambda: job.scheduler().startswith("CANCELLED"), 180, "the cancelling")
    status = job.status()
    assert (status["state"], status["reason"]) == ("cancelled", "cancelled by dydist cancel")
    saved = status["last_checkpoint"]["step"]
    assert 8 <= saved < STEPS
    for node in cluster.nodes[:2]:
        cluster.testcluster("drain", node)
    again = cluster.submit(tmp_path, "again", "--nodes", "2", "--min-nodes", "1", "--preflight", "off")
    status = again.ended()
    assert (status["state"], status["nodes"]) == ("done", cluster.nodes[2])
    assert weights(again.run_dir) == weights(reference)
    assert metrics(again.run_dir) == metrics(reference)
    assert "has ended already (done)" in cluster.dydist("cancel", again.id)


def test_a_mistake_that_only_the_node_can_see_ends_the_job_for_good(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(
        tmp_path, "mistaken", data__name="cifar10", data__root="nowhere", data__download="false"
    )
    status = job.ended()
    assert status["state"] == "failed"
    assert status["failure"]["rank"] == 0
    assert "nowhere" in status["failure"]["message"]
    assert job.decisions()[0]["code"] == 2
    log = cluster.dydist("logs", job.id)
    assert log.startswith(f"usage: rank 0 on node {cluster.nodes[0]}: ")
    table, row, told, *_ = cluster.dydist("status", job.id).splitlines()
    assert table.startswith("job ")
    assert row.startswith(job.id)
    assert told.startswith(f"{job.id}: usage: rank 0 on node {cluster.nodes[0]}: ")


def test_cancel_of_a_waiting_job_and_now(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(tmp_path, "waiting", "--sbatch", "hold")
    assert job.status()["state"] == "pending"
    assert cluster.dydist("cancel", str(job.run_dir)) == f"job {job.id} is ended\n"
    job.until(lambda: job.scheduler().startswith("CANCELLED"), 180, "the cancelling")
    assert job.status()["state"] == "cancelled"


def test_a_dry_run_asks_slurm_and_submits_nothing(cluster: Cluster, tmp_path: Path) -> None:
    words = ("submit", "--dry-run", "--json", "--cpu", "--nodes", "2", "--", "--run.dir", str(tmp_path))
    found = json.loads(cluster.dydist(*words))
    assert f"on nodes {cluster.hosts(1, 2)}" in found["slurm"]
    assert len(found["runs"][0]["nodes"]) == 2
    assert not list(tmp_path.iterdir())
    cluster.dydist("submit", "--dry-run", "--cpu", "--nodes", "9", "--", "--parallel.shards", "16", code=2)


def test_what_slurm_refuses_is_told_in_one_line(cluster: Cluster, tmp_path: Path) -> None:
    words = ("submit", "--cpu", "--partition", "nowhere", "--", "--run.dir", str(tmp_path))
    result = cluster.call(*words)
    assert result.returncode == 2
    assert "SLURM refused the job: partition: 'nowhere' is not allowed; use one of: " in result.stderr
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_a_job_is_shown_where_the_list_of_jobs_cannot_be_written(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "state").touch()  # a file where the folder should be
    there = Cluster(cluster.folder, {**cluster.env, "XDG_STATE_HOME": str(tmp_path / "state")})
    words = ("submit", "--cpu", "--sbatch", "hold", "--", "--run.name", "shown", "--run.dir", str(tmp_path))
    result = there.call(*words)
    assert result.returncode == 0, result.stderr
    assert "is submitted, but" in result.stderr
    assert "cannot be written (Not a directory); name its folder instead" in result.stderr
    job = json.loads((tmp_path / "shown" / "job.json").read_text())["job"]
    assert job in result.stdout


def test_preflight_as_a_job(cluster: Cluster, tmp_path: Path) -> None:
    words = ("preflight", "--cluster", "slurm", "--cpu", "--nodes", "2", "--folder", str(tmp_path), "--json")
    place = tmp_path / "place"
    report = json.loads(cluster.dydist(*words, "--", "--checkpoint.url", str(place)))
    assert list(place.iterdir()) == []  # each node wrote there, and took it away again
    assert report["fit"], report
    assert [node["name"] for node in report["nodes"]] == list(cluster.nodes[:2])
    for node in report["nodes"]:
        (process,) = node["processes"]
        assert process["matmul_right"]
        assert process["all_reduce_right"]
        assert process["across_gb_s"] > 0


@pytest.mark.long
def test_a_node_unlike_the_others_is_left_out(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    """It has another torch: preflight names it, and the job comes back by itself on the other two."""
    other = tmp_path / "other" / "torch-0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 0.1\n")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n[ "$SLURMD_NODENAME" = {cluster.nodes[1]} ] && PYTHONPATH="{other.parent}:$PYTHONPATH"\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    profile = tmp_path / "odd.yaml"
    profile.write_text(json.dumps({"nodes": 3, "min_nodes": 2, "python": str(python)}))
    job = cluster.submit(tmp_path, "odd", "--profile", str(profile))
    status = job.ended()
    assert (status["state"], status["nodes"], status["starts"]) == ("done", cluster.hosts(1, 3), 2)
    assert status["requeues"][0]["reason"].startswith(
        f"preflight: node {cluster.nodes[1]}: torch is 0.1, and "
    )
    assert weights(job.run_dir) == weights(reference)
    assert metrics(job.run_dir) == metrics(reference)


@pytest.mark.long
def test_deepspeed_as_a_job_that_comes_back(cluster: Cluster, reference: Path, tmp_path: Path) -> None:
    """ZeRO 2 on one node with two processes, asked to stop in the middle: the same steps, each once."""
    deepspeed = {"parallel__engine": "deepspeed", "parallel__zero": "2", "parallel__reduce": "fast"}
    job = cluster.submit(tmp_path, "zero", "--processes-per-node", "2", **deepspeed)
    with job.held(8):
        cluster.run("scancel", "--signal=USR2", job.id)
        job.until(job.warned, 180, "the warning")
    status = job.ended()
    assert (status["state"], status["starts"]) == ("done", 2), job.evidence()
    assert "stopped and saved" in status["requeues"][0]["reason"]
    same = ("kind", "step", "epoch", "lr", "temperature")
    ours, theirs = (
        [[line.get(name) for name in same] for line in metrics(run)] for run in (job.run_dir, reference)
    )
    assert ours == theirs


@pytest.mark.parametrize("free", [2, *(pytest.param(free, marks=pytest.mark.long) for free in (3, 1))])
def test_a_range_of_nodes_gets_as_many_as_are_free(cluster: Cluster, tmp_path: Path, free: int) -> None:
    """One task a node, on all that are idle: the first time, and with as few as --min-nodes says."""
    nodes = sorted(json.loads(cluster.testcluster("status"))["nodes"])
    for node in nodes[free:]:
        words = (f"--nodelist={node}", "--exclusive", "--output=/dev/null", "--wrap", "sleep 600")
        cluster.run("sbatch", "--parsable", *words)
    cluster.wait(
        lambda: cluster.run("squeue", "--noheader", "--states=RUNNING").count("\n") == 3 - free,
        60,
        "the others",
    )
    options = ("--nodes", "3", "--min-nodes", "1", "--preflight", "off")
    job = cluster.submit(tmp_path, "ranged", *options, train__max_steps="1")
    job.until(job.starts, 120, "the start")
    log = cluster.wait(lambda: cluster.dydist("logs", job.id), 60, "its first line")
    assert f"(1 of {free})" in log
