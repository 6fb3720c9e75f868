"""Draws faults at random against jobs on the real test cluster, for minutes or hours; outside the ordinary suite.

    python tests/chaos/jobs.py --minutes 10 --seed 1 --site strict

A sweep of six runs and, beside it, a run on two nodes are submitted; whenever one of the two is done and there is
time left, the next is. Meanwhile faults of every kind are drawn, in an order of the seed's; then there are no more,
and everything must finish by itself: each run with the weights and the metrics of an uninterrupted one on one
process, none lost, none doubled, none trained again that was done. A controller that is killed forgets its last
seconds: a job that it had just taken (status says so, and the command is given again), or that one had just ended
(SLURM starts it again, and the start must find that the run is done). Both are counted. Prints a JSON line a run, and
a summary; exit code 1 where something is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import pytest

from helpers.job_cluster import (
    RECIPE,
    REPOSITORY,
    STEPS,
    Cluster,
    Job,
    flags,
    memory_limit,
    metrics,
    running_cluster,
    weights,
)

SETTLE_S = 900.0
"""How long all may take to finish after the last fault."""
START_PAUSE_S = 2.5
"""From the end of a start's last process to the next start: see Job.start_now."""
LIVE = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED", "SIGNALING", "STAGE_OUT")
GRID = ("optim.lr=0.05,0.1", 3)
NAMES = [f"lr{lr}-seed{seed}" for lr in ("0.05", "0.1") for seed in range(3)]
PROFILE = '{hang_timeout_s: 40, start_timeout_s: 240, max_stalled: 20, gpus_per_node: 0, time: "60"}'


@dataclass
class Run:
    """A run of the workload, its newest job, and those before it. `alike`: the uninterrupted run that it must equal."""

    job: Job
    alike: str
    words: Sequence[str]
    earlier: list[str] = field(default_factory=list)
    state: str = "PENDING|"
    quiet_since: float | None = None
    cancelled: bool = False
    limited: bool = False

    @property
    def name(self) -> str:
        return f"{self.job.run_dir.parent.name}/{self.job.run_dir.name}"


class Workload:
    """What is submitted, and how SLURM says it is doing."""

    def __init__(self, cluster: Cluster, runs: Path) -> None:
        self.cluster, self.runs = cluster, runs
        self.profile = runs / "chaos.yaml"
        self.profile.write_text(PROFILE)
        self.all: dict[Path, Run] = {}
        self.problems: list[str] = []
        self.sweeps = self.pairs = self.forgot = 0

    def submit_sweep(self) -> None:
        grid, seeds = GRID
        words = [
            "sweep",
            "--cpu",
            "--json",
            "--name",
            f"sweep-{self.sweeps}",
            "--parallel",
            "2",
            "--grid",
            grid,
        ]
        words += ["--seeds", str(seeds), "--profile", str(self.profile), "--", *flags(RECIPE)]
        self.sweeps += 1
        self.submit([*words, "--run.dir", str(self.runs)])

    def submit_pair(self) -> None:
        words = [
            "submit",
            "--cpu",
            "--json",
            "--nodes",
            "2",
            "--profile",
            str(self.profile),
            "--",
            *flags(RECIPE),
        ]
        words += flags({"run.dir": self.runs / "pairs", "run.name": f"pair-{self.pairs}", "optim.lr": "0.05"})
        self.pairs += 1
        self.submit(words)

    def submit(self, words: Sequence[str]) -> list[str]:
        """A command of a user's; a run that has a job already gets no second one. The runs that got one."""
        answer = json.loads(self.cluster.dydist(*words))
        sweep = words[0] == "sweep"
        folders = answer["submitted"] if sweep else [answer["run_dir"]]
        for folder, job in zip(map(Path, folders), answer["jobs"] if sweep else [answer["job"]], strict=True):
            new = Run(Job(self.cluster, job, folder), folder.name if sweep else NAMES[0], words)
            if old := self.all.get(folder):
                if (state := old.job.status()["state"]) not in ("cancelled", "gone", "lost"):
                    self.problems.append(f"{old.name}: submitted again, was {state}")
                new.earlier = [*old.earlier, old.job.id]
            self.all[folder] = new
        return list(folders)

    def look(self) -> None:
        """Ask SLURM; let what was requeued start when nothing of its last start lives (SLURM waits two minutes)."""
        command = ("squeue", "--noheader", "--array", "--states=all", "--me", "--format=%i|%T|%r")
        known = dict(line.split("|", 1) for line in self.cluster.run(*command).splitlines())
        for folder, run in list(self.all.items()):
            run.state = known.get(run.job.id, "FORGOTTEN|")
            alive = [job for job in (run.job.id, *run.earlier) if known.get(job, "").startswith(LIVE)]
            if len(alive) > 1:
                self.problems.append(f"{run.name}: two jobs at once, {alive}")
            if run.limited and run.state.startswith("PENDING"):
                self.cluster.operate("scontrol", "update", f"JobId={run.job.id}", "TimeLimit=60", check=False)
                run.limited = False
            if run.state == "PENDING|launch failed requeued held":
                self.cluster.operate("scontrol", "release", run.job.id, check=False)
            if run.state != "PENDING|BeginTime" or list(run.job.processes()):
                run.quiet_since = None
            elif run.quiet_since is None:
                run.quiet_since = time.monotonic()
            elif time.monotonic() - run.quiet_since > START_PAUSE_S:
                self.cluster.run("scontrol", "update", f"JobId={run.job.id}", "StartTime=now", check=False)
                run.quiet_since = None
            if run.cancelled and not run.state.startswith(LIVE) and self.all[folder] is run:
                self.again(run)
            if run.state == "FORGOTTEN|" and self.all[folder] is run:
                self.forgotten(run)

    def again(self, run: Run) -> None:
        """What a user does whose run was cancelled: the same command. It may have been done before."""
        run.cancelled = False
        if run.job.status()["state"] == "cancelled":
            self.submit(run.words)

    def forgotten(self, run: Run) -> None:
        """What a user does whom status tells that SLURM has forgotten the job: the same command."""
        if run.job.status()["state"] in ("gone", "lost"):
            self.forgot += 1
            self.submit(run.words)

    def live(self) -> list[Run]:
        return [run for run in self.all.values() if run.state.startswith(LIVE)]

    def running(self) -> list[Run]:
        return [run for run in self.all.values() if run.state.startswith("RUNNING")]


