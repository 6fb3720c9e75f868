"""Watches the processes of one node by the report files that they write (dydist/process/report.py)."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from dydist.errors import EXIT_DONE, EXIT_STOPPED, EXIT_USAGE
from dydist.jobs.attempt import Kind
from dydist.jobs.files import read_json

SIGNAL_AGAIN_S = 5.0
"""Seconds between stop signals: a process that is still starting ignores the first one."""

KILLED_S = 10.0
"""Seconds to wait for the end of killed processes; one that waits for a device may never end."""

FROZEN = ("stopped", "tracing-stop", "disk-sleep")
"""States of a process that is not waiting for a peer."""

LAST_WORD_S = 1.0
"""Seconds that the last file of an exited process may take to become visible."""


@dataclass(frozen=True)
class Fault:
    """A failure of one rank, or of the node."""

    kind: Kind
    rank: int | None
    message: str
    step: int = 0


@dataclass
class Rank:
    """The state of one process."""

    rank: int
    pid: int | None = None
    code: int | None = None
    error: str = ""
    step: int = 0
    beat: float = 0.0
    """Modification time of the heartbeat, by the file server's clock; only changes matter."""
    moved: float = 0.0
    """When it last changed, by this node's clock."""
    signalled: float = field(default=float("-inf"))
    gone: float | None = None
    """When the process was first found to have exited without a report."""


class Watch:
    """The ranks of one node. `now` is a monotonic clock in seconds."""

    def __init__(
        self,
        exit_dir: Path,
        ranks: Sequence[int],
        *,
        now: Callable[[], float],
        start_timeout_s: float,
        hang_timeout_s: float,
    ) -> None:
        self._dir, self._now = exit_dir, now
        self._start_timeout_s, self._hang_timeout_s = start_timeout_s, hang_timeout_s
        began = now()
        self.stuck: set[int] = set()
        """Killed processes that have not ended."""
        self._began = began
        self.start_s: float | None = None
        """Seconds to the first step that a rank finished."""
        self.ranks = [Rank(rank, moved=began) for rank in ranks]

    def look(self) -> None:
        """Read new files."""
        for rank in self.ranks:
            if rank.pid is None and (content := read_json(self._dir / f"pid-{rank.rank}.json")):
                rank.pid = int(content["pid"])
            if rank.code is None and (content := read_json(self._dir / f"rank-{rank.rank}.json")):
                rank.code, rank.error, rank.step = (
                    int(content["code"]),
                    content["error"],
                    int(content["step"]),
                )
            try:
                beat = (self._dir / f"heartbeat-{rank.rank}").stat().st_mtime
            except OSError:
                continue
            if beat != rank.beat:
                rank.beat, rank.moved = beat, self._now()
                self.start_s = self.start_s or rank.moved - self._began

    @property
    def finished(self) -> bool:
        """Whether every rank has reported its end."""
        return all(rank.code is not None for rank in self.ranks)

    @property
    def ending(self) -> bool:
        """Whether any rank has reported its end."""
        return any(rank.code is not None for rank in self.ranks)

    @property
    def started(self) -> bool:
        """Whether any rank has reached dydist's training code."""
        return any(rank.pid is not None for rank in self.ranks)

    def fault(self) -> Fault | None:
        """The first fault, or None."""
        return next(self._faults(), None)

    def _faults(self) -> Iterator[Fault]:
        for rank in self.ranks:
            if rank.code is None and rank.gone is None and rank.pid is not None and not alive(rank.pid):
                rank.gone = self._now()
        gone = [rank for rank in self.ranks if rank.code is None and rank.gone is not None]
        for rank in sorted(gone, key=lambda one: one.gone or 0.0):
            # Its last file, written just before a regular exit, may not be visible yet.
            if rank.gone is not None and self._now() - rank.gone >= LAST_WORD_S:
                text = "killed: it exited without reporting, as after SIGKILL (out of memory?)"
                yield Fault("killed", rank.rank, text, rank.step)
        for rank in self.ranks:
            if rank.code not in (None, EXIT_DONE, EXIT_STOPPED):
                kind: Kind = "usage" if rank.code == EXIT_USAGE else "error"
                yield Fault(kind, rank.rank, rank.error or f"exit code {rank.code}", rank.step)
        yield from self._hung(patience=1.0)

    def frozen(self) -> Fault | None:
        """A process that hangs here, if another node's process timed out first: that one may wait for this."""
        return next((fault for fault in self._hung(patience=0.5) if fault.kind == "frozen"), None)

    def _hung(self, *, patience: float) -> Iterator[Fault]:
        """Ranks silent for longer than `patience` times the timeout; frozen ones first."""
        for rank in sorted(self.ranks, key=lambda one: (state(one.pid) not in FROZEN, one.moved)):
            limit = self._hang_timeout_s if rank.beat else self._start_timeout_s
            if rank.code is None and (silent := self._now() - rank.moved) > patience * limit:
                what = "no step was finished" if rank.beat else "the first step was not finished"
                now = state(rank.pid)
                text = f"hung: {what} for {silent:.0f} s (process state: {now})"
                yield Fault("frozen" if now in FROZEN else "hung", rank.rank, text, rank.step)

    def ask_to_stop(self) -> None:
        """Send SIGUSR2 to every process that has not ended; repeats it later, for those that were not ready."""
        for rank in self.ranks:
            if rank.pid is None or rank.code is not None or not alive(rank.pid):
                continue
            if self._now() - rank.signalled >= SIGNAL_AGAIN_S:
                rank.signalled = self._now()
                try:
                    os.kill(rank.pid, signal.SIGUSR2)
                except ProcessLookupError:
                    continue

    def kill(self) -> None:
        """SIGKILL every remaining process, and wait for their ends: only then is their GPU's memory free."""
        for rank in self.ranks:
            if rank.pid is not None and alive(rank.pid):
                with suppress(ProcessLookupError):
                    os.kill(rank.pid, signal.SIGKILL)
        pids = {rank.pid for rank in self.ranks if rank.pid is not None}
        self.stuck = wait_for_ends(pids - self.stuck) | self.stuck


def wait_for_ends(pids: Iterable[int]) -> set[int]:
    """Wait up to KILLED_S for the ends of killed processes and all of their threads; returns those still there."""
    left, deadline = set(pids), time.monotonic() + KILLED_S
    while (left := {pid for pid in left if _holds_memory(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _holds_memory(pid: int) -> bool:
    """Whether a process, or a thread that a zombie still has, is there."""
    if alive(pid):
        return True
    try:
        return len(os.listdir(f"/proc/{pid}/task")) > 1
    except OSError:
        return False


def state(pid: int | None) -> str:
    """The kernel's name of the state (running, sleeping, stopped, disk-sleep, …); `gone` if there is no process."""
    import psutil

    if pid is None:
        return "not started"
    try:
        return str(psutil.Process(pid).status())
    except psutil.NoSuchProcess:
        return "gone"


def alive(pid: int) -> bool:
    """Whether the process runs; False for a zombie."""
    return state(pid) not in ("gone", "zombie", "dead")
