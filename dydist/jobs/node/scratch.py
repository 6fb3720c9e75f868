"""Temporary folders: the folder of a killed owner is removed by the next owner on the machine.

An owner locks a file in its folder; the kernel releases the lock when the owner exits for any reason. This also works
across containers, in which process ids are not comparable.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from dydist.private_files import is_made_by

PREFIX = "dydist-launch-"
LOCK = "owner.lock"


class Scratch:
    """A new folder in `parent` (default: the temporary folder), until `remove` or the owner's exit."""

    def __init__(self, parent: Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # It is renamed once locked, so that no sweep removes a new folder. Children do not inherit the lock (PEP 446).
        new = self.path / "new.lock"
        self._lock = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / LOCK)

    def remove(self) -> None:
        """Remove the folder; idempotent."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()


def sweep(parent: Path | None = None) -> list[Path]:
    """Remove the folders of killed owners in `parent`; returns them. Does not touch other users' folders."""
    found = []
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
        if not is_made_by(folder, {os.geteuid()}):
            continue
        with suppress(OSError):  # another process removed it at the same time
            lock = os.open(folder / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                found.append(folder)
            finally:
                os.close(lock)
    return found
