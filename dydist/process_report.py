"""What one training process is told by whoever started it, and what it leaves for them.

It is told in variables: its job (`job_name`), when that ends (`job_end`), and in DYDIST_EXIT_DIR the folder for what
it leaves. That is `pid-RANK.json` at start, `heartbeat-RANK` touched at most once a second, and `rank-RANK.json` at the
end with the true exit code: a launcher between the two maps every failure to 1. Without that folder nothing is left.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path


def job_name(environ: Mapping[str, str]) -> str | None:
    """The cluster job's identifier, the same after it was requeued; None where there is no job."""
    return environ.get("DYDIST_JOB") or environ.get("SLURM_JOB_ID") or None


def job_end(environ: Mapping[str, str]) -> float | None:
    """When the scheduler will end the job (unix seconds); None where that is not known."""
    until = environ.get("DYDIST_UNTIL")
    return None if until is None else float(until)


class ProcessReport:
    """Writes the files of one process. `folder` None writes nothing."""

    def __init__(self, folder: Path | None, rank: int) -> None:
        self.folder, self.rank = folder, rank
        self.step = 0
        self._touched = 0.0

    @classmethod
    def from_environment(cls) -> ProcessReport:
        """As the launcher asked for it."""
        folder = os.environ.get("DYDIST_EXIT_DIR")
        return cls(Path(folder) if folder else None, int(os.environ.get("RANK", "0")))

    def start(self) -> None:
        """Say which process this is."""
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write(
                f"pid-{self.rank}.json", {"rank": self.rank, "pid": os.getpid(), "host": socket.gethostname()}
            )

    def heartbeat(self, step: int) -> None:
        """Show that `step` was finished."""
        self.step = step
        if self.folder is not None and (now := time.monotonic()) - self._touched >= 1:
            (self.folder / f"heartbeat-{self.rank}").touch()
            self._touched = now

    def finish(self, code: int, error: str = "") -> None:
        """Say how it ended."""
        if self.folder is not None:
            self._write(
                f"rank-{self.rank}.json",
                {
                    "rank": self.rank,
                    "code": code,
                    "host": socket.gethostname(),
                    "error": error.strip().rsplit("\n", 1)[-1],
                    "step": self.step,
                    "time": time.time(),
                },
            )

    def _write(self, name: str, content: dict[str, object]) -> None:
        assert self.folder is not None
        temporary = self.folder / f".{name}.{os.getpid()}"
        temporary.write_text(json.dumps(content))
        temporary.replace(self.folder / name)
