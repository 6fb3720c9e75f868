"""Code as it was: what a job runs is copied at submission, so that edits while it waits change nothing."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from dydist.errors import UserError
from dydist.jobs.files import write_json

LIMIT_BYTES = 100 << 20
"""A snapshot larger than this is a mistake: data or checkpoints that were added to the repository."""
RECORDED_VARIABLES = (
    "PATH",
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "LOADEDMODULES",
    "CUDA_HOME",
    "LD_LIBRARY_PATH",
    "HOSTNAME",
)
RECORDED_PREFIXES = ("SLURM_", "SBATCH_", "NCCL_", "GLOO_", "OMP_", "CUDA_VISIBLE")


def package_root() -> Path:
    """The folder that holds the package dydist/ which is running."""
    return Path(__file__).resolve().parents[2]


def take_snapshot(root: Path, target: Path, *, limit_bytes: int = LIMIT_BYTES) -> dict[str, Any]:
    """Copy the code under `root` to `target`/code and record where it came from; returns the record.

    In a git checkout: every tracked file as it is now, and new files of the package that git does not ignore; the
    commit goes to snapshot.json and the changes since it to changes.diff. Elsewhere (an installed package): the
    package. Raises UserError where it would be larger than `limit_bytes`, before anything is copied.
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
    for file in sizes:
        copy = target / "code" / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / file, copy)
    record: dict[str, Any] = {"root": str(root), "files": len(sizes), "bytes": total, "time": time.time()}
    if in_git:
        difference = _git(root, "diff", "--binary", "HEAD") or ""
        (target / "changes.diff").write_text(difference, encoding="utf-8")
        record |= {
            "commit": commit,
            "branch": _git(root, "rev-parse", "--abbrev-ref", "HEAD"),
            "dirty": bool(difference),
        }
    write_json(target / "snapshot.json", record)
    return record


def record_environment(target: Path) -> None:
    """Write environment.json: host, Python, packages, and the variables that matter. No others: secrets stay out."""
    variables = {
        name: value
        for name, value in sorted(os.environ.items())
        if name in RECORDED_VARIABLES or name.startswith(RECORDED_PREFIXES)
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
    try:
        result = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True)
    except FileNotFoundError:
        return None
    return result.stdout.decode(errors="surrogateescape").rstrip("\n") if result.returncode == 0 else None
