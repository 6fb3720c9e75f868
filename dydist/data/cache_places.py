"""Where converted images are kept, and the lock with which one process of a node converts them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import filelock

from dydist.errors import UserError
from dydist.machine import user_folder
from dydist.private_files import is_made_by

CACHE_FOLDER = ".dydist-cache"


def trusted(folders: Sequence[Path], *sources: Path) -> list[Path]:
    """The folders that belong to this user, to root, or to the owner of the source data."""
    owners = {os.geteuid(), 0, *(source.stat().st_uid for source in sources if source.exists())}
    return [folder for folder in folders if is_made_by(folder, owners)]


def user_cache(root: Path) -> Path:
    """The user's own cache folder for this root (XDG Base Directory Specification)."""
    return (
        user_folder("XDG_CACHE_HOME", ".cache")
        / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    )


def writable(places: Sequence[Path]) -> Path:
    """The first folder that can be created and written. Raises UserError if none can."""
    for place in places:
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(place, os.W_OK | os.X_OK):
            return place
    raise UserError(
        f"converted images have no place to go: none of {', '.join(map(str, places))} can be written. "
        "Make data.root writable, or set XDG_CACHE_HOME to a folder that is"
    )


@contextmanager
def locked(path: Path, name: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Admit one process per node, and report the wait to the others. The lock is released if its holder dies.

    Raises UserError if its file cannot be locked.
    """
    lock = filelock.FileLock(path, mode=0o666)  # users of a shared folder share the lock
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress(f"waiting for another process to prepare {name} ({path})")
            lock.acquire()
    except OSError as error:
        raise UserError(
            f"{path} cannot be locked: {error.strerror or error}. Its folder must be writable and on a file "
            "system with locks; remove the file, or set XDG_CACHE_HOME to a folder of your own"
        ) from None
    try:
        yield
    finally:
        lock.release()
