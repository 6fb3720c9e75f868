"""`dydist.submit` and `dydist.status`: jobs from a program."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dydist.config import Config
from dydist.config.reader import to_dict, values_of
from dydist.jobs.submission import submit as jobs
from dydist.jobs.submission.profile import load_profile, parse_profile, project_folder
from dydist.jobs.submission.registry import find, remembered, without_job
from dydist.jobs.submission.sbatch import Cluster
from dydist.jobs.submission.status import JobStatus, folder_status, statuses
from dydist.text.strict import dump_yaml

SHOWN = 50
"""The number of newest jobs that `status` tells of if none is named."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job in the queue: its number, and its run's folder, which need not be there yet."""

    job: str
    run_dir: Path


def submit(
    run: str | os.PathLike[str] | Mapping[str, Any] | Config,
    arguments: Sequence[str] = (),
    *,
    cluster: Cluster = "slurm",
    profile: str | None = None,
    **settings: Any,
) -> SubmittedJob:
    """Submit a run as a job, as `dydist submit` does; it comes back after time limits, preemption and lost nodes.

    Args:
        run: A recipe's path or name, a mapping or a `Config`, as for `dydist.train`; or the path of a program (`….py`)
            that calls `dydist.train`, which is run here up to that call.
        arguments: Flags of fields over it, also for a program, which cannot be submitted with flags of its own.
        cluster: "slurm", or "local" for the same on this machine.
        profile: A site's settings: NAME.yaml in ~/.config/dydist/ or slurm/, or a path.
        **settings: Fields of a profile over it: nodes=2, gpus_per_node=4, time="12:00:00", partition="gpu", …;
            gpus_per_node=0 trains on CPUs.

    Raises:
        UserError: The configuration or a setting is wrong, or the run has a job already.
        dydist.jobs.slurm.SlurmError: SLURM refuses the job, or is not here.
    """
    site = load_profile(profile, project=project_folder())
    chosen = parse_profile({**to_dict(site), **settings}, "submit")
    if chosen.note:
        warnings.warn(chosen.note, stacklevel=2)
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(run, Mapping | Config):
            recipe = Path(folder) / "recipe.yaml"
            recipe.write_text(dump_yaml(values_of(run)), encoding="utf-8")
            run = recipe
        words = [os.fspath(run), *arguments]
        submission = jobs.prepare_run(words, chosen, cluster=cluster)
        (job,) = jobs.submit(submission, recipe=jobs.recipe_of(jobs.flags_of(words)))
    return SubmittedJob(job, Path(submission.specs[0].run_dir))


def status(*which: str | os.PathLike[str]) -> list[JobStatus]:
    """How jobs and runs are doing, as `dydist status` shows it; asks SLURM once.

    Args:
        *which: Jobs' numbers, run folders, sweep folders or names of runs. Without any: the newest jobs that were
            submitted by this user.

    Returns:
        A `JobStatus` for each job, or for each run without one. `state` and `run["step"]` are the first to look at.

    Raises:
        UserError: One of `which` is no job and no run.
    """
    names = [os.fspath(one) for one in which]
    folders = [folder for name in names if (folder := without_job(name)) is not None]
    named = [record for name in names if without_job(name) is None for record in find(name)]
    found = statuses(named if which else remembered()[-SHOWN:])
    return found + [folder_status(folder) for folder in folders]
