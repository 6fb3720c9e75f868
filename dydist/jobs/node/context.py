"""What the functions of one node's task share: where it stands, what warned it, and where it writes."""

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
    """Which node of which job this is.

    `job` is how SLURM is asked about it, 12_3 in an array; `raw_job` is SLURM's own number of it, which one element of
    an array shares with the array. `start` names this start among all of the job's.
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
    """Remembers the scheduler's warnings. Replaces submitit's handlers, which know one process on one node."""

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
        """Whether `dydist cancel` has asked for the job's end: its signal may have come before anybody listened."""
        return (self.log_dir / "cancel.json").exists()
