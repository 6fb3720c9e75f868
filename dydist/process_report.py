"""What one training process leaves for whoever started it, in the folder that DYDIST_EXIT_DIR names.

`pid-RANK.json` at start, `heartbeat-RANK` touched at most once a second, `rank-RANK.json` at the end with the
true exit code: a launcher between the two maps every failure to 1. Without the variable nothing is written.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path


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
