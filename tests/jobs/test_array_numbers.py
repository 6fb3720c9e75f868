"""The numbers that SLURM gives the elements of an array: each its own, and the array's own to the last."""

from __future__ import annotations

import json
from pathlib import Path

from helpers.job_cluster import RECIPE, Cluster, flags


def test_an_element_is_found_by_the_number_that_slurm_gave_it(cluster: Cluster, tmp_path: Path) -> None:
    """As it stands in the job's environment and in SLURM's mails. The array's own number means all of the array."""
    shared = flags({**RECIPE, "run.dir": tmp_path})
    words = ("sweep", "--cpu", "--json", "--name", "s", "--grid", "optim.lr=0.05,0.1", "--sbatch", "hold")
    first, last = json.loads(cluster.dydist(*words, "--", *shared))["jobs"]
    cluster.run("scontrol", "update", f"JobId={first}", "Nice=5")  # from now on it is a job of its own
    shown = cluster.run("scontrol", "--oneliner", "show", "job", first)
    number = dict(word.partition("=")[::2] for word in shown.split())["JobId"]
    array = first.partition("_")[0]
    assert number not in (first, array)
    assert cluster.dydist("cancel", number) == f"job {first} is ended\n"

    def states() -> list[tuple[str, str]]:
        return [(one["job"], one["state"]) for one in json.loads(cluster.dydist("status", "--json", array))]

    cluster.wait(lambda: states() == [(first, "cancelled"), (last, "pending")], 60, "the cancelling")
    # The sweep's name means all of its runs, also those that an earlier submission left in the queue.
    (again,) = json.loads(cluster.dydist(*words, "--", *shared))["jobs"]
    cancelled = cluster.dydist("cancel", "s").splitlines()
    assert cancelled == [f"job {again} is ended", f"job {last} is ended"]
