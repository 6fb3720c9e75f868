"""`dydist preflight`: are the nodes fit for a job?"""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import tyro

from dydist.errors import EXIT_DONE, EXIT_ERROR


def preflight(
    *,
    cluster: Literal["slurm", "local"] = "local",
    profile: str | None = None,
    nodes: int | None = None,
    gpus_per_node: int | None = None,
    cpu: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    processes_per_node: int | None = None,
    partition: str | None = None,
    sbatch: tuple[str, ...] = (),
    folder: str = "runs/preflight",
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Check this machine, or with --cluster slurm the nodes of a job: GPUs, arithmetic, network, disk, clock, versions.

    Example: dydist preflight --cluster slurm --nodes 4 --gpus-per-node 8 --sbatch nodelist=node[1-4]

    Args:
        cluster: local, or slurm: as a job, on every node at once.
        profile: Settings of a site: NAME.yaml in ~/.config/dydist/ or slurm/, or a path (docs/slurm.md).
        nodes: Nodes to check.
        gpus_per_node: GPUs of each node.
        cpu: Check CPUs and the network alone.
        processes_per_node: Processes of each node, with --cpu.
        partition: Partition.
        sbatch: Any other options of sbatch, as NAME=VALUE or NAME.
        folder: Where the reports are written; all nodes must see it.
        json_: Print JSON.
    """
    from dydist.cli.jobs import follow, merged_profile
    from dydist.jobs import submit as jobs
    from dydist.jobs.registry import find
    from dydist.jobs.report import preflight_report, render_report

    flags = {
        "nodes": nodes, "gpus_per_node": gpus_per_node, "processes_per_node": processes_per_node,
        "partition": partition, "preflight": "full",
    }  # fmt: skip
    chosen = merged_profile(profile, flags, cpu=cpu, sbatch=sbatch)
    submission = jobs.prepare_preflight(chosen, cluster=cluster, parent=folder)
    job = jobs.submit(submission, recipe=None)[0]
    code = follow(job, show=lambda line: print(line, file=sys.stderr))
    report = preflight_report(find(job)[-1])
    print(json.dumps(report, indent=1) if json_ else render_report(report))
    return EXIT_DONE if code == EXIT_DONE and report["fit"] else EXIT_ERROR


COMMANDS = {"preflight": preflight}
