"""Prints how long a submission takes, and a job from its start to its first training step.

    python tests/jobs/timings.py --repeats 5

For several shapes of a job, one after the other on an idle test cluster; take the figures on a quiet machine. With
`--what faults` it kills or stops a rank, and prints the time to the next step. Those of 200 jobs at once:
bash tests/run.sh -m long -s tests/jobs/test_sweep.py.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.job_cluster import Cluster, running_cluster, start_to_first_step

SHAPES = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Nodes × processes of each."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--what", choices=["starts", "faults", "all"], default="starts")
    options = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="dydist-timings-") as name,
        running_cluster("default", Path(name)) as cluster,
    ):
        print(
            json.dumps({"what": "test cluster up", "seconds": round(time.monotonic() - began, 2)}), flush=True
        )
        for nodes, processes in SHAPES if options.what != "faults" else ():
            measure(cluster, nodes, processes, options.repeats)
        for nodes in (1, 2) if options.what != "starts" else ():
            for number in (signal.SIGKILL, signal.SIGSTOP):
                after_a_fault(cluster, nodes, number, options.repeats)
    return 0


def measure(cluster: Cluster, nodes: int, processes: int, repeats: int) -> None:
    """Print a line a figure."""
    submitting, starting = [], []
    for repeat in range(repeats):
        shape = ("--nodes", str(nodes), "--processes-per-node", str(processes))
        began = time.monotonic()
        job = cluster.submit(
            cluster.folder / "runs", f"{nodes}x{processes}-{repeat}", *shape, train__max_steps="2"
        )
        submitting.append(time.monotonic() - began)
        status = job.ended()
        assert status["state"] == "done", job.evidence()
        starting.append(start_to_first_step(job))
        cluster.quiet()
    place = f"{nodes} nodes x {processes} processes"
    report(f"{place}: from Enter to the job's number", submitting)
    report(f"{place}: from the job's start to its first step", starting)


def after_a_fault(cluster: Cluster, nodes: int, number: signal.Signals, repeats: int) -> None:
    """From a signal to rank 1 to the next step, in the same allocation; and the steps that were done again."""
    waiting, again = [], []
    for repeat in range(repeats):
        shape = ("--nodes", str(nodes), "--processes-per-node", str(2 // nodes), "--hang-timeout-s", "10")
        job = cluster.submit(cluster.folder / "runs", f"{number.name}-{nodes}-{repeat}", *shape)
        job.at_step(12)
        reached = int(job.run()["step"])
        job.signal_rank(1, number)
        began = time.time()
        status = job.ended()
        assert status["state"] == "done", job.evidence()
        assert [one["action"] for one in job.decisions()] == ["restart", "finish"]
        lines = [json.loads(line) for line in (job.run_dir / "metrics.jsonl").read_text().splitlines()]
        following = next(line for line in lines if "loss" in line and line["time"] > began + 2)
        waiting.append(following["time"] - began)
        again.append(reached - job.decisions()[0]["saved_step"])
        cluster.quiet()
    report(f"{nodes} nodes, {number.name} to rank 1: to the next step", waiting)
    print(json.dumps({"steps done again": again}), flush=True)


def report(what: str, seconds: Sequence[float]) -> None:
    figures = {"median": statistics.median(seconds), "lowest": min(seconds), "highest": max(seconds)}
    line = {"what": what, "takes": len(seconds), **{name: round(value, 2) for name, value in figures.items()}}
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main())
