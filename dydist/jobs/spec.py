"""The parameters of a job: plain values, pickled by submitit and written to the submission's folder."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Preflight = Literal["off", "quick", "full"]


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One run as a job. Paths are absolute, on a file system that all nodes share."""

    run_dir: str
    """The run folder; empty for a job that is only a preflight."""
    log_dir: str
    """Folder of this job's logs; `{job}` stands for the job id."""
    code: str
    """The snapshot: the folder that contains the package dydist/."""
    program: str
    """Python file that every process runs, inside `code` or not."""
    arguments: tuple[str, ...]
    """Its command line: `--config … --section.field value …`."""
    workdir: str
    """Where relative paths of the command line start: where `dydist submit` was called."""
    processes_per_node: int
    """Processes of the run on each node: one per GPU, or `--processes-per-node`."""
    cpu: bool = False
    """Train on CPUs."""
    python: str = sys.executable
    """Interpreter of the environment."""
    interface: str | None = None
    """Network interface between nodes, such as ib0 or eno1; None: the one with the default route."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Additional environment variables of the training processes."""
    preflight: Preflight = "quick"
    """Checks of each node before every start."""
    start_timeout_s: float = 900.0
    """Seconds from the launch to each process's first finished step."""
    hang_timeout_s: float = 300.0
    """Seconds a process may go without finishing a step before all are stopped and the job requeued."""
    max_stalled: int = 3
    """Fail the job after this many stalled starts in a row."""
    restart_in_place: bool = True
    """After a transient failure of processes, start them again in the same allocation."""
    warning_s: float = 0.0
    """Seconds before the end of the allocation at which the scheduler warns."""

    @property
    def entry(self) -> Path:
        return Path(self.code) / "dydist" / "train.py"