class Faults:
    """What can happen; each draws its own details, and tells whether there was anything that it could happen to."""

    def __init__(self, workload: Workload, draw: random.Random, stack: ExitStack) -> None:
        self.workload, self.cluster, self.draw, self.stack = workload, workload.cluster, draw, stack
        self.all: dict[str, Callable[[], bool]] = {
            "preempt": self.preempt,
            "kill node": lambda: self.node("kill"),
            "hang node": lambda: self.node("hang"),
            "kill rank": lambda: self.rank(signal.SIGKILL),
            "stop rank": lambda: self.rank(signal.SIGSTOP),
            "out of memory": self.memory,
            "kill task": self.task,
            "ask to stop": lambda: self.command("scancel", "--signal=USR2"),
            "terminate": lambda: self.command("scancel", "--signal=TERM"),
            "requeue": lambda: self.command("scontrol", "requeue"),
            "time limit": self.limit,
            "controller down": self.controller,
            "cancel": self.cancel,
        }
        self.bag: list[str] = []
        self.limited: set[int] = set()

    def next(self) -> str | None:
        """The next kind that can happen now does: in random order, those that came longest ago first."""
        if not self.bag:
            self.bag = self.draw.sample(sorted(self.all), len(self.all))
        others = sorted(set(self.all) - set(self.bag))
        for what in [*self.bag, *self.draw.sample(others, len(others))]:
            if self.all[what]():
                self.bag = [one for one in self.bag if one != what]
                return what
        return None

    def victim(self) -> Run | None:
        running = sorted(self.workload.running(), key=lambda run: run.name)
        return self.draw.choice(running) if running else None

    def pids(self, run: Run) -> list[int]:
        """Its training processes; none before they have started."""
        starts = run.job.starts()
        files = sorted(starts[-1].glob("exit-*/pid-*.json")) if starts else []
        return [int(json.loads(file.read_text())["pid"]) for file in files]

    def preempt(self) -> bool:
        if not self.workload.running():
            return False
        self.cluster.testcluster("preempt", "--nodes", "3", "--seconds", str(self.draw.randint(1, 10)))
        return True

    def node(self, how: str) -> bool:
        state = json.loads(self.cluster.testcluster("status"))
        busy = [name for name, value in state["nodes"].items() if value in ("mixed", "allocated")]
        if busy:
            self.cluster.testcluster(how, self.draw.choice(busy))
        return bool(busy)

    def rank(self, number: signal.Signals) -> bool:
        run = self.victim()
        if run is None or not (pids := self.pids(run)):
            return False
        with suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(self.draw.choice(pids), number)
            return True
        return False

    def memory(self) -> bool:
        """The kernel kills a rank that takes more than 4 MiB from now on."""
        run = self.victim()
        pids = [pid for pid in (self.pids(run) if run else ()) if pid not in self.limited]
        if not pids:
            return False
        pid = self.draw.choice(pids)
        self.limited.add(pid)
        with suppress(OSError, pytest.skip.Exception):  # it has ended already; or no such groups here
            self.stack.enter_context(memory_limit(pid, 4 << 20))
            return True
        return False

    def task(self) -> bool:
        """The task of a node, which watches and decides."""
        run = self.victim()
        tasks = [
            one for one in (run.job.processes() if run else ()) if "submitit.core._submit" in one.cmdline()
        ]
        if tasks:
            self.draw.choice(tasks).kill()
        return bool(tasks)

    def command(self, *words: str) -> bool:
        """As a user or an administrator asks, with or without a warning."""
        run = self.victim()
        if run:
            self.cluster.run(*words, run.job.id, check=False)
        return run is not None

    def limit(self) -> bool:
        """Its time limit comes near: SLURM, which looks every 30 s, warns it."""
        run = self.victim()
        if run is None or run.limited:
            return False
        with suppress(AssertionError):  # it has ended meanwhile
            run.limited = run.job.near_limit()
        return run.limited

    def controller(self) -> bool:
        """For some seconds nobody answers; meanwhile a rank may be killed."""
        self.cluster.testcluster("kill", "slurmctld")
        if self.draw.random() < 0.5:
            self.rank(signal.SIGKILL)
        time.sleep(self.draw.uniform(1, 20))
        self.cluster.testcluster("revive", "slurmctld")
        return True

    def cancel(self) -> bool:
        """A user cancels it, and submits it again when it has ended."""
        run = self.victim()
        if run is None or run.cancelled:
            return False
        self.cluster.call("cancel", run.job.id)
        run.cancelled = True
        return True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--site", default="default", help="of slurm/testcluster: default, strict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--pause", type=float, nargs=2, default=(5, 20), help="seconds between faults: from, to"
    )
    parser.add_argument(
        "--references", type=Path, help="where the uninterrupted runs are kept for the next seed"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder of runs and logs")
    options = parser.parse_args()
    parent = Path(tempfile.mkdtemp(prefix="dydist-chaos-"))
    with running_cluster(options.site, parent) as cluster, ExitStack() as stack:
        runs = cluster.owned(cluster.project / "runs")
        references = cluster.owned(options.references or runs / "references")
        train_references(cluster, references)
        workload = Workload(cluster, runs)
        faults = Faults(workload, random.Random(options.seed), stack)
        began = time.monotonic()
        counts = play(workload, faults, began + options.minutes * 60, options.pause)
        minutes = (time.monotonic() - began) / 60
        results = [judge(run, references / run.alike) for run in workload.all.values()]
        problems = sorted({*workload.problems, *again(workload)})
        wrong = sum(bool(result["wrong"]) for result in results) + len(problems)
        if options.keep or wrong:
            shutil.copytree(
                cluster.folder, parent / "kept", symlinks=True, ignore=shutil.ignore_patterns("spool")
            )
            print(f"kept in {parent}/kept", file=sys.stderr)
    print(
        json.dumps(
            {
                "site": options.site,
                "seed": options.seed,
                "minutes": round(minutes, 1),
                "runs": len(results),
                "sweeps": workload.sweeps,
                "starts": sum(result["starts"] for result in results),
                "found_done": sum(result["found_done"] for result in results),
                "forgotten": workload.forgot,
                "wrong": wrong,
                "problems": problems,
                "kinds": len(counts),
                "faults": dict(sorted(counts.items())),
            }
        )
    )
    return 1 if wrong or not results else 0


def train_references(cluster: Cluster, folder: Path) -> None:
    for name in NAMES:
        if (folder / name).exists():
            continue
        lr, seed = name.removeprefix("lr").split("-seed")
        words = [
            *flags({**RECIPE, "optim.lr": lr, "seed": seed}),
            "--run.dir",
            str(folder),
            "--run.name",
            name,
        ]
        cluster.run(sys.executable, str(REPOSITORY / "dydist" / "train.py"), *words)


def play(workload: Workload, faults: Faults, until: float, pause: Sequence[float]) -> Counter[str]:
    """Faults until `until`, then none, to the end of the last run; how often each kind came."""
    counts: Counter[str] = Counter()
    draw = faults.draw
    next_fault = time.monotonic() + draw.uniform(*pause)
    mended = time.monotonic()
    while time.monotonic() < until + SETTLE_S:
        more = time.monotonic() < until
        live = workload.live()
        if more and not any(run.words[0] == "sweep" for run in live):
            workload.submit_sweep()
        if more and not any(run.words[0] == "submit" for run in live):
            workload.submit_pair()
        workload.look()
        if not more and not workload.live() and not any(run.cancelled for run in workload.all.values()):
            break
        if more and time.monotonic() >= next_fault:
            what = faults.next()
            if what:
                counts[what] += 1
                print(f"{time.strftime('%T')} {what}", file=sys.stderr, flush=True)
            next_fault = time.monotonic() + (draw.uniform(*pause) if what else 1)
        if time.monotonic() - mended > 5:
            mend(workload.cluster)
            mended = time.monotonic()
        time.sleep(0.5)
    return counts


def mend(cluster: Cluster) -> None:
    """Nodes that were killed, hung or drained by SLURM come back, as after a repair.

    SLURM drains a node and holds a job ("Duplicate jobid") where slurmstepd still had to report to a controller that
    was down when the job was started again: its two minutes of waiting, which this test cuts short, are for that.
    """
    state = json.loads(cluster.testcluster("status"))
    for node, value in state["nodes"].items():
        if value.startswith("drain"):
            cluster.testcluster("undrain", node)
        if value.startswith("down"):
            cluster.testcluster("wake", node)
            if not state["daemons"][node]:
                cluster.testcluster("revive", node)


def judge(run: Run, alike: Path) -> dict[str, Any]:
    """What is wrong with a run at the end: nothing, if it is done, equal, and was not started after it was done."""
    status = run.job.status()
    wrong = []
    if status["state"] != "done":
        wrong.append(status["state"])
    elif not (run.job.run_dir / "checkpoints" / f"step-{STEPS:09d}").is_dir():
        wrong.append(f"done without a checkpoint of step {STEPS}")
    elif weights(run.job.run_dir) != weights(alike):
        wrong.append("other weights")
    elif metrics(run.job.run_dir) != metrics(alike):
        wrong.append("other metrics: a gap, an overlap or a duplicate")
    starts = list(_starts(run.job.run_dir))
    first_end = min((when for when, finished, _ in starts if finished), default=float("inf"))
    after = [trained for when, _, trained in starts if when > first_end]
    if any(after):
        wrong.append("trained again when it was done")
    if wrong:
        print(run.job.evidence(), file=sys.stderr)
    found = {
        "run": run.name,
        "jobs": [*run.earlier, run.job.id],
        "starts": len(starts),
        "found_done": len(after),
    }
    found["wrong"] = wrong
    print(json.dumps({**found, "reasons": [one["reason"] for one in status["requeues"]]}), flush=True)
    return found


def _starts(run_dir: Path) -> Iterator[tuple[float, bool, bool]]:
    """Of each start of each job: when it began, whether it came to the run's end, and whether it took a step."""
    for folder in sorted(run_dir.glob("logs/*/attempt-*")):
        with suppress(FileNotFoundError):
            began = float(json.loads((folder / "start.json").read_text())["time"])
            try:
                finished = json.loads((folder / "decision.json").read_text())["action"] == "finish"
            except FileNotFoundError:
                finished = False
            logs = [file.read_text(errors="replace") for file in folder.glob("node-*.log")]
            yield began, finished, any(re.search(r"^\S+ \[rank 0\] \d+ ep ", log, re.M) for log in logs)


def again(workload: Workload) -> list[str]:
    """The commands of all sweeps once more: nothing may be submitted of what is done."""
    words = {tuple(run.words) for run in workload.all.values() if run.words[0] == "sweep"}
    return [f"submitted again: {folder}" for one in sorted(words) for folder in workload.submit(one)]


if __name__ == "__main__":
    sys.exit(main())
