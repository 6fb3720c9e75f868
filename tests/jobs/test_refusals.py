"""What SLURM refuses is told in one line, with what it would take, and leaves nothing behind."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dydist.errors import UserError
from dydist.jobs.submission.profile import Profile
from dydist.jobs.submission.refusals import explain
from dydist.jobs.submission.submit import prepare_preflight, prepare_run
from dydist.jobs.submission.sweep import prepare_sweep
from helpers.job_cluster import DAEMONS, RECIPE, Cluster, flags, running_cluster
from helpers.support import missing


@pytest.fixture(scope="module")
def accounts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster whose jobs need an account and a QOS: this user has `lab`, with the QOS `night`, and `root`."""
    if not shutil.which("slurmdbd", path=DAEMONS) or not shutil.which("mariadbd", path=DAEMONS):
        missing("slurmdbd with MariaDB (apt-get install -y slurmdbd mariadb-server)")
    with running_cluster(
        "default", tmp_path_factory.mktemp("accounts"), "--nodes", "2", "--accounting"
    ) as cluster:
        user = cluster.run("id", "--user", "--name").strip()
        for words in (
            ["qos", "night"],
            ["account", "lab"],
            ["user", user, "account=lab", "qos=normal,night"],
        ):
            cluster.run("sacctmgr", "--immediate", "add", *words)
        yield cluster


def refused(cluster: Cluster, runs: Path, *options: str) -> str:
    """The one line that a refused submission prints; a dry run says the same, and nothing is left."""
    values = flags({**RECIPE, "run.dir": runs, "run.name": "r"})
    found = []
    for more in ([], ["--dry-run"]):
        result = cluster.call("submit", "--cpu", *options, *more, "--", *values)
        assert result.returncode == 2, result.stdout
        assert len(result.stderr.splitlines()) == 1, result.stderr
        found.append(result.stderr.strip())
    assert not runs.exists()
    real, dry = (line.partition(": ")[2].partition(": ") for line in found)
    assert (real[0], dry[0], real[2]) == ("SLURM refused the job", "SLURM would refuse it", dry[2])
    return real[2]


def test_a_partition_that_does_not_exist(cluster: Cluster, tmp_path: Path) -> None:
    names = cluster.run("sinfo", "--noheader", "--format=%R").split()
    line = refused(cluster, tmp_path / "runs", "--partition", "nosuch")
    assert line == f"partition: 'nosuch' is not allowed; use one of: {', '.join(sorted(names))}"
    assert len(names) > 1


def test_what_no_node_has_is_told_with_the_field(cluster: Cluster, tmp_path: Path) -> None:
    line = refused(cluster, tmp_path / "runs", "--constraint", "a100")
    assert line.startswith(
        "constraint: 'a100': Invalid feature specification: no node has it; see what nodes"
    )


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (
            "sbatch: error: Memory specification can not be satisfied\n"
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "mem: '900G': Memory specification can not be satisfied: no node has as much; see what nodes have: ",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            "Requested node configuration is not available: no node of the partition has as many GPUs (gpus_per",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid license specification",
            "licenses: 'matlab:1': Invalid license specification: none such, or too few; see: scontrol show license",
        ),
        (
            "sbatch: error: Batch job submission failed: Invalid node name specified",
            "nodelist or exclude: Invalid node name specified: a node does not exist; see: sinfo -N",
        ),
        ("sbatch: error: Invalid --gres-flags specification", "error: Invalid --gres-flags specification"),
    ],
)
def test_refusals_in_words(said: str, line: str) -> None:
    """What sbatch 22.05 said on the strict cluster, of each of these."""
    profile = Profile(gpus_per_node=0, mem="900G", sbatch={"licenses": "matlab:1"})
    assert explain(said, profile).startswith(line)


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--account", "nosuch"], "account: 'nosuch' is not allowed; use one of: lab, root"),
        (["--qos", "nosuch"], "qos: 'nosuch' is not allowed; use one of: night, normal"),
        (
            ["--account", "root", "--qos", "night"],
            "qos: 'night' is not allowed with account 'root'; use one of: normal",
        ),
        (["--partition", "nosuch"], "partition: 'nosuch' is not allowed; use one of: high, low"),
    ],
)
def test_an_account_or_qos_that_does_not_exist(
    accounts: Cluster, tmp_path: Path, options: list[str], line: str
) -> None:
    assert refused(accounts, tmp_path / "runs", *options) == line


@pytest.mark.long
def test_an_account_and_qos_of_ones_own(accounts: Cluster, tmp_path: Path) -> None:
    job = accounts.submit(tmp_path, "r", "--account", "lab", "--qos", "night", train__max_steps="2")
    shown = accounts.run("scontrol", "--oneliner", "show", "job", job.id)
    assert "Account=lab" in shown
    assert "QOS=night" in shown
    assert job.ended()["state"] == "done"


@pytest.mark.parametrize("name", ["100%job", "%j", "50%", r"a\b"])
def test_a_run_folder_in_which_slurm_would_replace_something(name: str, tmp_path: Path) -> None:
    """SLURM makes of %j the job's number, of %u the user; a backslash keeps it from doing so where we need it."""
    words, profile = ["--run.dir", str(tmp_path / name)], Profile(gpus_per_node=0)
    with pytest.raises(UserError, match=r"^run\.dir: .* holds % or .*; give another run\.dir or run\.name$"):
        prepare_run(words, profile, cluster="slurm")
    with pytest.raises(UserError, match=r"^run\.dir: "):
        prepare_sweep("s", words, profile, grid={}, seeds=1, parallel=None)
    with pytest.raises(UserError, match=r"^run\.dir: "):
        prepare_preflight(profile, cluster="slurm", parent=str(tmp_path / name))


@pytest.mark.long
def test_code_and_project_folders_may_hold_what_slurm_replaces(cluster: Cluster, tmp_path: Path) -> None:
    """Only where SLURM writes does it replace anything."""
    project = cluster.owned(tmp_path / "%j and %u")
    (project / "recipe.yaml").write_text(
        "data: {name: digits}\nmodel: {width: 0.25}\ntrain: {max_steps: 2}\n"
    )
    words = [
        "submit",
        "--cpu",
        "--preflight",
        "off",
        "--wait",
        "--",
        "recipe.yaml",
        "--run.dir",
        str(tmp_path / "runs"),
    ]
    result = cluster.call(*words, cwd=project)
    assert result.returncode == 0, result.stderr
