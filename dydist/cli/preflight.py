"""`dydist preflight`: checks that nodes are fit for a job."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import tyro

from dydist.cli.launch_options import NodeOptions
from dydist.config.types import FilePath
from dydist.errors import EXIT_DONE, EXIT_ERROR
from dydist.text.display import show


def preflight(
    *,
    run: Annotated[tuple[str, ...], tyro.conf.Positional] = (),
    cluster: Literal["slurm", "local"] = "local",
    launch: Annotated[NodeOptions, tyro.conf.OmitArgPrefixes],
    folder: FilePath = "runs/preflight",
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Check this machine, or with --cluster slurm the nodes of a job: GPUs, arithmetic, network, disk, clock, versions.

    With a recipe also whether every node can write the place of its checkpoints.

    Example: dydist preflight --cluster slurm --nodes 4 --gpus-per-node 8 --sbatch nodelist=node[1-4]

    Example: dydist preflight --cluster slurm --profile site --nodes 2 -- launch/recipes/cifar10.yaml

    Args:
        run: After --: a recipe's path, then flags of dydist/train.py over it.
        cluster: local, or slurm: as a job, on every node at once.
        folder: Where the reports are written; all nodes must see it.
        json_: Print JSON.
    """
    from dydist.cli.jobs import follow
    from dydist.jobs.submission import submit as jobs
    from dydist.jobs.submission.preflight_report import preflight_report, render_report
    from dydist.jobs.submission.registry import find

    submission = jobs.prepare_preflight(
        launch.merged(preflight="full"), cluster=cluster, parent=folder, arguments=run
    )
    job = jobs.submit(submission, recipe=jobs.recipe_of(jobs.with_recipe(run)))[0]
    code = follow(job, show=lambda line: show(line, file=sys.stderr))
    report = preflight_report(find(job)[-1])
    if json_:
        print(json.dumps(report, indent=1))
    else:
        show(render_report(report), lines=True)
    return EXIT_DONE if code == EXIT_DONE and report["fit"] else EXIT_ERROR


COMMANDS = {"preflight": preflight}
