"""`srun python dydist/train.py`, without `dydist submit`: its tasks are the processes of one run. On a real cluster."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from dydist.compare.two import compare_runs
from helpers.job_cluster import RECIPE, REPOSITORY, Cluster, flags

SHORT = RECIPE | {"train.max_steps": "6"}


def training(runs: Path, name: str, **changed: str) -> list[str]:
    values = SHORT | {field.replace("__", "."): text for field, text in changed.items()}
    words = flags(values | {"run.dir": str(runs), "run.name": name})
    return [sys.executable, str(REPOSITORY / "dydist" / "train.py"), *words]


def world_size(runs: Path, name: str) -> int:
    status = json.loads((runs / name / "status.json").read_text())
    assert status["state"] == "done"
    return int(status["world_size"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "nodes"), [(3, 2), *(pytest.param(*how, marks=pytest.mark.long) for how in ((1, 1), (2, 1)))]
)
def test_the_tasks_of_a_step_are_one_run_on_one_node_and_on_two(
    cluster: Cluster, reference: Path, tmp_path: Path, tasks: int, nodes: int
) -> None:
    whole = {"train__max_steps": RECIPE["train.max_steps"]}
    cluster.run("srun", f"-n{tasks}", f"-N{nodes}", *training(tmp_path, "run", **whole))
    assert world_size(tmp_path, "run") == tasks
    assert compare_runs(reference, tmp_path / "run").equal


@pytest.mark.long
def test_one_process_in_an_allocation_of_several_tasks_is_one_process(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A batch script, `srun -n1` in it, the shell of salloc: SLURM_NTASKS is 4, and nobody else comes."""
    script = tmp_path / "job.sh"
    plain, alone = training(tmp_path, "batch"), training(tmp_path, "alone")
    script.write_text(f"#!/bin/bash\nset -e\n{shlex.join(plain)}\nsrun -n1 {shlex.join(alone)}\n")
    cluster.run("sbatch", "--wait", "-n4", "-N1", "-o", str(tmp_path / "out"), str(script))
    cluster.run("salloc", "-n4", "-N1", *training(tmp_path, "salloc"))
    assert [world_size(tmp_path, name) for name in ("batch", "alone", "salloc")] == [1, 1, 1]


@pytest.mark.long
def test_a_step_that_is_told_to_stop_saves_and_goes_on_with_the_same_command(
    cluster: Cluster, tmp_path: Path
) -> None:
    command = training(tmp_path, "run", train__max_steps="30")
    first = ["srun", "-n2", "-N1", "--job-name=stopped", *command]
    step = subprocess.Popen(
        first, env=cluster.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    cluster.wait(lambda: metrics.exists() and metrics.read_text().count("\n") > 2, 200, "the third step")
    cluster.run("scancel", "--name=stopped", "--signal=TERM")
    said, _ = step.communicate(timeout=200)
    assert step.returncode == 75, said
    cluster.run("srun", "-n2", "-N1", *command)
    assert world_size(tmp_path, "run") == 2
