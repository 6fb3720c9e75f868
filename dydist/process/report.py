"""What a training process reads from its job's environment, and the files with which it reports to the job.

Variables give the job (`job_name`), its end (`job_end`) and the report folder (DYDIST_EXIT_DIR; without it, nothing
is written). The process writes `pid-RANK.json` at its start, touches `heartbeat-RANK` at most once a second, and
writes `rank-RANK.json` at its end with its exit code, since the launcher turns every failure into 1.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dydist.errors import UserError
from dydist.process.launcher import Process
from dydist.text.display import tell
from dydist.text.redaction import scrub


@dataclass(frozen=True)
class Job:
    """The cluster job that a process belongs to: its identifier, and its end in unix seconds; None if not known."""

    name: str | None = None
    end: float | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Job:
        """By `job_name` and `job_end`."""
        return cls(job_name(environ), job_end(environ))


def job_name(environ: Mapping[str, str]) -> str | None:
    """The cluster job's identifier, which a requeue keeps; None outside a job."""
    return environ.get("DYDIST_JOB") or environ.get("SLURM_JOB_ID") or None


def job_end(environ: Mapping[str, str]) -> float | None:
    """When the scheduler will end the job (unix seconds); None if unknown.

    Raises UserError if DYDIST_UNTIL is not a number.
    """
    if (text := environ.get("DYDIST_UNTIL")) is None:
        return None
    try:
        until = float(text)
    except ValueError:
        until = math.nan
    if not math.isfinite(until):
        raise UserError(
            f"DYDIST_UNTIL: the environment has {text!r}; it must be the job's end in unix seconds; dydist submit "
            "sets it, so unset it elsewhere"
        )
    return until


class ProcessReport:
    """Writes the report files of one process. With `folder` None it writes nothing.

    A failed write is reported once on standard error, and does not stop training; later writes are still attempted.
    """

    def __init__(self, folder: Path | None, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.step = 0
        self._touched = 0.0
        self._told = False

    @classmethod
    def from_environment(cls) -> ProcessReport:
        """From the launcher's variables. Raises UserError if they are malformed."""
        folder = os.environ.get("DYDIST_EXIT_DIR")
        return cls(Path(folder) if folder else None, Process.from_environment(os.environ).rank)

    def start(self) -> None:
        """Write rank, process id and host."""
        self._write(
            f"pid-{self.rank}.json", {"rank": self.rank, "pid": os.getpid(), "host": socket.gethostname()}
        )

    def set_step(self, step: int) -> None:
        """Set the step that is reported if the process ends before its next step."""
        self.step = step

    def heartbeat(self, step: int) -> None:
        """Report that `step` is finished."""
        self.step = step
        if self.folder is not None and (now := time.monotonic()) - self._touched >= 1:
            self._touched = now
            try:
                (self.folder / f"heartbeat-{self.rank}").touch()
            except OSError as error:
                self._tell_once(error)

    def finish(self, code: int, error: str = "") -> None:
        """Write the exit code and the last line of `error`."""
        self._write(
            f"rank-{self.rank}.json",
            {
                "rank": self.rank,
                "code": code,
                "host": socket.gethostname(),
                "error": scrub(error).strip().rsplit("\n", 1)[-1],
                "step": self.step,
                "time": time.time(),
            },
        )

    def _write(self, name: str, content: dict[str, object]) -> None:
        if self.folder is None:
            return
        temporary = self.folder / f".{name}.{os.getpid()}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(content), encoding="utf-8")
            temporary.replace(self.folder / name)
        except OSError as error:
            self._tell_once(error)

    def _tell_once(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            tell(
                f"rank {self.rank}: DYDIST_EXIT_DIR: cannot write {self.folder} ({error.strerror}); "
                "training goes on, but the launcher may take this process for hung"
            )
