"""What one training process is told by whoever started it, and what it leaves for them.

It is told in variables: its job (`job_name`), when that ends (`job_end`), and in DYDIST_EXIT_DIR the folder for what
it leaves. That is `pid-RANK.json` at start, `heartbeat-RANK` touched at most once a second, and `rank-RANK.json` at the
end with the true exit code: a launcher between the two maps every failure to 1. Without that folder nothing is left.
"""

from __future__ import annotations

import json
import math
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from dydist.errors import UserError
from dydist.process.launcher import Process
from dydist.text.display import tell
from dydist.text.redaction import scrub


def job_name(environ: Mapping[str, str]) -> str | None:
    """The cluster job's identifier, the same after it was requeued; None where there is no job."""
    return environ.get("DYDIST_JOB") or environ.get("SLURM_JOB_ID") or None


def job_end(environ: Mapping[str, str]) -> float | None:
    """When the scheduler will end the job (unix seconds); None where that is not known.

    Raises UserError where DYDIST_UNTIL is no number.
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
    """Writes the files of one process. `folder` None writes nothing.

    A folder that cannot be written is told once on standard error and tried again: it never ends training.
    """

    def __init__(self, folder: Path | None, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.step = 0
        self._touched = 0.0
        self._told = False

    @classmethod
    def from_environment(cls) -> ProcessReport:
        """As the launcher asked for it. Raises UserError where its variables are malformed."""
        folder = os.environ.get("DYDIST_EXIT_DIR")
        return cls(Path(folder) if folder else None, Process.from_environment(os.environ).rank)

    def start(self) -> None:
        """Say which process this is."""
        self._write(
            f"pid-{self.rank}.json", {"rank": self.rank, "pid": os.getpid(), "host": socket.gethostname()}
        )

    def set_step(self, step: int) -> None:
        """Nothing is done yet, but an end before the next step is told as one at `step`."""
        self.step = step

    def heartbeat(self, step: int) -> None:
        """Show that `step` was finished."""
        self.step = step
        if self.folder is not None and (now := time.monotonic()) - self._touched >= 1:
            self._touched = now
            try:
                (self.folder / f"heartbeat-{self.rank}").touch()
            except OSError as error:
                self._tell_once(error)

    def finish(self, code: int, error: str = "") -> None:
        """Say how it ended."""
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
