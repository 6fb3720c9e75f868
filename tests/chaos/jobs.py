"""Draws faults at random against jobs on the real test cluster, for minutes or hours; outside the ordinary suite.

    python tests/chaos/jobs.py --minutes 10 --seed 1

Each round submits one run on two nodes and, at random moments, preempts it, kills or hangs a node, kills or stops a
rank, asks it to stop, or cuts its time, until it is done. It must finish by itself with the weights and the metrics
of an uninterrupted run on one process. Prints a JSON line a round and a summary; exit code 1 where one differed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.extend(str(Path(__file__).resolve().parents[1] / folder) for folder in ("jobs", ""))

from job_cluster import RECIPE, REPOSITORY, STEPS, Cluster, Job, flags, metrics, running_cluster, weights

ROUND_S = 900.0
"""A round that takes longer has failed."""


class Faults:
    """What can happen; each draws its own details."""

    def __init__(self, cluster: Cluster, draw: random.Random) -> None:
        self.cluster, self.draw = cluster, draw
        self.all: dict[str, Callable[[Job], None]] = {
            "preempt": self.preempt,
            "kill node": lambda job: self.node(job, "kill"),
            "hang node": lambda job: self.node(job, "hang"),
            "kill rank": lambda job: self.rank(job, signal.SIGKILL),
            "stop rank": lambda job: self.rank(job, signal.SIGSTOP),
            "ask to stop": lambda job: self.scancel(job, "USR2"),
            "terminate": lambda job: self.scancel(job, "TERM"),
            "requeue": lambda job: self.requeue(job),
            "controller down": lambda job: self.controller(job),
        }

    def preempt(self, job: Job) -> None:
        self.cluster.testcluster("preempt", "--nodes", "3", "--seconds", str(self.draw.randint(1, 10)))

    def node(self, job: Job, how: str) -> None:
        state = json.loads(self.cluster.testcluster("status"))
        busy = [name for name, value in state["nodes"].items() if value.startswith(("mixed", "alloc"))]
        if busy:
            self.cluster.testcluster(how, self.draw.choice(busy))

    def rank(self, job: Job, number: signal.Signals) -> None:
        try:
            job.signal_rank(self.draw.randint(0, 1), number)
        except (IndexError, ValueError, FileNotFoundError, ProcessLookupError):
            return  # not started yet, or ended already

    def scancel(self, job: Job, name: str) -> None:
        self.cluster.run("scancel", f"--signal={name}", job.id, check=False)

    def controller(self, job: Job) -> None:
        """For some seconds nobody answers; meanwhile a rank may be killed."""
        self.cluster.testcluster("kill", "slurmctld")
        if self.draw.random() < 0.5:
            self.rank(job, signal.SIGKILL)
        time.sleep(self.draw.uniform(1, 20))
        self.cluster.testcluster("revive", "slurmctld")

    def requeue(self, job: Job) -> None:
        """Without a warning, as an administrator does."""
        self.cluster.run("scontrol", "requeue", job.id, check=False)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--site", default="default", help="of slurm/testcluster: default, strict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--faults", type=int, default=3, help="faults of each round")
    parser.add_argument("--keep", action="store_true", help="keep the folder of runs and logs")
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    rounds, wrong = 0, 0
    began = time.monotonic()
    with running_cluster(options.site, Path(tempfile.mkdtemp(prefix="dydist-chaos-"))) as cluster:
        runs = cluster.owned(cluster.project / "runs")
        reference = train_reference(cluster, runs)
        while time.monotonic() - began < options.minutes * 60:
            draw = random.Random(f"{options.seed} {rounds}")
            result = play(cluster, draw, runs, f"round-{rounds}", options.faults, reference)
            counts.update(result["faults"])
            wrong += not result["equal"]
            rounds += 1
            print(json.dumps(result), flush=True)
        if not options.keep and not wrong:
            shutil.rmtree(runs)
    summary = {
        "site": options.site,
        "seed": options.seed,
        "rounds": rounds,
        "wrong": wrong,
        "faults": dict(counts),
    }
    print(json.dumps({**summary, "minutes": round((time.monotonic() - began) / 60, 1)}))
    return 1 if wrong or not rounds else 0


def train_reference(cluster: Cluster, runs: Path) -> Path:
    words = [*flags(RECIPE), "--run.dir", str(runs), "--run.name", "one"]
    cluster.run(sys.executable, str(REPOSITORY / "dydist" / "train.py"), *words)
    return runs / "one"


def play(
    cluster: Cluster, draw: random.Random, runs: Path, name: str, faults: int, reference: Path
) -> dict[str, object]:
    """One run under faults, to its end."""
    cluster.quiet()
    profile = runs / f"{name}.yaml"
    profile.write_text(
        "{hang_timeout_s: 10, start_timeout_s: 90, max_stalled: 8, nodes: 2, gpus_per_node: 0}"
    )
    began = time.monotonic()
    job = cluster.submit(runs, name, "--profile", str(profile))
    possible, done = Faults(cluster, draw), []
    next_fault = began + draw.uniform(5, 25)
    while time.monotonic() - began < ROUND_S:
        state = job.scheduler()
        if state == "PENDING BeginTime":
            job.start_now()
        if not state.startswith(("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED")):
            break
        if len(done) < faults and time.monotonic() >= next_fault:
            what = draw.choice(sorted(possible.all))
            done.append(what)
            possible.all[what](job)
            next_fault = time.monotonic() + draw.uniform(5, 25)
        if len(done) and time.monotonic() >= next_fault - 3:
            mend(cluster)
        time.sleep(0.5)
    status = job.status()
    equal = status["state"] == "done" and weights(job.run_dir, STEPS) == weights(reference, STEPS)
    equal = equal and metrics(job.run_dir) == metrics(reference)
    if not equal:
        print(job.evidence(), file=sys.stderr)
    reasons = [one["reason"] for one in status["requeues"]]
    return {
        "round": name,
        "equal": equal,
        "state": status["state"],
        "faults": done,
        "starts": status["starts"],
        "reasons": reasons,
        "seconds": round(time.monotonic() - began),
    }


def mend(cluster: Cluster) -> None:
    """Nodes that were killed or hung come back, as after a repair."""
    state = json.loads(cluster.testcluster("status"))
    for node, value in state["nodes"].items():
        if value.startswith("down"):
            cluster.testcluster("wake", node)
            if not state["daemons"][node]:
                cluster.testcluster("revive", node)


if __name__ == "__main__":
    sys.exit(main())
