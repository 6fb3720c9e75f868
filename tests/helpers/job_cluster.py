"""A real SLURM cluster for the tests of jobs, and jobs on it."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from safetensors import safe_open

from helpers.support import missing

REPOSITORY = Path(__file__).resolve().parents[2]
TESTCLUSTER = REPOSITORY / "slurm" / "testcluster"
SITE = os.environ.get("DYDIST_TEST_SITE", "default")
"""How the test cluster is configured: slurm/testcluster_sites.py has the names."""
DAEMONS = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
RECIPE = {
    "data.name": "digits", "model.width": "0.25", "train.batch_size": "64", "train.epochs": "2",
    "train.max_steps": "30", "parallel.reduce": "exact", "parallel.shards": "4", "checkpoint.every_steps": "5",
    "monitor.every_steps": "1", "train.eval_every_epochs": "0.5",
}  # fmt: skip
STEPS = int(RECIPE["train.max_steps"])


def cluster_environment(folder: Path) -> dict[str, str]:
    """The environment of a user of the test cluster in `folder`, with nothing of this user's own settings."""
    more = {
        "PATH": DAEMONS,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "XDG_STATE_HOME": str(folder / "state-home"),
        "XDG_CONFIG_HOME": str(folder / "config-home"),
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    return {**os.environ, **more}


@contextmanager
def running_cluster(site: str, parent: Path, *options: str) -> Iterator[Cluster]:
    """A cluster of this site, up and down. `parent` is for those whose jobs are this user's own.

    Jobs of the strict site are another user's, where root runs the tests and that user can run this Python.
    """
    with ExitStack() as stack:
        folder = parent
        if site == "strict" and os.geteuid() == 0:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dydist-strict-")))
            folder.chmod(0o755)  # every user may pass, unlike in pytest's own folder
        cluster = Cluster(folder, cluster_environment(folder))
        cluster.testcluster("up", "--site", site, *options)
        try:
            cluster.adopt()
            yield cluster
        finally:
            cluster.testcluster("down")


def flags(values: Mapping[str, object]) -> list[str]:
    """A mapping as flags of dydist/train.py."""
    return [word for field, value in values.items() for word in (f"--{field}", str(value))]


@dataclass
class Cluster:
    """The test cluster. Everything awaited is an event of the cluster or of a run, with a time limit.

    `user`: whose jobs they are, with the groups that subprocess wants; empty where it is who runs the tests.
    """

    folder: Path
    env: dict[str, str]
    site: str = "default"
    nodes: Sequence[str] = ()
    project: Path = Path()
    user: Mapping[str, Any] = field(default_factory=dict)

    def adopt(self) -> None:
        """Take over what `testcluster up` made: nodes, and the user with their home."""
        made = json.loads((self.folder / "cluster.json").read_text())
        self.site, self.nodes, self.project = (
            made["site"],
            made["nodes"],
            Path(made.get("project", self.folder)),
        )
        # Of the jobs too: what is killed leaves things there.
        self.env |= {"TMPDIR": str(self.owned(self.folder / "tmp"))}
        if "home" not in made:
            return
        home = Path(made["home"])
        if "user" in made:
            self.user = {"user": made["user"], "group": pwd.getpwnam(made["user"]).pw_gid, "extra_groups": ()}
            command = [sys.executable, "-c", "import dydist"]
            try:
                can_run = subprocess.run(command, env=self.env, cwd="/", **self.user).returncode == 0
            except PermissionError:  # a folder on the way to the interpreter is closed to them
                can_run = False
            if not can_run:
                print(
                    f"{made['user']} cannot run {sys.executable}: jobs of the strict site are run as this user"
                )
                self.user = {}
        folders = {
            "TMPDIR": "tmp",
            "XDG_STATE_HOME": "state",
            "XDG_CONFIG_HOME": "config",
            "DYDIST_CACHE": "cache",
        }
        self.env |= {name: str(self.owned(home / part)) for name, part in folders.items()} | {
            "HOME": str(home)
        }
        self.owned(home)
        self.owned(self.project)
        built = Path(os.environ.get("DYDIST_CACHE", "")) / "native"
        if built.is_dir():  # compiled kernels take a minute to build
            shutil.copytree(built, home / "cache" / "native")

    def owned(self, folder: Path) -> Path:
        """A folder of the user's own."""
        folder.mkdir(exist_ok=True)
        if self.user:
            shutil.chown(folder, self.user["user"], self.user["group"])
        return folder

    def only(self, site: str, why: str) -> None:
        """Skip a test that another site cannot have."""
        if self.site != site:
            pytest.skip(f"on the {site} site alone: {why}")

    def hosts(self, *numbers: int) -> str:
        """Nodes, counted from 1, in SLURM's short form: n[1-2]."""
        names = ",".join(self.nodes[number - 1] for number in numbers)
        return self.run("scontrol", "show", "hostlistsorted", names).strip()

    def testcluster(self, command: str, *arguments: str) -> str:
        words = [sys.executable, str(TESTCLUSTER), command, "--dir", str(self.folder), *arguments]
        result = subprocess.run(words, capture_output=True, text=True, env=self.env)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def run(self, *command: str, check: bool = True) -> str:
        """A command as the user whose jobs they are."""
        result = subprocess.run(command, capture_output=True, text=True, env=self.env, cwd="/", **self.user)
        assert not check or result.returncode == 0, result.stderr
        return result.stdout

    def operate(self, *command: str, check: bool = True) -> str:
        """A command as whoever started the cluster: SLURM's operator."""
        result = subprocess.run(command, capture_output=True, text=True, env=self.env)
        assert not check or result.returncode == 0, result.stderr
        return result.stdout

    def call(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """The `dydist` command, as a user types it in their project folder, or in `cwd`."""
        words = [sys.executable, "-m", "dydist.cli.main", *arguments]
        return subprocess.run(
            words, capture_output=True, text=True, env=self.env, cwd=cwd or self.project, **self.user
        )

    def dydist(self, *arguments: str, code: int = 0) -> str:
        """The same with the exit code that it must have; its standard output."""
        result = self.call(*arguments)
        assert result.returncode == code, f"exit {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def submit(self, runs: Path, name: str, *options: str, **changed: str) -> Job:
        """Submit RECIPE on CPUs with `changed` fields (train__max_steps="5")."""
        values = {**RECIPE, **{field.replace("__", "."): text for field, text in changed.items()}}
        values |= {"run.dir": str(runs), "run.name": name}
        answer = json.loads(self.dydist("submit", "--cpu", "--json", *options, "--", *flags(values)))
        return Job(self, answer["job"], Path(answer["run_dir"]))

    def wait(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
            time.sleep(0.1)
        return found

    def stop_controller(self) -> None:
        """Stop slurmctld as an administrator does: it saves its state, unlike one that is killed."""
        self.operate("scontrol", "shutdown", "slurmctld")
        self.wait(
            lambda: not json.loads(self.testcluster("status"))["daemons"]["slurmctld"],
            60,
            "the controller's end",
        )

    def quiet(self) -> None:
        """End every job and bring back every node."""
        for run in (self.run, self.operate):
            run("scancel", "--me", check=False)
            run("scancel", "--me", "--signal=KILL", check=False)
        state = json.loads(self.testcluster("status"))
        for node, lives in state["daemons"].items():
            if node != "slurmctld" and not lives:
                self.testcluster("revive", node)
        for node, value in state["nodes"].items():
            self.testcluster("wake", node)
            if value.startswith("drain"):
                self.testcluster("undrain", node)
        self.wait(
            lambda: set(json.loads(self.testcluster("status"))["nodes"].values()) == {"idle"},
            120,
            "idle nodes",
        )


def start_to_first_step(job: Job) -> float:
    """Seconds from the start of a job to its first training step."""
    began = json.loads((job.log_dir / "starts.jsonl").read_text().splitlines()[0])["time"]
    first = json.loads((job.run_dir / "metrics.jsonl").read_text().splitlines()[0])
    return float(first["time"]) - float(began)


@dataclass
class Job:
    """A submitted job."""

    cluster: Cluster
    id: str
    run_dir: Path

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.cluster.dydist("status", "--json", self.id))[0]
        return found

    def run(self) -> dict[str, Any]:
        """The run's own status, {} before there is one."""
        try:
            return dict(json.loads((self.run_dir / "status.json").read_text()))
        except FileNotFoundError:
            return {}

    @property
    def log_dir(self) -> Path:
        return self.run_dir / "logs" / self.id

    def starts(self) -> list[Path]:
        return sorted(self.log_dir.glob("attempt-*"))

    def decisions(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_text()) for path in sorted(self.log_dir.glob("attempt-*/decision.json"))]

    def scheduler(self) -> str:
        """SLURM's word for its state, and why."""
        words = ("squeue", "--noheader", "--states=all", f"--jobs={self.id}", "--format=%T %r")
        return self.cluster.run(*words).strip()

    def at_step(self, step: int, seconds: float = 300) -> None:
        """Wait until training has finished this step."""
        self.until(lambda: (self.run().get("step") or 0) >= step, seconds, f"step {step}")

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        try:
            return self.cluster.wait(condition, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.evidence()}") from None

    def start_now(self) -> None:
        """Start a requeued job at once: SLURM itself waits two minutes.

        It waits for a reason: an srun of the last start that lives on for some seconds (its node died) would end the
        new start, whose step has the same number; and a node refuses a start whose credential, stamped in whole
        seconds, is not newer than the end of the last one. For the second there is nothing to be awaited but time.
        """
        self.until(lambda: not list(self.processes()), 120, "the end of the last start's processes")
        time.sleep(2.5)
        self.cluster.run("scontrol", "update", f"JobId={self.id}", "StartTime=now", check=False)

    def near_limit(self) -> bool:
        """Bring its time limit so near that SLURM, which looks every 30 s, warns it, but does not end it at once."""
        words = ("squeue", "--noheader", f"--jobs={self.id}", "--states=RUNNING", "--format=%M")
        used = self.cluster.run(*words, check=False).strip()
        if used.count(":") != 1:  # minutes:seconds
            return False
        limit = f"TimeLimit={int(used.partition(':')[0]) + 2}"
        self.cluster.operate("scontrol", "update", f"JobId={self.id}", limit)
        return True

    def processes(self) -> Iterator[psutil.Process]:
        """Those of this job, on any node."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                env = process.environ()
                job = env.get("SLURM_JOB_ID")
                # One element of an array has the array's own number.
                if {"SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"} <= env.keys():
                    job = f"{env['SLURM_ARRAY_JOB_ID']}_{env['SLURM_ARRAY_TASK_ID']}"
                ours = (job, env.get("SLURM_CONF")) == (self.id, self.cluster.env["SLURM_CONF"])
                if ours and process.status() not in ("zombie", "stopped"):
                    yield process

    def ended(self, seconds: float = 400) -> dict[str, Any]:
        """Wait for the end, letting the job come back at once whenever it is requeued."""

        def over() -> dict[str, Any] | None:
            state = self.scheduler()
            if state == "PENDING BeginTime":
                self.start_now()
            if state.startswith(("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")):
                return None
            return self.status()

        found: dict[str, Any] = self.until(over, seconds, "the job's end")
        return found

    def pid(self, rank: int) -> int:
        """The training process of this rank in the newest start."""
        file = max(self.starts()[-1].glob(f"exit-*/pid-{rank}.json"))
        return int(json.loads(file.read_text())["pid"])

    def signal_rank(self, rank: int, number: signal.Signals) -> None:
        os.kill(self.pid(rank), number)

    @contextmanager
    def held(self, step: int) -> Iterator[list[int]]:
        """Training stands still once it has finished this step, so that no test races with its end: its pids."""
        self.at_step(step)
        files = list(self.starts()[-1].glob("exit-*/pid-*.json"))
        pids = [int(json.loads(file.read_text())["pid"]) for file in files]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield pids
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def warned(self) -> bool:
        """Whether the newest start has passed on a warning of the scheduler."""
        return "asking the processes" in (self.starts()[-1] / "node-0.log").read_text()

    def evidence(self) -> str:
        """What a failed test shows."""
        logs = [f"{path}:\n{path.read_text()[-3000:]}" for path in sorted(self.log_dir.rglob("*.log"))]
        return "\n".join([self.cluster.run("squeue", "--states=all"), json.dumps(self.decisions()), *logs])


@contextmanager
def memory_limit(pid: int, limit_bytes: int) -> Iterator[Callable[[], int]]:
    """What `pid` allocates from now on counts against a limit of its own; yields how often the kernel has killed.

    A memory cgroup, version 1 or 2; skipped loudly where none can be made. `pid` must end inside.
    """
    first = Path("/sys/fs/cgroup/memory")
    root, limit, events = (
        (first, "memory.limit_in_bytes", "memory.oom_control")
        if first.is_dir()
        else (first.parent, "memory.max", "memory.events")
    )
    group = root / f"dydist-test-{pid}"
    try:
        group.mkdir()
        (group / limit).write_text(str(limit_bytes))
    except OSError as error:
        missing(f"a writable memory cgroup ({error})")
    (group / "cgroup.procs").write_text(str(pid))

    def kills() -> int:
        words = dict(line.split() for line in (group / events).read_text().splitlines())
        return int(words["oom_kill"])

    yield kills
    group.rmdir()


def weights(run_dir: Path, step: int = STEPS) -> str:
    """A digest of every tensor, model and optimiser, of a checkpoint, however it is cut into files."""
    tensors = {}
    for file in sorted((run_dir / "checkpoints" / f"step-{step:09d}").glob("*.safetensors")):
        with safe_open(file, framework="np") as content:
            kind = file.name.partition("-")[0]
            tensors |= {f"{kind}/{name}": content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    assert tensors, f"no checkpoint of step {step} in {run_dir}"
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(
            f"{name} {tensors[name].dtype} {tensors[name].shape}".encode() + tensors[name].tobytes()
        )
    return digest.hexdigest()


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    keep = ("kind", "step", "epoch", "loss", "accuracy", "lr", "temperature")
    return [{name: line[name] for name in keep if name in line} for line in lines if "loss" in line]


def assert_like(reference: Path, job: Job, status: dict[str, Any]) -> None:
    assert status["state"] == "done", job.evidence()
    assert weights(job.run_dir) == weights(reference)
    assert metrics(job.run_dir) == metrics(reference), "a gap, an overlap or a duplicate"
