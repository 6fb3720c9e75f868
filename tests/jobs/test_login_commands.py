"""submit, sweep, status and cancel as they are typed on a login node, on a real cluster."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.job_cluster import RECIPE, Cluster, Job, flags


def without_slurm(cluster: Cluster) -> Cluster:
    """The same user where SLURM's commands are, but know of no cluster."""
    env = {name: value for name, value in cluster.env.items() if name != "SLURM_CONF"}
    return replace(cluster, env=env)


def test_every_flag_goes_to_slurm(cluster: Cluster, tmp_path: Path) -> None:
    """`--sbatch` several times; without a recipe nothing is done."""
    options = {
        "partition": "p", "account": "a", "qos": "q", "constraint": "a100&ib", "mem": "3G", "cpus-per-task": "5",
        "gres": "gpu:h100:2", "reservation": "night",
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    words += ["--gpus-per-node", "2", "--sbatch", "nice=7", "--sbatch", "begin=now", "mail-type=END"]
    shown = cluster.call("submit", "--dry-run", *words, "--", "--run.dir", str(tmp_path))
    (line,) = shown.stderr.splitlines()  # SLURM itself has none of them
    assert line.startswith("dydist: SLURM would refuse it: ")
    text = without_slurm(cluster).dydist("submit", "--dry-run", *words, "--", "--run.dir", str(tmp_path))
    for name, value in {**options, "nice": "7", "begin": "now", "mail-type": "END"}.items():
        quoted = f"'{value}'" if "&" in value else value
        assert f"#SBATCH --{name}={quoted}\n" in text
    result = cluster.call("submit", "--dry-run", *words)
    assert (result.returncode, result.stderr.partition(";")[0]) == (
        2,
        "dydist: submit: no recipe is named, and no flag is given",
    )


def test_a_sweeps_dry_run_needs_no_slurm_and_its_runs_are_told_apart(
    cluster: Cluster, tmp_path: Path
) -> None:
    words = ("sweep", "--cpu", "--json", "--name", "s", "--sbatch", "hold", "--grid")
    shared = ["--", *flags({**RECIPE, "run.dir": tmp_path})]
    found = json.loads(cluster.dydist(*words, "optim.lr=0.1,0.2", *shared))
    shown = json.loads(cluster.dydist("status", "--json", "s"))
    assert [one["job"] for one in shown] == found["jobs"]
    assert [one["name"] for one in shown] == ["s/lr0.1-seed0", "s/lr0.2-seed0"]
    piped = cluster.dydist("status", found["all"][0])
    assert "s/lr0.1-seed0 pending" in piped  # lines are whole where no terminal shows them
    assert "held by you; let it go: scontrol release" in piped
    result = without_slurm(cluster).call(*words, "optim.lr=0.1,0.2,0.3", "--dry-run", *shared)
    assert result.returncode == 0, result.stderr
    assert len(json.loads(result.stdout)["submitted"]) == 3
    assert result.stderr.startswith("dydist: runs that have a job already are shown too, ")


def test_an_end_that_status_has_seen_stays_known(cluster: Cluster, tmp_path: Path) -> None:
    """A controller that forgets everything stands for one whose MinJobAge has passed."""
    job = cluster.submit(tmp_path, "held", "--sbatch", "hold")
    cluster.run("scancel", job.id)
    assert job.status()["state"] == "cancelled"
    seen = json.loads((job.log_dir / "ended.json").read_text())
    assert seen["state"] == "CANCELLED"
    record = json.loads((job.run_dir / "job.json").read_text())
    (job.run_dir / "job.json").write_text(json.dumps({**record, "job": "999999"}))
    (found,) = json.loads(cluster.dydist("status", "--json", str(job.run_dir)))
    assert (found["state"], found["scheduler"]) == ("cancelled", "FORGOTTEN")
    (job.log_dir / "ended.json").unlink()  # as if nobody had looked in time
    (found,) = json.loads(cluster.dydist("status", "--json", str(job.run_dir)))
    assert found["state"] == "gone"
    assert "it never started: cancelled while it waited (scancel)?" in found["reason"]


@pytest.mark.slow
def test_waiting_gives_the_jobs_own_code(cluster: Cluster, tmp_path: Path) -> None:
    profile = tmp_path / "broken.yaml"
    profile.write_text('{gpus_per_node: 0, setup: ["echo no such licence", "exit 3"]}')
    values = flags({**RECIPE, "run.dir": tmp_path / "runs"})
    result = cluster.call("submit", "--profile", str(profile), "--wait", "--", *values)
    assert result.returncode == 3, result.stderr
    assert "no such licence" in result.stdout
    assert result.stderr.splitlines()[-1].endswith(
        "failed: exit code 3 before dydist could report; what was printed last says more."
    )


@pytest.mark.long
def test_a_cancel_in_a_jobs_first_seconds(cluster: Cluster, tmp_path: Path) -> None:
    """Whether the job waits, starts, or has begun to train: it ends, and does not come back."""
    for number, pause in enumerate((0.0, 0.3, 1.0, 2.0)):
        job = cluster.submit(
            tmp_path, f"c{number}", "--preflight", "off", train__max_steps="3000", train__epochs="500"
        )
        time.sleep(pause)  # the moment of the cancel is what is tried
        cluster.dydist("cancel", job.id)
        status = job.ended()
        assert (status["state"], status["starts"] <= 1) == ("cancelled", True), job.evidence()
        assert (status["run"]["step"] or 0) < 3000


@pytest.mark.long
def test_a_suspended_job_is_shown_as_suspended_and_takes_a_cancel(cluster: Cluster, tmp_path: Path) -> None:
    """scancel waits in vain for a suspended job; the request is a file, which the job finds when it goes on."""
    job = cluster.submit(tmp_path, "r", "--preflight", "off", train__max_steps="3000", train__epochs="500")
    job.at_step(1)
    cluster.operate("scontrol", "suspend", job.id)
    assert job.status()["state"] == "suspended"
    cluster.operate("scontrol", "resume", job.id)
    assert job.status()["state"] == "running"
    cluster.operate("scontrol", "suspend", job.id)
    began = time.monotonic()
    assert f"job {job.id} is suspended: it saves and stops as soon as" in cluster.dydist("cancel", job.id)
    assert time.monotonic() - began < 30  # scancel takes minutes
    cluster.operate("scontrol", "resume", job.id)
    status = job.ended()
    assert (status["state"], status["reason"]) == ("cancelled", "cancelled by dydist cancel")
    again = cluster.submit(tmp_path, "n", "--preflight", "off", train__max_steps="3000", train__epochs="500")
    again.at_step(1)
    cluster.operate("scontrol", "suspend", again.id)
    assert cluster.dydist("cancel", "--now", again.id) == f"job {again.id} is ended\n"
    again.until(lambda: again.scheduler().startswith("CANCELLED"), 60, "the cancelling")


@pytest.mark.slow
def test_a_time_limit_and_a_partition_that_cancels_are_told_in_words(
    cluster: Cluster, tmp_path: Path
) -> None:
    """SLURM has a reason once its scheduler has looked at the job."""

    def told(job: Job, words: str) -> None:
        job.until(lambda: words in cluster.dydist("status", job.id), 60, words)

    told(cluster.submit(tmp_path, "begin", "--sbatch", "begin=now+1hour"), "begin time")
    if cluster.site == "strict":
        job = cluster.submit(tmp_path, "long", "--partition", "short", "--time", "30")
        told(job, "this job can never start: --time is above the partition's limit")


@pytest.mark.long
def test_failed_runs_of_a_sweep_are_submitted_again_while_others_run(
    cluster: Cluster, tmp_path: Path
) -> None:
    shared = ["--", *flags({**RECIPE, "train.max_steps": 3000, "train.epochs": 500, "run.dir": tmp_path})]
    words = ("sweep", "--cpu", "--json", "--name", "s", "--grid", "optim.lr=0.1,0.2,0.3", *shared)
    first = json.loads(cluster.dydist(*words))
    runs = [Job(cluster, job, Path(run)) for job, run in zip(first["jobs"], first["all"], strict=True)]
    for run in runs:
        run.at_step(1)
    cluster.run("scancel", "--signal=KILL", "--full", runs[1].id)
    runs[1].ended()
    again = json.loads(cluster.dydist(*words))
    assert again["submitted"] == [str(runs[1].run_dir)]
    assert again["queued"] == [str(runs[0].run_dir), str(runs[2].run_dir)]
    (new,) = again["jobs"]
    assert new not in first["jobs"]
    states = [one["state"] for one in json.loads(cluster.dydist("status", "--json", str(tmp_path / "s")))]
    assert states[0] == states[2] == "running"
    cluster.dydist("cancel", "--now", str(tmp_path / "s"))
    assert not cluster.run("squeue", "--me", "--noheader", "--states=RUNNING,PENDING").strip()
