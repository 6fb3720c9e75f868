"""How starts end on a real cluster, and what follows: read from the nodes' decision, not guessed from an exit code."""

from __future__ import annotations

import json
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from helpers.job_cluster import RECIPE, Cluster, Job, assert_like, flags

pytestmark = pytest.mark.slow
BROKEN_ONCE = """#!/bin/sh
if [ ! -e "{mark}" ]; then
  : > "{mark}"
  {what}
fi
exec {python} "$@"
"""
"""A Python that does something else at the first start."""


def script(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def profile(path: Path, **values: object) -> str:
    path.write_text(json.dumps({"nodes": 1, "gpus_per_node": 0, **values}))
    return str(path)


@pytest.mark.long
def test_a_mistake_fails_for_good_on_several_nodes(cluster: Cluster, tmp_path: Path) -> None:
    """Other tasks are killed when the first has failed: the true reason counts, and nothing is started again."""
    wrong = {"data__name": "cifar10", "data__root": "/nonexistent", "data__download": "false"}
    job = cluster.submit(tmp_path, "wrong", "--nodes", "3", "--preflight", "off", **wrong)
    status = job.ended()
    assert (status["state"], status["starts"]) == ("failed", 1), job.evidence()
    assert "/nonexistent" in status["reason"]
    assert job.decisions()[0]["code"] == 2


@pytest.mark.long
def test_a_request_before_anybody_listens_brings_the_job_back(
    cluster: Cluster, reference: Path, tmp_path: Path
) -> None:
    text = BROKEN_ONCE.format(mark=tmp_path / "mark", what="kill -USR2 $$", python="{python}")
    early = early_python(tmp_path, text)
    job = cluster.submit(tmp_path, "early", "--profile", profile(tmp_path / "early.yaml", python=str(early)))
    job.until(lambda: job.scheduler().startswith("PENDING"), 180, "the queue")
    assert_like(reference, job, job.ended())


def early_python(folder: Path, text: str) -> Path:
    import sys

    return script(folder / "python", text.replace("{python}", sys.executable))


@pytest.mark.long
def test_a_cancel_before_anybody_listens_ends_the_job(cluster: Cluster, tmp_path: Path) -> None:
    """The signal of `dydist cancel` kills a task that is just starting; the job does not come back."""
    wait = f'while [ ! -e "{tmp_path}/go" ]; do sleep 0.1; done; kill -USR2 $$'
    early = early_python(tmp_path, BROKEN_ONCE.format(mark=tmp_path / "mark", what=wait, python="{python}"))
    job = cluster.submit(tmp_path, "early", "--profile", profile(tmp_path / "early.yaml", python=str(early)))
    job.until(lambda: (tmp_path / "mark").exists(), 180, "the start")
    cluster.dydist("cancel", job.id)
    (tmp_path / "go").touch()
    job.until(lambda: job.scheduler().startswith("CANCELLED"), 180, "the cancelling")
    assert not job.starts()
    assert job.status()["state"] == "cancelled"


@pytest.mark.long
def test_a_cancel_whose_signal_is_lost_is_seen_all_the_same(cluster: Cluster, tmp_path: Path) -> None:
    """The request is a file, which a running job looks for and which each start looks for before anything else."""
    job = cluster.submit(tmp_path, "lost", train__max_steps="3000", train__epochs="500")
    job.at_step(3)
    (job.log_dir / "cancel.json").write_text("{}")
    job.until(lambda: job.scheduler().startswith("CANCELLED"), 180, "the cancelling")
    assert job.decisions()[-1]["action"] == "cancel"
    waiting = cluster.submit(tmp_path, "waiting", "--sbatch", "hold")
    cluster.owned(waiting.log_dir.parent)
    cluster.owned(waiting.log_dir)
    (waiting.log_dir / "cancel.json").write_text("{}")
    cluster.run("scontrol", "release", waiting.id)
    waiting.until(lambda: waiting.scheduler().startswith("CANCELLED"), 180, "the cancelling")
    assert not waiting.run()


@pytest.mark.parametrize(
    "how",
    [
        pytest.param("no python", marks=pytest.mark.long),  # test_login_commands.py has one such end
        pytest.param("no image", marks=pytest.mark.long),
        pytest.param("setup", marks=pytest.mark.long),
        pytest.param("no container", marks=pytest.mark.long),
        pytest.param("no step", marks=pytest.mark.long),
    ],
)
def test_a_start_that_ends_before_our_log_fails_and_says_where(
    cluster: Cluster, tmp_path: Path, how: str
) -> None:
    values = {
        "no python": {"python": "/nonexistent/python"},
        "no container": {"container": "/nonexistent/apptainer exec image.sif"},
        # As apptainer ends: no signal's code, although it is above 128.
        "no image": {
            "container": shlex.quote(
                str(script(tmp_path / "run", "#!/bin/sh\necho no such image\nexit 255\n"))
            )
        },
        "no step": {"srun": ["--mem=900G"]},
        "setup": {"setup": ["echo no such licence", "exit 3"]},
    }[how]
    job = cluster.submit(tmp_path, "gone", "--profile", profile(tmp_path / "gone.yaml", **values))
    status = job.ended()
    code = {"setup": 3, "no image": 255, "no step": 1}.get(how, 127)
    assert (status["state"], status["reason"].split(";")[0]) == (
        "failed",
        f"exit code {code} before dydist could report",
    )
    said = {
        "setup": "no such licence",
        "no image": "no such image",
        "no step": "srun: error: Unable to create step",
    }
    printed = said.get(how, "/nonexistent/")
    assert any(printed in line for line in status["output"]), status


@pytest.mark.long
def test_starts_that_are_killed_at_once_are_bounded(cluster: Cluster, tmp_path: Path) -> None:
    early = early_python(tmp_path, "#!/bin/sh\nkill -KILL $$\n")
    values = {"python": str(early), "max_stalled": 2}
    job = cluster.submit(tmp_path, "killed", "--profile", profile(tmp_path / "killed.yaml", **values))
    status = job.ended()
    assert status["state"] == "failed"
    assert status["reason"].startswith("gave up after 2 starts in a row that were killed at once")


@pytest.mark.long
def test_the_last_element_of_an_array_comes_back_alone(cluster: Cluster, tmp_path: Path) -> None:
    """SLURM gives it the array's own number: whatever addresses that number touches the others too."""
    shared = flags({**RECIPE, "run.dir": tmp_path})
    words = ("sweep", "--cpu", "--json", "--name", "s", "--grid", "optim.lr=0.05,0.1", "--", *shared)
    found = json.loads(cluster.dydist(*words))
    first, last = (Job(cluster, job, Path(run)) for job, run in zip(found["jobs"], found["all"], strict=True))
    assert first.id.endswith("_0")
    last.until(lambda: last.run(), 180, "the last element's start")
    with last.held(3):
        first.until(lambda: first.run().get("state") == "done", 300, "the first element's end")
        cluster.run("scancel", "--signal=USR2", last.id)
        last.until(last.warned, 180, "the warning")
    last.ended()
    assert [len(first.starts()), len(first.decisions())] == [1, 1]
    assert [one["action"] for one in last.decisions()] == ["requeue", "finish"]


@pytest.mark.long
def test_a_rank_killed_while_the_controller_is_down(
    cluster: Cluster, reference: Path, tmp_path: Path
) -> None:
    job = cluster.submit(tmp_path, "outage", "--nodes", "2")
    with job.held(12):
        cluster.testcluster("kill", "slurmctld")
    job.signal_rank(1, signal.SIGKILL)
    printed = job.run_dir / "logs" / "tasks" / f"{job.id}_0_log.out"
    try:
        job.cluster.wait(
            lambda: "SLURM does not answer since" in printed.read_text(), 240, "word of the outage"
        )
    finally:
        cluster.testcluster("revive", "slurmctld")
    assert_like(reference, job, job.ended())
    assert [one["action"] for one in job.decisions()] == ["requeue", "finish"]


def wait_before_srun(folder: Path) -> list[str]:
    """Lines of a profile's `setup`: each start leaves waiting-N there, and goes on to srun when go-N appears."""
    mark, go = (shlex.quote(str(folder / name)) for name in ("waiting-", "go-"))
    return [
        f"n=0; while [ -e {mark}$n ]; do n=$((n + 1)); done; : > {mark}$n",
        f"until [ -e {go}$n ]; do sleep 0.1; done",
    ]


@contextmanager
def patient_controller(cluster: Cluster) -> Iterator[None]:
    """A node that does not answer stays in use, as with SLURM's own SlurmdTimeout of five minutes."""
    file = cluster.folder / "slurm.conf"
    text = file.read_text()
    file.write_text(text.replace("SlurmdTimeout=10", "SlurmdTimeout=300"))
    cluster.operate("scontrol", "reconfigure")
    try:
        yield
    finally:
        file.write_text(text)
        cluster.operate("scontrol", "reconfigure")


@pytest.mark.long
@pytest.mark.parametrize("broken", ["node", "slurmctld"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "every time"])
def test_a_start_that_srun_cannot_launch_comes_back(
    cluster: Cluster, reference: Path, tmp_path: Path, broken: str, lasting: bool
) -> None:
    """A node or the controller is down at the very moment of the launch: status shows what srun said of it."""
    down = cluster.nodes[1] if broken == "node" else broken
    said = {
        "node": f"Task launch for StepId=[0-9]+.0 failed on node {down}: ",
        "slurmctld": "Unable to confirm allocation for job [0-9]+: ",
    }[broken]
    values = {
        "setup": wait_before_srun(tmp_path), "nodes": 2, "max_stalled": 2, "sbatch": {"nodelist": cluster.hosts(1, 2)},
    }  # fmt: skip
    job = cluster.submit(tmp_path, "launch", "--profile", profile(tmp_path / "launch.yaml", **values))
    printed = job.run_dir / "logs" / "tasks" / f"{job.id}_0_log.out"

    def failed(before: int) -> bool:
        return len(re.findall(f"srun: error: {said}", printed.read_text())) > before

    with patient_controller(cluster):
        for number in range(2 if lasting else 1):
            if number:
                job.start_now()
            waiting = tmp_path / f"waiting-{number}"
            job.until(waiting.exists, 180, "the batch script")
            if broken == "node":
                cluster.testcluster("kill", down)
            else:
                cluster.stop_controller()
            (tmp_path / f"go-{number}").touch()
            cluster.wait(partial(failed, number), 240, "the failure")
            cluster.testcluster("revive", down)
            if number == 0:
                job.until(lambda: job.scheduler().startswith("PENDING"), 240, "the queue")
                (ended,) = job.status()["requeues"]
                assert re.match(f"SLURM could not launch: {said}", ended["reason"]), job.evidence()
        (tmp_path / "go-1").touch()
        status = job.ended()
    if lasting:
        assert status["state"] == "failed", job.evidence()
        text = f"gave up after 2 starts in a row that SLURM could not launch: {said}"
        assert re.match(text, status["reason"]), status
    else:
        assert_like(reference, job, status)
