"""Copies the code that a job runs at submission, so that later edits do not affect the job."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping, Sequence
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from dydist.errors import UserError
from dydist.jobs.files import write_json
from dydist.text.redaction import scrub

LIMIT_BYTES = 100 << 20
"""The largest snapshot allowed. A larger one contains data or checkpoints, added to the repository by mistake."""
RECORDED_VARIABLES = frozenset(
    """
    PATH PYTHONPATH LD_LIBRARY_PATH LD_PRELOAD VIRTUAL_ENV CONDA_PREFIX CONDA_DEFAULT_ENV LOADEDMODULES HOSTNAME
    LANG LC_ALL CUDA_HOME CUDA_PATH CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER CUDA_LAUNCH_BLOCKING CUBLAS_WORKSPACE_CONFIG
    OMP_NUM_THREADS OMP_PROC_BIND OMP_PLACES OMP_SCHEDULE MKL_NUM_THREADS MKL_CBWR OPENBLAS_NUM_THREADS KMP_AFFINITY
    NCCL_DEBUG NCCL_DEBUG_SUBSYS NCCL_SOCKET_IFNAME NCCL_IB_DISABLE NCCL_IB_HCA NCCL_IB_GID_INDEX NCCL_IB_TIMEOUT
    NCCL_NET NCCL_P2P_DISABLE NCCL_P2P_LEVEL NCCL_SHM_DISABLE NCCL_ALGO NCCL_PROTO NCCL_MIN_NCHANNELS NCCL_MAX_NCHANNELS
    NCCL_BUFFSIZE NCCL_NET_GDR_LEVEL NCCL_CROSS_NIC NCCL_TIMEOUT GLOO_SOCKET_IFNAME
    SLURM_CLUSTER_NAME SLURM_CONF SLURM_JOB_ID SLURM_JOB_NAME SLURM_JOB_PARTITION SLURM_JOB_ACCOUNT SLURM_JOB_QOS
    SLURM_JOB_NODELIST SLURM_JOB_NUM_NODES SLURM_JOB_CPUS_PER_NODE SLURM_JOB_GPUS SLURM_NNODES SLURM_NTASKS
    SLURM_NTASKS_PER_NODE SLURM_CPUS_PER_TASK SLURM_CPUS_ON_NODE SLURM_GPUS_ON_NODE SLURM_MEM_PER_NODE SLURM_SUBMIT_DIR
    SLURM_SUBMIT_HOST SLURM_RESTART_COUNT SLURM_ARRAY_JOB_ID SLURM_ARRAY_TASK_ID SBATCH_PARTITION SBATCH_ACCOUNT
    SBATCH_QOS SBATCH_TIMELIMIT SBATCH_CONSTRAINT SBATCH_EXPORT SBATCH_REQUEUE
    """.split()
)
"""The environment variables that are recorded. Others may contain secrets."""


def package_root() -> Path:
    """The folder that contains the running package dydist/."""
    return Path(__file__).resolve().parents[3]


def take_snapshot(
    root: Path, target: Path, *, limit_bytes: int = LIMIT_BYTES, instead: Mapping[Path, bytes] | None = None
) -> dict[str, Any]:
    """Copy the code under `root` to `target`/code; returns a record of where it came from.

    In a git checkout, every tracked file is copied as it is now, and new files of the package that git does not
    ignore. The commit is written to snapshot.json, the changes since then to changes.diff. Of an installed package,
    the package's files are copied. Raises UserError before copying if the code is larger than `limit_bytes`.

    `instead`: contents for the copies of files that hold secrets. The changes in these files are left out of
    changes.diff.
    """
    commit = _git(root, "rev-parse", "HEAD")
    top = _git(root, "rev-parse", "--show-toplevel")
    in_git = commit is not None and top is not None and Path(top).resolve() == root.resolve()
    files = _tracked(root) if in_git else _package(root)
    sizes = {file: (root / file).stat().st_size for file in files if (root / file).is_file()}
    if (total := sum(sizes.values())) > limit_bytes:
        largest = ", ".join(f"{file} ({size / 2**20:.0f} MiB)" for file, size in _largest(sizes))
        raise UserError(
            f"the code to copy is {total / 2**20:.0f} MiB, {limit_bytes / 2**20:.0f} MiB are allowed; "
            f"take the largest files out of git: {largest}"
        )
    replaced = {
        str(path.resolve().relative_to(root.resolve())): content
        for path, content in (instead or {}).items()
        if path.resolve().is_relative_to(root.resolve())
    }
    for file in sizes:
        copy = target / "code" / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        if file in replaced:
            copy.write_bytes(replaced[file])
        else:
            shutil.copy2(root / file, copy)
    record: dict[str, Any] = {"root": str(root), "files": len(sizes), "bytes": total, "time": time.time()}
    if in_git:
        others = [f":(exclude,literal,top){file}" for file in replaced]
        difference = _git_bytes(root, "diff", "--binary", "HEAD", "--", ".", *others) or b""
        (target / "changes.diff").write_bytes(difference)
        record |= {
            "commit": commit,
            "branch": _git(root, "rev-parse", "--abbrev-ref", "HEAD"),
            "dirty": bool(difference),
        }
    write_json(target / "snapshot.json", record)
    return record


def copy_module(
    name: str,
    target: Path,
    *,
    field: str,
    places: Sequence[str] | None = None,
    limit_bytes: int = LIMIT_BYTES,
) -> bool:
    """Copy the top-level module or package `name` of somebody's code into `target`; returns whether it was copied.

    It is looked for in `places`, by default where Python looks and then in the working folder.

    A module that belongs to Python or to an installed package, or that is in the copy already, is not copied. A
    missing module is not an error here: the run reports it. Raises UserError, which names `field`, if the copy would
    be larger than `limit_bytes`.
    """
    spec = PathFinder.find_spec(name, places or [*sys.path, os.getcwd()])
    if spec is None or (target / name).exists():
        return False
    folders = [Path(place) for place in spec.submodule_search_locations or ()]  # several: a namespace package
    ours = [place for place in folders or [Path(spec.origin or "")] if not _of_environment(place)]
    files = {
        path: place.parent
        for place in ours
        for path in (place.rglob("*") if folders else [place])
        if path.is_file() and (path.suffix != ".pyc" if folders else path.suffix == ".py")
    }
    if (total := sum(path.stat().st_size for path in files)) > limit_bytes:
        raise UserError(
            f"{field}: {name} is {total / 2**20:.0f} MiB, {limit_bytes / 2**20:.0f} MiB are copied into a job; "
            "keep data out of the package's folder"
        )
    for path, top in files.items():
        copy = target / path.relative_to(top)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    return bool(files)


def _of_environment(path: Path) -> bool:
    """Whether a module belongs to Python or is installed, as pip and distributions do it."""
    path = path.resolve()
    python = (Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(map(path.is_relative_to, python))


def record_environment(target: Path) -> None:
    """Write environment.json: host, Python, packages, and the variables of RECORDED_VARIABLES."""
    variables = {
        name: scrub(value) for name, value in sorted(os.environ.items()) if name in RECORDED_VARIABLES
    }
    packages = {item.metadata["Name"]: item.version for item in metadata.distributions()}
    write_json(
        target / "environment.json",
        {
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "executable": sys.executable,
            "variables": variables,
            "packages": dict(sorted(packages.items())),
        },
    )


def _tracked(root: Path) -> list[str]:
    listed = _git(root, "ls-files", "-z") or ""
    new = _git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", "dydist") or ""
    return sorted({name for name in (listed + new).split("\0") if name})


def _package(root: Path) -> list[str]:
    return sorted(
        str(path.relative_to(root))
        for path in (root / "dydist").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )


def _largest(sizes: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(sizes.items(), key=lambda item: -item[1])[:3]


def _git(root: Path, *arguments: str) -> str | None:
    found = _git_bytes(root, *arguments)
    return None if found is None else found.decode(errors="surrogateescape").rstrip("\n")


def _git_bytes(root: Path, *arguments: str) -> bytes | None:
    """git's output, unchanged: the empty line at the end of a binary change is part of the diff."""
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    except FileNotFoundError:
        return None
    return result.stdout if result.returncode == 0 else None
