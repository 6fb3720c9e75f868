"""Where a job is submitted from does not matter: SLURM's commands get a cleaned environment, and are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dydist.jobs.slurm_environment import clean, cleaned, leaks
from helpers.job_cluster import RECIPE, Cluster, flags

LEAKS = {
    "SBATCH_PARTITION": "nowhere", "SBATCH_TIMELIMIT": "1", "SBATCH_EXPORT": "NONE", "SBATCH_ACCOUNT": "nobody",
    "SBATCH_JOB_NAME": "theirs", "SBATCH_NO_REQUEUE": "1", "SBATCH_ARRAY_INX": "0-3", "SBATCH_HOLD": "1",
    "SLURM_EXPORT_ENV": "NONE", "SLURM_RESTART_COUNT": "3", "SLURM_MEM_PER_CPU": "99999999", "SLURM_JOB_ID": "77",
    "SLURM_ARRAY_TASK_ID": "5", "SLURM_NTASKS": "9", "SLURM_TIME_FORMAT": "relative", "SLURM_EXIT_ERROR": "0",
    "SQUEUE_STATES": "COMPLETED", "SQUEUE_FORMAT": "%i", "SQUEUE_PARTITION": "high", "SQUEUE_USERS": "nobody",
    "SCANCEL_PARTITION": "high", "SCANCEL_STATE": "SUSPENDED", "SINFO_FORMAT": "%N", "SACCT_FORMAT": "JobID",
    "SALLOC_PARTITION": "nowhere", "SUBMITIT_EXECUTOR": "local", "SLURMD_NODENAME": "elsewhere",
    "WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", "MASTER_ADDR": "192.0.2.1", "MASTER_PORT": "1",
    "DYDIST_EXIT_DIR": "/nonexistent", "DYDIST_JOB": "77", "DYDIST_ATTEMPT": "3", "PMIX_RANK": "3",
}  # fmt: skip


@given(
    st.sampled_from(["SBATCH_", "SLURM_", "SQUEUE_", "SCANCEL_", "SINFO_", "SACCT_", "SALLOC_"]),
    st.text("ABC_"),
)
def test_no_variable_of_slurms_commands_leaks(prefix: str, rest: str) -> None:
    assert leaks(prefix + rest) != (prefix + rest).startswith(("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"))


def test_what_locates_the_cluster_and_what_is_the_users_own_stays() -> None:
    kept = {
        "PATH": os.environ["PATH"],
        "SLURM_CONF": "/x/slurm.conf",
        "SLURM_CLUSTERS": "b",
        "SLURM_JWT": "t",
    }
    kept |= {"HOME": "/h", "OMP_NUM_THREADS": "2", "NCCL_DEBUG": "INFO", "DYDIST_CACHE": "/c", "PMIDWAY": "1"}
    assert cleaned({**LEAKS, **kept}) == kept


def test_submitit_sees_the_cleaned_environment_and_the_caller_his_own_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    with clean():
        assert "SBATCH_PARTITION" not in os.environ
    assert os.environ["SBATCH_PARTITION"] == "nowhere"


def test_slurm_is_found_beside_its_configuration_where_path_lacks_it(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.touch(mode=0o755)
    outside = {"PATH": "/nonexistent", "SLURM_CONF": str(tmp_path / "etc" / "slurm.conf")}
    assert cleaned(outside)["PATH"] == f"/nonexistent:{program.parent}"
    here = {**outside, "PATH": f"{program.parent}:/nonexistent"}
    assert cleaned(here)["PATH"] == here["PATH"]


def with_leaks(cluster: Cluster, more: Mapping[str, str] = LEAKS) -> Cluster:
    return replace(cluster, env={**cluster.env, **more})


def test_variables_over_flags_and_filters_change_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """A held job has what the flags say; status sees it, and cancel ends it."""
    leaky = with_leaks(cluster)
    job = leaky.submit(tmp_path, "held", "--time", "7", "--sbatch", "hold")
    shown = cluster.run("scontrol", "--oneliner", "show", "job", job.id)
    for words in ("JobName=held", "TimeLimit=00:07:00", "Requeue=1", "Restarts=0"):
        assert words in shown
    assert job.status()["state"] == "pending"
    leaky.dydist("cancel", job.id)
    assert job.status()["state"] == "cancelled"


@pytest.mark.long
def test_a_job_does_not_inherit_what_another_job_set(cluster: Cluster, tmp_path: Path) -> None:
    job = replace(
        with_leaks(cluster).submit(tmp_path, "clean", "--preflight", "off", train__max_steps="2"),
        cluster=cluster,
    )
    status = job.ended()
    assert (status["state"], status["starts"]) == ("done", 1), job.evidence()
    assert [path.name for path in job.starts()] == ["attempt-000"]


PLACES: dict[str, Callable[[Path], list[str]]] = {
    "salloc": lambda folder: ["salloc", "--quiet", "--ntasks=2", "--mem=200"],
    "srun": lambda folder: ["srun", "--quiet", "--ntasks=1", "--mem-per-cpu=200"],
    "a job of its own": lambda folder: ["sbatch", "--wait", "--requeue", "--mem=300", "--wrap"],
    "uv run": lambda folder: ["uv", "run", "--no-project", "--python", sys.executable],
    "an environment without SLURM's path": lambda folder: ["env", f"PATH={few_programs(folder)}"],
    "another folder": lambda folder: ["env"],
}


def few_programs(folder: Path) -> Path:
    """As conda makes an environment: its own programs, and SLURM is not among them."""
    own = folder / "environment" / "bin"
    own.mkdir(parents=True)
    for name in ("env", "bash", "sh", "git"):
        (own / name).symlink_to(Path("/usr/bin") / name)
    (own / "python").symlink_to(sys.executable)
    return own


@pytest.mark.long
@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=pytest.mark.slow if place == "salloc" else pytest.mark.long)
        for place in PLACES
    ],
)
def test_submitting_from_anywhere_with_a_relative_recipe(
    cluster: Cluster, tmp_path: Path, place: str
) -> None:
    """The job starts once, with its own recipe, and ends well."""
    words = PLACES[place](tmp_path)
    if words[0] == "uv" and subprocess.run(["which", "uv"], capture_output=True).returncode:
        pytest.skip("uv is missing: pip install uv")
    (tmp_path / "recipes").mkdir()
    elsewhere = cluster.owned(tmp_path / "elsewhere")
    lines = [f"{field}: {value}" for field, value in {**RECIPE, "train.max_steps": "2"}.items()]
    recipe = tmp_path / "recipes" / "short.yaml"
    recipe.write_text("".join(_nested(lines)))
    command = [
        sys.executable,
        "-m",
        "dydist.cli.main",
        "submit",
        "--cpu",
        "--preflight",
        "off",
        "--json",
        "--",
    ]
    command += ["../recipes/short.yaml", *flags({"run.dir": "../runs", "run.name": "here"})]
    if words[-1] == "--wrap":
        words = [*words[:-1], "--output=answer", "--wrap", " ".join(command)]
        command = []
    result = subprocess.run(
        [*words, *command],
        capture_output=True,
        text=True,
        env=cluster.env,
        cwd=elsewhere,
        timeout=300,
        **cluster.user,
    )
    assert result.returncode == 0, result.stderr
    answer = elsewhere / "answer"
    printed = answer.read_text() if answer.exists() else result.stdout
    found = json.loads(printed[printed.index("{") :])  # on the strict site a prolog prints before it
    cluster.wait(
        lambda: (
            json.loads(cluster.dydist("status", "--json", found["run_dir"]))[0]["state"] in ("done", "failed")
        ),
        300,
        "the end",
    )
    (status,) = json.loads(cluster.dydist("status", "--json", found["run_dir"]))
    assert (status["state"], status["starts"], status["run"]["step"]) == ("done", 1, 2)
    assert Path(found["run_dir"]).resolve() == tmp_path / "runs" / "here"


def _nested(lines: list[str]) -> list[str]:
    """`section.field: value` as YAML with a section each."""
    sections: dict[str, list[str]] = {}
    for line in lines:
        section, _, rest = line.partition(".")
        sections.setdefault(section, []).append(f"  {rest}\n")
    return [text for section, fields in sections.items() for text in (f"{section}:\n", *fields)]


def test_a_folder_of_the_path_that_the_user_may_not_enter_is_passed_over(tmp_path: Path) -> None:
    """As root's own are for others: `Path.exists` raises PermissionError there."""
    (tmp_path / "closed").mkdir(mode=0)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if os.geteuid() == 0:
                os.setuid(65534)
            code = 0 if cleaned({"PATH": str(tmp_path / "closed")})["PATH"] else 1
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
