"""`dydist sweep`: a grid of runs as a job array."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import tyro

from dydist.cli.launch_options import LaunchOptions, Repeated
from dydist.config.types import Count
from dydist.errors import EXIT_DONE, UserError
from dydist.text.display import show

Words = Annotated[tuple[str, ...], tyro.conf.Positional]


def sweep(
    *,
    run: Words = (),
    name: str,
    grid: Repeated = (),
    seeds: Count = 1,
    parallel: Count | None = None,
    cluster: Literal["slurm", "local"] = "slurm",
    launch: Annotated[LaunchOptions, tyro.conf.OmitArgPrefixes],
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    json_: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> int:
    """Submit a grid of runs as a job array; runs that are done, or in the queue, are left out.

    Example: dydist sweep --name lr --grid optim.lr=0.05,0.1 model.kernels=2,4 --seeds 3 --parallel 4 -- cifar10-small

    Args:
        run: After --: a recipe's path, then flags of dydist/train.py that all runs share.
        name: Name of the sweep; its runs lie in run.dir/NAME/.
        grid: Fields and their values, FIELD=VALUE,VALUE…; every combination is run.
        seeds: Number of seeds for each combination: 0, 1, …
        parallel: Maximum number of runs at the same time.
        cluster: slurm. On one machine without SLURM, slurm/testcluster provides a queue (docs/slurm.md).
        dry_run: Submit nothing: show which runs there would be, and the sbatch file.
        json_: Print JSON.
    """
    from dydist.jobs.submission import submit as jobs
    from dydist.jobs.submission import sweep as sweeps
    from dydist.jobs.submission.sbatch import sbatch_text

    if cluster == "local":
        raise UserError(
            "--cluster: local has no queue for many runs; slurm has one, also on one machine: "
            'eval "$(slurm/testcluster up --dir ~/cluster)", then the same command with --profile testcluster'
        )
    if not run and not grid:
        raise UserError(
            "sweep: neither a recipe nor a grid is given; write dydist sweep --name NAME -- cifar10-small"
        )
    values = sweeps.parse_grid([word for words in grid for word in words])
    submission, found = sweeps.prepare_sweep(
        name, run, launch.merged(), grid=values, seeds=seeds, parallel=parallel, dry_run=dry_run
    )
    if dry_run:
        text = sbatch_text(submission) if submission else ""
        if json_:
            print(json.dumps({**found, "sbatch": text}, indent=1))
        else:
            show("\n".join([*found["submitted"], "", text]), lines=True)
        return EXIT_DONE
    ids: list[str] = []
    if submission is not None:
        recipe = jobs.recipe_of(jobs.with_recipe(run))
        ids = sweeps.submit_sweep(submission, found, values, seeds, recipe)
    if json_:
        print(json.dumps({**found, "jobs": ids}, indent=1))
        return EXIT_DONE
    show(
        f"{len(found['all'])} runs: {len(found['done'])} done already, {len(found['queued'])} in the queue already, "
        f"{len(ids)} submitted",
        file=sys.stderr,
    )
    if submission is not None:
        sweep_dir = submission.folder.parents[1]
        arrays = list(dict.fromkeys(job.partition("_")[0] for job in ids))
        what = f"array {arrays[0]}"
        if len(arrays) > 1:
            what = f"{len(arrays)} arrays, as SLURM takes no larger ones (MaxArraySize): {', '.join(arrays)}"
        show(f"{what}; see: dydist status {sweep_dir} | dydist compare {sweep_dir}")
    return EXIT_DONE


COMMANDS = {"sweep": sweep}
