"""Where converted images are kept; `open_or_convert` opens them, and lets one process of a node convert them first."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import filelock

from dydist.data.cache import CachedArrays, open_cached
from dydist.errors import UserError
from dydist.machine import user_folder
from dydist.private_files import is_made_by

CACHE_FOLDER = ".dydist-cache"


def open_or_convert(
    places: Sequence[Path],
    name: str,
    *,
    sources: Sequence[Path],
    what: str,
    convert: Callable[[Path], None],
    progress: Callable[[str], None],
) -> CachedArrays:
    """Open the conversion `name` in the first of `places` that has it, or make it in the first that can be written.

    `name` ends in a hyphen and what changes with the sources. `convert(folder)` makes the conversion; the other
    processes of the node wait. A conversion is believed if it belongs to this user, to root, or to an owner of
    `sources`. `what` names the images in messages. Raises UserError.
    """
    while True:
        places = [place for place in places if trusted([place / name], *sources)]
        for place in places:
            if (cached := open_cached(place / name)) is not None:
                return cached
        place = writable(places)
        with locked(place / f"{name.split('-')[0]}.lock", what, progress):
            if not trusted([place / name], *sources):
                continue  # another user was faster: the next place
            if (cached := open_cached(place / name)) is None:
                convert(place / name)
                cached = open_cached(place / name)
            assert cached is not None, f"{place / name} was just written"
            return cached


def conversion_places(source: Path, folder: Path, cache_dir: Path | None) -> list[Path]:
    """Folders for conversions of `source`, best first: in `folder`, or in the user's cache; or `cache_dir` alone."""
    if cache_dir is not None:
        return [cache_dir]
    return trusted([folder / CACHE_FOLDER, user_cache(source)], source)


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
