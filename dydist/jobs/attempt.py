"""The folder of one start of a job, through which its nodes agree.

`<log_dir>/attempt-003/` holds, written by node R: `node-R.log` (every line of its processes, with time and rank),
`preflight-R.json`, `failure-R.json` (as soon as something fails), `outcome-R.json` (when its processes have
ended), and `exit-K/`, the DYDIST_EXIT_DIR of the K-th launch (K counts ports that turned out to be taken). Written
by the leader: `rendezvous-K.json` and, once, `decision.json`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from dydist.jobs.files import create_json, read_json, write_json
from dydist.redaction import scrub

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
]
ROOT_CAUSE: tuple[Kind, ...] = (
    "usage",
    "preflight",
    "frozen",
    "hung",
    "killed",
    "error",
    "launch",
    "port_taken",
    "torn",
)
"""Failures, likeliest cause first. A process whose peer was killed or hangs fails with an error of its own, so
those come before errors. Frozen is hung with proof: stopped, or waiting for a device; its peers, which wait for it,
look hung too. Torn are processes ended by us because of another node."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the processes of one node ended. `step`: the last finished step they reported."""

    node: int
    name: str
    kind: Kind
    time: float
    rank: int | None = None
    step: int = 0
    message: str = ""
    last_lines: tuple[str, ...] = ()


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

    def decide(self, content: Mapping[str, Any]) -> bool:
        """True for the one node whose decision counts."""
        return create_json(self.folder / "decision.json", content)

    def decision(self) -> dict[str, Any] | None:
        return read_json(self.folder / "decision.json")

    def _read(self, pattern: str) -> list[Outcome]:
        found = (read_json(path) for path in sorted(self.folder.glob(pattern)))
        return [Outcome(**{**one, "last_lines": tuple(one["last_lines"])}) for one in found if one]


def _told(outcome: Outcome) -> dict[str, Any]:
    lines = tuple(scrub(line) for line in outcome.last_lines)
    return {**asdict(outcome), "message": scrub(outcome.message), "last_lines": lines}


def first_failure(outcomes: list[Outcome]) -> Outcome | None:
    """The likeliest cause of all that failed, or None when nothing did."""
    failed = [one for one in outcomes if one.kind in ROOT_CAUSE]
    return min(failed, key=lambda one: (ROOT_CAUSE.index(one.kind), one.time), default=None)


def attempts(log_dir: Path) -> list[Attempt]:
    """All starts of a job, oldest first."""
    return [Attempt(path) for path in sorted(log_dir.glob("attempt-*"))]


def attempt_number(log_dir: Path, environ: Mapping[str, str] = os.environ) -> int:
    """Which start this is: SLURM counts them; without SLURM the folders do."""
    if "SLURM_JOB_ID" in environ:
        return int(environ.get("SLURM_RESTART_COUNT", "0"))
    return len(attempts(log_dir))
