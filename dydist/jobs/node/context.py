"""The data that the functions of a node's task share: position in the job, warnings, and log folder."""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from dydist.jobs.attempt import Attempt
from dydist.jobs.batch_script import START
from dydist.jobs.launch import NodeLog
from dydist.jobs.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class NodePlace:
    """The position of a node in a job.

    `job` is the id for SLURM's commands, 12_3 in an array; `raw_job` is SLURM's own number, which for one element of
    an array is the array's. `start` is the unique name of this start of the job.
    """

    job: str
    raw_job: str
    node: int
    nodes: int
    names: tuple[str, ...]
    scheduler: str
    start: str = ""

    @property
    def name(self) -> str:
        return self.names[self.node]

    @classmethod
    def from_environment(cls) -> NodePlace:
        import submitit

        env = submitit.JobEnvironment()
        local = env.cluster != "slurm"
        return cls(
            job=env.job_id,
            raw_job=env.raw_job_id,
            node=env.node,
            nodes=env.num_nodes,
            names=(socket.gethostname(),) if local else tuple(env.hostnames),
            scheduler=env.cluster,
            start=os.environ[START] if not local else f"{env.job_id}.{os.getpid()}.{time.time_ns()}",
        )


class StopSignals:
    """Records the scheduler's warnings. Replaces submitit's handlers, which support one process on one node."""

    def __init__(self) -> None:
        self.warning: str | None = None
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.warning = self.warning or signal.Signals(number).name


@dataclass(frozen=True, kw_only=True)
class NodeContext:
    """One start of a job, on one node. `log_dir`: the job's logs; `number`: which start."""

    spec: JobSpec
    place: NodePlace
    log_dir: Path
    number: int
    attempt: Attempt
    signals: StopSignals
    log: NodeLog

    @property
    def cancelled(self) -> bool:
        """Whether `dydist cancel` was called: its signal may have arrived before a handler was installed."""
        return (self.log_dir / "cancel.json").exists()
