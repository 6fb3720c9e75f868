"""The folder of one start of a job, through which its nodes communicate.

`<log_dir>/attempt-003/` holds `start.json` (which start of which job this is, on which nodes) and, written by node R:
`node-R.log` (every line of its processes, with time and rank), `preflight-R.json`, `failure-R.json` (as soon as
something fails), `outcome-R.json` (when its processes have ended), and `exit-K/`, the DYDIST_EXIT_DIR of the K-th
launch (K counts ports that turned out to be taken). Written by the leader: `rendezvous-K.json` and, once,
`decision.json`. Beside the starts lies `submission.json`: SLURM may reuse a job's number,
and the files of another submission are ignored.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from dydist.jobs.files import create_json, read_json, write_json
from dydist.text.redaction import scrub

Kind = Literal[
    "done",
    "stopped",
    "usage",
    "error",
    "killed",
    "frozen",
    "hung",
    "launch",
    "port_taken",
    "preflight",
    "torn",
    "lost",
]
ROOT_CAUSE: tuple[Kind, ...] = (
    "usage",
    "preflight",
    "lost",
    "frozen",
    "killed",
    "hung",
    "error",
    "launch",
    "port_taken",
    "torn",
)
"""Kinds of failure, causes first: each can lead to later ones on another node.

A user's mistake and a preflight finding have no other cause. A lost node (one that has not reported) takes its
processes with it, and SLURM may kill those of other nodes. The peers of a frozen process (stopped, or waiting for a
device), or of a killed or hung one, wait for it, hang too, or fail with a connection error; after an error, a launch
on another node may find no peers. "torn": processes that dydist ended because of another node."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the processes of one node ended. `step`: the last finished step that they reported.

    `start_s`: seconds from their launch to the first step that one of them finished; None if there was none. `gone`:
    whether all of them have ended; a killed process that waits for a device may not.
    """

    node: int
    name: str
    kind: Kind
    time: float
    rank: int | None = None
    step: int = 0
    message: str = ""
    last_lines: tuple[str, ...] = ()
    start_s: float | None = None
    gone: bool = True


@dataclass(frozen=True)
class Attempt:
    """Reads and writes the folder of one start."""

    folder: Path

    def log(self, node: int) -> Path:
        return self.folder / f"node-{node}.log"

    def exit_dir(self, launch: int) -> Path:
        return self.folder / f"exit-{launch}"

    def write_failure(self, outcome: Outcome) -> None:
        write_json(self.folder / f"failure-{outcome.node}.json", _told(outcome))

    def write_outcome(self, outcome: Outcome) -> None:
        write_json(self.folder / f"outcome-{outcome.node}.json", _told(outcome))

    def failures(self) -> list[Outcome]:
        return self._read("failure-*.json")

    def outcomes(self) -> list[Outcome]:
        return self._read("outcome-*.json")

    def rendezvous(self, launch: int) -> dict[str, Any] | None:
        return read_json(self.folder / f"rendezvous-{launch}.json")

    def write_rendezvous(self, launch: int, address: str, port: int) -> None:
        write_json(self.folder / f"rendezvous-{launch}.json", {"address": address, "port": port})

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of its nodes; empty if the start did not record them."""
        return tuple((read_json(self.folder / "start.json") or {}).get("nodes", ()))

    def unheard(self) -> list[str]:
        """The nodes that have not reported although others have; empty if no node has."""
        heard = {one.name for one in self.outcomes()}
        return [name for name in self.nodes if name not in heard] if heard else []

    def decide(self, content: Mapping[str, Any]) -> bool:
        """Record a decision; True for the one node whose decision counts."""
        return create_json(self.folder / "decision.json", content)

    def decision(self) -> dict[str, Any] | None:
        return read_json(self.folder / "decision.json")

    def _read(self, pattern: str) -> list[Outcome]:
        found = (read_json(path) for path in sorted(self.folder.glob(pattern)))
        known = {field.name for field in fields(Outcome)}  # a later version may write more
        values = [{name: value for name, value in one.items() if name in known} for one in found if one]
        return [Outcome(**{**one, "last_lines": tuple(one["last_lines"])}) for one in values]


def _told(outcome: Outcome) -> dict[str, Any]:
    lines = tuple(scrub(line) for line in outcome.last_lines)
    return {**asdict(outcome), "message": scrub(outcome.message), "last_lines": lines}


def first_failure(outcomes: list[Outcome]) -> Outcome | None:
    """The most likely cause of all failures, or None."""
    failed = [one for one in outcomes if one.kind in ROOT_CAUSE]
    return min(failed, key=lambda one: (ROOT_CAUSE.index(one.kind), one.time), default=None)


def attempts(log_dir: Path) -> list[Attempt]:
    """All starts of a job, oldest first."""
    return [Attempt(path) for path in sorted(log_dir.glob("attempt-*"))]


def claim_start(log_dir: Path, start: str, nodes: Sequence[str] = ()) -> int:
    """The number of the start of this name: the next free one, the same for all nodes of the start.

    SLURM's count (SLURM_RESTART_COUNT) is not used, since it may be inherited from the job that submitted this one.
    """
    for number in itertools.count():
        folder = log_dir / f"attempt-{number:03d}"
        file = folder / "start.json"
        others = any(path.name != file.name for path in folder.glob("[!.]*"))
        if others and not file.exists():
            continue  # an earlier version's, or what the batch script wrote of a start that could not report
        if (
            create_json(file, {"start": start, "time": time.time(), "nodes": list(nodes)})
            or _start_of(file) == start
        ):
            return number
    raise AssertionError("unreachable")


def _start_of(file: Path) -> str | None:
    """The start's name in another node's file, which may take a moment to become visible here."""
    for _ in range(20):
        if (content := read_json(file)) is not None:
            return str(content["start"])
        time.sleep(0.25)
    return None


def own_log_dir(log_dir: Path, submission: str, start: str) -> None:
    """Claim a job's log folder for this submission; files of an earlier job with the same number are moved aside.

    SLURM reuses numbers after a reset of its controller. One of the nodes moves the folder.
    """
    file = log_dir / "submission.json"
    if (read_json(file) or {}).get("submission") == submission:
        return
    token = log_dir.with_name(f".{log_dir.name}-{start}.json")
    if not create_json(token, {"submission": submission}):
        for _ in range(240):
            if (read_json(file) or {}).get("submission") == submission:
                return
            time.sleep(0.25)
        raise RuntimeError(f"{log_dir} belongs to another submission, and no node has moved it aside")
    try:
        if (read_json(file) or {}).get("submission") == submission:
            return  # another node was faster
        if file.exists() or attempts(log_dir):
            earlier = log_dir.with_name(f"{log_dir.name}-before-{start}")
            log_dir.rename(earlier)
            asked = earlier / "cancel.json"
            if (
                asked.exists()
                and asked.stat().st_mtime > (Path(submission) / "snapshot.json").stat().st_mtime
            ):
                write_json(log_dir / "cancel.json", read_json(asked) or {})
        write_json(file, {"submission": submission})
    finally:
        token.unlink()
