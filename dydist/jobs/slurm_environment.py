"""The environment in which SLURM's commands run: the caller's, without what would change their meaning.

SLURM's commands read hundreds of variables: SBATCH_PARTITION goes over the sbatch file, SQUEUE_STATES hides jobs, and
what salloc, srun or another job set is handed on to the new job. All of SLURM's commands, and submitit, get `cleaned`.
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
"""Of SLURM's commands, of a job, and of the launchers in it."""
_NAMES = frozenset(
    {
        "RANK", "LOCAL_RANK", "GROUP_RANK", "ROLE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE",
        "ROLE_WORLD_SIZE", "ROLE_NAME", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT",
        "DYDIST_JOB", "DYDIST_ATTEMPT", "DYDIST_NODE", "DYDIST_EXIT_DIR", "DYDIST_UNTIL",
    }
)  # fmt: skip
"""What a job of ours, or a launcher, tells its training processes."""
_LOCATE = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SLURM_SACK")
"""Where the cluster is, and who one is there."""
_CONFIGURATIONS = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/opt/slurm/etc/slurm.conf")
_FOLDERS = (
    "/usr/bin",
    "/usr/local/bin",
    "/opt/slurm/bin",
    "/usr/local/slurm/bin",
    "/cm/shared/apps/slurm/current/bin",
)


def cleaned(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment (default: this process's) without what SLURM's commands and jobs would take from it.

    Where PATH lacks SLURM, as in an environment that was made without it, and the cluster's configuration is known,
    SLURM's folder is added at the end.
    """
    environ = os.environ if environ is None else environ
    found = {name: value for name, value in environ.items() if not leaks(name)}
    path = found.get("PATH", os.defpath)
    folders = [Path(folder) for folder in path.split(os.pathsep) if folder]
    # os.path's exists, unlike Path's, is False for a folder of PATH that this user may not enter
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
    """os.environ is `cleaned`, for submitit, which hands it on to sbatch and to local jobs."""
    before = dict(os.environ)
    os.environ.clear()
    os.environ.update(cleaned(before))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _folders(environ: Mapping[str, str]) -> list[str]:
    """Where SLURM's commands usually lie; nothing where no cluster is configured."""
    configuration = environ.get("SLURM_CONF")
    if configuration is None and not any(os.path.exists(one) for one in _CONFIGURATIONS):
        return []
    beside = [str(Path(configuration).parent.parent / "bin")] if configuration else []
    return [folder for folder in (*beside, *_FOLDERS) if os.path.exists(os.path.join(folder, "sbatch"))][:1]
