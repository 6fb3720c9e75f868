"""Jobs without a cluster: the same way through submitit's local executor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.job_cluster import RECIPE, REPOSITORY, Cluster, Job, flags, metrics, weights


@pytest.fixture
def machine(tmp_path: Path) -> Cluster:
    """This machine, as if SLURM were not there."""
    slurm = {"sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo", "sacct", "salloc"}
    (tmp_path / "bin").mkdir()
    folders = []
    for folder in map(Path, os.environ["PATH"].split(os.pathsep)):
        if not (folder / "sbatch").exists():
            folders.append(str(folder))
            continue
        for (
            program
        ) in folder.iterdir():  # all but SLURM: without a compiler, training computes in another way
            link = tmp_path / "bin" / program.name
            if program.name not in slurm and not link.is_symlink():
                link.symlink_to(program)
    more = {
        "PATH": os.pathsep.join([*folders, str(tmp_path / "bin")]),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
        "XDG_STATE_HOME": str(tmp_path / "state-home"),
        "XDG_CONFIG_HOME": str(tmp_path / "config-home"),
    }
    return Cluster(tmp_path, {**os.environ, **more})


@pytest.mark.slow
def test_a_local_job_comes_back_after_a_kill(machine: Cluster, reference: Path, tmp_path: Path) -> None:
    job = machine.submit(tmp_path / "runs", "here", "--cluster", "local", "--preflight", "off")
    with job.held(12):
        assert job.status()["state"] == "running"
        job.signal_rank(0, signal.SIGKILL)
    job.until(lambda: job.run().get("state") == "done", 400, "the end")
    job.until(lambda: job.status()["state"] == "done", 60, "the job's end")
    assert [one["action"] for one in job.decisions()] == ["restart", "finish"]
    assert weights(job.run_dir) == weights(reference)
    assert metrics(job.run_dir) == metrics(reference)


@pytest.mark.long
def test_waiting_for_a_local_job_that_is_cancelled(machine: Cluster, tmp_path: Path) -> None:
    values = {**RECIPE, "run.dir": tmp_path / "runs", "run.name": "waited"}
    words = ["submit", "--cluster", "local", "--cpu", "--wait", "--", *flags(values)]
    command = [sys.executable, "-m", "dydist.cli.main", *words]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=machine.env, cwd=tmp_path
    ) as submitting:
        record = machine.wait(
            lambda: (tmp_path / "runs" / "waited" / "job.json").exists(), 180, "the submission"
        )
        record = json.loads((tmp_path / "runs" / "waited" / "job.json").read_text())
        job = Job(machine, record["job"], tmp_path / "runs" / "waited")
        with job.held(3):
            assert "asked to save and stop" in machine.dydist("cancel", job.id)
            job.until(job.warned, 180, "the request")
        text, errors = submitting.communicate(timeout=400)
    assert submitting.returncode == 75
    assert "saved step" in text
    assert errors.endswith(f"job {job.id}: cancelled by dydist cancel.\n")
    assert 3 <= job.status()["last_checkpoint"]["step"] < 30


def test_without_slurm_it_is_said_what_to_do(machine: Cluster, tmp_path: Path) -> None:
    words = ["submit", "--cpu", "--", "--run.dir", str(tmp_path / "runs")]
    command = [sys.executable, "-m", "dydist.cli.main", *words]
    result = subprocess.run(command, capture_output=True, text=True, env=machine.env, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("dydist: sbatch: no SLURM on this machine; ")
    assert not (tmp_path / "runs").exists()
    shown = machine.dydist("submit", "--dry-run", "--cpu", "--", "--run.dir", str(tmp_path / "runs"))
    assert "# SLURM: not on this machine; nothing was asked" in shown
    machine.dydist("submit", "--cluster", "local", "--cpu", "--nodes", "2", "--", "--seed", "1", code=2)


def test_a_mistake_costs_nothing(machine: Cluster, tmp_path: Path) -> None:
    words = ("--run.dir", str(tmp_path / "runs"))
    machine.dydist("submit", "--cpu", "--", *words, "--optim.rl", "1", code=2)
    machine.dydist("submit", "--cpu", "--profile", "nowhere", "--", *words, code=2)
    machine.dydist("submit", "--cpu", "--time", "1 day", "--", *words, code=2)
    machine.dydist("status", "nothing", code=2)
    machine.dydist("cancel", code=2)
    assert machine.dydist("status", "--json") == "[]\n"
    assert not (tmp_path / "runs").exists()
