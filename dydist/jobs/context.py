"""What the functions of one node's task share: where it stands, what warned it, and where it writes."""

from __future__ import annotations

import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from dydist.jobs.attempt import Attempt
from dydist.jobs.launch import NodeLog
from dydist.jobs.spec import JobSpec


@dataclass(frozen=True, kw_only=True)
class NodePlace:
    """Which node of which job this is. `job` as users see it (12_3 in an array), `raw_job` as SLURM numbers it.

    `tasks`: the folder that submitit and the batch script of the job know.
    """

    job: str
    raw_job: str
    node: int
    nodes: int
    names: tuple[str, ...]
    scheduler: str
    tasks: Path = Path()

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
            tasks=Path(env.paths.folder),
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
