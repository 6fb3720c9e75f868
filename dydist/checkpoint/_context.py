"""What a `Checkpointer` and its transfers need to know: the run, its processes and the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dydist.records import CheckpointRecord
from dydist.storage.retry import Tell

if TYPE_CHECKING:
    from dydist.checkpoint._housekeeping import Keep
    from dydist.checkpoint._save import Identity


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """The run that owns the checkpoints. `folder` is the run folder, whose lease is taken together with the store's."""

    name: str
    url: str
    """Path or URL of the store."""
    folder: Path | None = None
    job: str = ""
    """The cluster job's identifier, which a requeue keeps."""


def _broadcast(value: Any) -> Any:
    """Of one process."""
    return value


def _gather(value: Any) -> list[Any]:
    """Of one process."""
    return [value]


@dataclass(frozen=True, kw_only=True)
class RankGroup:
    """A process's view of the run's processes; by default it is the only one.

    `broadcast` returns process 0's object on every process, `gather` the objects of all processes. Both are collective.
    `host` names the node, "" stands for this machine's own name.
    """

    rank: int = 0
    world_size: int = 1
    broadcast: Callable[[Any], Any] = _broadcast
    gather: Callable[[Any], list[Any]] = _gather
    host: str = ""


@dataclass(frozen=True, kw_only=True)
class Clock:
    """`monotonic` and `now`, the time of day since 1970, both in seconds."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


@dataclass(frozen=True, kw_only=True)
class LeaseTiming:
    """A lease's heartbeat comes every `interval_s` seconds; without one for `timeout_s` seconds its holder is dead."""

    interval_s: float = 15.0
    timeout_s: float = 60.0


@dataclass(frozen=True, kw_only=True)
class TransferContext:
    """What a transfer to the store or the stage needs to know of the run."""

    identity: Identity
    node: tuple[int, ...]
    """Ranks of the processes on this node; the first one commits to the stage."""
    stage_keep: int
    deadline_s: float
    """Seconds for the upload of a staged checkpoint, as for a save."""
    rule: Keep
    clock: Clock
    may_commit: Callable[[], None]
    on_record: Callable[[CheckpointRecord], None]
    on_note: Tell
