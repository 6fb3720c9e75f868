"""Temporary folders that outlive nobody: a folder whose owner was killed is removed by the next owner on the machine.

An owner holds a lock on a file in its folder; the kernel releases it when the owner is gone, however it went. So
this holds across containers too, where a process's number means nothing.
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
    """A folder of its own in `parent` (the temporary folder), until `remove` or the owner's end."""

    def __init__(self, parent: Path | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
        # It gets its name when it is locked, so that no sweep takes a new folder. Children do not inherit it (PEP 446).
        new = self.path / "new.lock"
        self._lock = os.open(new, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        new.rename(self.path / LOCK)

    def remove(self) -> None:
        """Remove the folder; again is nothing."""
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
    """Remove what killed owners left in `parent`; returns it. Folders of other users are left alone."""
    found = []
    for folder in (parent or Path(tempfile.gettempdir())).glob(f"{PREFIX}*"):
        if not is_made_by(folder, {os.geteuid()}):
            continue
        with suppress(OSError):  # swept by another at the same moment
            lock = os.open(folder / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
                found.append(folder)
            finally:
                os.close(lock)
    return found
