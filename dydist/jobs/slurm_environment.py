"""The environment of SLURM's commands: the caller's, without variables that would change their behaviour.

SLURM's commands read hundreds of variables: SBATCH_PARTITION overrides the sbatch file, SQUEUE_STATES hides jobs, and
variables of salloc, srun or another job are passed to the new job. All SLURM commands, and submitit, use `cleaned`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_PREFIXES = (
    "SLURM", "SBATCH_", "SQUEUE_", "SCANCEL_", "SCONTROL_", "SINFO_", "SACCT_", "SALLOC_", "SRUN_", "SPRIO_",
    "SUBMITIT_", "PMI_", "PMI2_", "PMIX_", "PET_", "TORCHELASTIC_",
)  # fmt: skip
"""Variables of SLURM's commands, of a job, and of the launchers in it."""
_NAMES = frozenset(
    {
        "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
        "ROLE_WORLD_SIZE", "ROLE_NAME", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
        "DYDIST_JOB", "DYDIST_ATTEMPT", "DYDIST_NODE", "DYDIST_EXIT_DIR", "DYDIST_UNTIL",
    }
)  # fmt: skip
"""Variables that a dydist job or a launcher sets for training processes."""
_LOCATE = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_SACK")
"""Variables that locate the cluster and authenticate the user; these are kept."""
_CONFIGURATIONS = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/opt/slurm/etc/slurm.conf")
_FOLDERS = (
    "/usr/bin",
    "/usr/local/bin",
    "/opt/slurm/bin",
    "/usr/local/slurm/bin",
    "/cm/shared/apps/slurm/current/bin",
)


def cleaned(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment (default: this process's) without variables that affect SLURM's commands and jobs.

    If SLURM is not in PATH but the cluster's configuration is known, SLURM's folder is appended to PATH.
    """
    environ = os.environ if environ is None else environ
    found = {name: value for name, value in environ.items() if not leaks(name)}
    path = found.get("PATH", os.defpath)
    folders = [Path(folder) for folder in path.split(os.pathsep) if folder]
    # os.path.exists, unlike Path.exists, is False for a folder that this user may not enter
    if not any(os.path.exists(folder / "sbatch") for folder in folders):
        path = os.pathsep.join([path, *_folders(environ)])
    return found | {"PATH": path}


def leaks(name: str) -> bool:
    """Whether this variable must not reach SLURM's commands."""
    if name.startswith(_LOCATE):
        return False
    return name.startswith(_PREFIXES) or name in _NAMES


@contextmanager
def clean() -> Iterator[None]:
    """Within, os.environ is `cleaned`, for submitit, which passes it to sbatch and to local jobs."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(cleaned(before))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _folders(environ: Mapping[str, str]) -> list[str]:
    """The usual folders of SLURM's commands; none if no cluster is configured."""
    configuration = environ.get("SLURM_CONF")
    if configuration is None and not any(os.path.exists(one) for one in _CONFIGURATIONS):
        return []
    beside = [str(Path(configuration).parent.parent / "bin")] if configuration else []
    return [folder for folder in (*beside, *_FOLDERS) if os.path.exists(os.path.join(folder, "sbatch"))][:1]
