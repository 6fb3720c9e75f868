"""Secrets reach jobs of SLURM by their environment: through arrays, nodes and a requeue; nothing shows them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from dydist.errors import UserError
from dydist.jobs.submission.job_secrets import in_environment, job_variables, open_env, secret_env
from dydist.jobs.submission.profile import Profile
from helpers.job_cluster import RECIPE, Cluster, Job, flags
from helpers.planted import SECRET, leaks, s3_server, watched_processes


def recipe(folder: Path, options: dict[str, object], url: str) -> Path:
    """A recipe with a secret in it, of mode 0600, apart from what is searched."""
    folder.mkdir()
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"checkpoint": {"url": url, "storage_options": options}}))
    path.chmod(0o600)
    return path


@pytest.mark.long
def test_a_job_and_a_sweep_on_slurm_leave_no_secret(cluster: Cluster, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    with s3_server() as options, watched_processes() as seen:
        mine = recipe(tmp_path / "own", options, "s3://bucket/slurm")
        words = [
            "submit",
            "--cpu",
            "--json",
            "--nodes",
            "2",
            "--",
            str(mine),
            *flags({**RECIPE, "run.dir": runs}),
        ]
        answer = json.loads(cluster.dydist(*words, "--run.name", "job"))
        job = Job(cluster, answer["job"], Path(answer["run_dir"]))
        job.at_step(6)
        cluster.run("scontrol", "requeue", job.id)
        assert job.ended()["state"] == "done"
        assert len(job.starts()) == 2
        points = ["--name", "s", "--grid", "optim.lr=0.05,0.1", "--cpu", "--json"]
        more = [
            *flags({**RECIPE, "train.max_steps": 2, "run.dir": runs}),
            "--checkpoint.url",
            "s3://bucket/shared",
        ]
        submitted = json.loads(cluster.dydist("sweep", *points, "--parallel", "1", "--", str(mine), *more))
        assert len(submitted["jobs"]) == 2
        cancelled = cluster.dydist("cancel", str(runs / "s" / "lr0.1-seed0"))  # it waits for the first

        def over() -> bool:
            found = json.loads(cluster.dydist("status", "--json", str(runs / "s")))
            return all(one["state"] in ("done", "failed", "cancelled") for one in found)

        cluster.wait(over, 400, "both runs")
        assert json.loads((runs / "s" / "lr0.05-seed0" / "status.json").read_text())["state"] == "done"
        (tmp_path / "outputs").mkdir()
        (tmp_path / "outputs" / "cancel").write_text(cancelled)
        assert cancelled == f"job {submitted['jobs'][1]} is ended\n"
        for number, command in enumerate(
            (
                ["status", "--json"],
                ["status", str(runs / "job")],
                ["logs", str(runs / "job")],
                ["logs", str(runs / "s")],
            )
        ):
            (tmp_path / "outputs" / f"{number}").write_text(cluster.dydist(*command))
        (tmp_path / "outputs" / "slurm").write_text(cluster.run("scontrol", "show", "job", "-dd"))
    assert seen == []
    assert list(leaks(runs)) == []
    assert list(leaks(tmp_path / "outputs")) == []
    for folder in ("state-home", "config-home", "tmp"):
        assert list(leaks(cluster.folder / folder)) == []


def test_a_profiles_secrets_are_no_part_of_the_job(tmp_path: Path) -> None:
    env = {
        "HF_TOKEN": SECRET,
        "MY_PROXY": f"http://me:{SECRET}@proxy",
        "NCCL_DEBUG": "INFO",
        "AWS_SECRET_ACCESS_KEY": 3,
    }
    profile = Profile(env=env)
    assert secret_env(profile) == {
        "HF_TOKEN": SECRET,
        "MY_PROXY": env["MY_PROXY"],
        "AWS_SECRET_ACCESS_KEY": "3",
    }
    assert open_env(profile) == {"NCCL_DEBUG": "INFO"}


@pytest.mark.parametrize(
    ("profile", "told"),
    [
        (Profile(sbatch={"export": "NONE"}), "sbatch: export=NONE"),
        (Profile(sbatch={"export": "A,B"}), "sbatch: export=A,B"),
        (Profile(srun=("--export=NONE",)), "srun: --export=NONE"),
        (Profile(srun=("--export", "A")), "srun: --export=A"),
    ],
)
def test_a_job_that_would_start_without_its_secrets_is_refused(profile: Profile, told: str) -> None:
    from dydist.config import CheckpointConfig, Config

    with_secret = Config(checkpoint=CheckpointConfig(url=f"sftp://me:{SECRET}@host/x"))
    with pytest.raises(UserError, match=f"^{told} keeps DYDIST_SECRETS from the job"):
        job_variables(with_secret, profile)
    assert job_variables(Config(), profile) == {}
    assert job_variables(with_secret, Profile(sbatch={"export": "ALL,A=1"}))


def test_the_environment_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("WAS", "1")
    with in_environment({"WAS": "2", "NEW": "3"}):
        assert (os.environ["WAS"], os.environ["NEW"]) == ("2", "3")
    assert os.environ["WAS"] == "1"
    assert "NEW" not in os.environ
