"""Prepares CIFAR: downloads or unpacks it if it is missing, and converts it once per node."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import filelock

from dydist.config import DataConfig
from dydist.data.cache import (
    CachedArrays,
    discard_cached,
    fingerprint,
    open_cached,
    verify_cached,
    write_cached,
)
from dydist.data.cifar import (
    LAYOUTS,
    Layout,
    data_root,
    download_remedy,
    missing_files,
    read_classes,
    read_split,
    unreadable,
)
from dydist.data.dataset import Arrays
from dydist.data.download import download
from dydist.errors import UserError
from dydist.machine import user_folder
from dydist.private_files import is_made_by

CACHE_FOLDER = ".dydist-cache"


def cifar(
    config: DataConfig,
    split: Literal["train", "test"],
    *,
    cache_dir: Path | None,
    progress: Callable[[str], None],
) -> Arrays:
    """Open a split of `config.name`, one of `LAYOUTS`. Raises UserError."""
    cached = open_cifar(
        LAYOUTS[config.name],
        Path(config.root),
        allow_download=config.download,
        cache_dir=cache_dir,
        progress=progress,
    )
    arrays = cached.splits[split]
    return Arrays(arrays.images, arrays.labels, cached.classes)


def open_cifar(
    layout: Layout,
    root: Path,
    *,
    allow_download: bool,
    cache_dir: Path | None,
    progress: Callable[[str], None],
) -> CachedArrays:
    """Open the converted arrays of both splits; downloads and converts them first if necessary.

    Converted arrays are stored next to the data, or in the user's cache folder if that cannot be written; `cache_dir`
    replaces both. Raises UserError.
    """
    root = data_root(layout, Path(os.path.expanduser(root)))
    places = (
        [cache_dir] if cache_dir is not None else _trusted([root / CACHE_FOLDER, _user_cache(root)], root)
    )
    if _complete(layout, root, allow_download=allow_download):
        places = [
            place
            for place in places
            if _trusted([_converted(layout, root, place)], root, root / layout.folder)
        ]
        for place in places:
            if (found := open_cached(_converted(layout, root, place))) is not None:
                return found
    cache = _writable(places)
    with _lock(cache / f"{layout.name}.lock", layout, progress):
        if not _complete(layout, root, allow_download=allow_download):
            download(layout, root, progress=progress)
        folder = _converted(layout, root, cache)
        if (found := open_cached(folder)) is not None:
            return found
        progress(f"converting {root / layout.folder} to {folder} (once for this machine)")
        classes = read_classes(layout, root)
        splits = {
            "train": read_split(layout, root, layout.train),
            "test": read_split(layout, root, layout.test),
        }
        write_cached(folder, classes, splits, log=progress)
        found = open_cached(folder)
        assert found is not None, f"{folder} was just written"
        return found


def verified_cifar(layout: Layout, root: Path, *, progress: Callable[[str], None]) -> CachedArrays:
    """As `open_cifar`, and verify the SHA-256 of the converted arrays.

    A changed conversion (a bit flipped on disk) is reported and converted again. Raises UserError.
    """
    cached = open_cifar(layout, root, allow_download=True, cache_dir=None, progress=progress)
    if damaged := verify_cached(cached.folder):
        progress(f"{cached.folder}: {', '.join(damaged)} changed since it was written; converting again")
        discard_cached(cached.folder)
        cached = open_cifar(layout, root, allow_download=True, cache_dir=None, progress=progress)
    return cached


def _complete(layout: Layout, root: Path, *, allow_download: bool) -> bool:
    """Whether every file exists; False if all must be downloaded.

    Raises UserError if only some are missing, since a download would overwrite the others, or if downloads are not
    allowed.
    """
    missing = missing_files(layout, root)
    folder = root / layout.folder
    try:
        occupied = missing and folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    except OSError as error:
        raise unreadable(layout, folder, error) from None
    if occupied:
        names = ", ".join(path.name for path in missing)
        raise UserError(
            f"{folder} is there but lacks {names}; expected {', '.join(layout.files)}. Complete it, or move it "
            f"away and {download_remedy(layout, root)}"
        )
    if missing and not allow_download and not (root / layout.archive).is_file():
        raise UserError(
            f"data.root: {folder} is missing, and data.download is false; {download_remedy(layout, root)}"
        )
    return not missing


def _converted(layout: Layout, root: Path, cache: Path) -> Path:
    """The folder for the conversion of the present source files."""
    try:
        return cache / f"{layout.name}-{fingerprint([root / layout.folder / name for name in layout.files])}"
    except OSError as error:
        raise UserError(
            f"{error.filename} vanished or became unreadable while it was opened ({error.strerror}); leave the "
            f"files of {layout.name} in place while runs start, and start again"
        ) from None


def _trusted(folders: Sequence[Path], *sources: Path) -> list[Path]:
    """The folders that belong to this user, to root, or to the owner of the source data."""
    owners = {os.geteuid(), 0, *(source.stat().st_uid for source in sources if source.exists())}
    return [folder for folder in folders if is_made_by(folder, owners)]


def _user_cache(root: Path) -> Path:
    """The user's own cache folder for this root (XDG Base Directory Specification)."""
    return (
        user_folder("XDG_CACHE_HOME", ".cache")
        / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    )


def _writable(places: Sequence[Path]) -> Path:
    """The first folder that can be created and written."""
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
def _lock(path: Path, layout: Layout, progress: Callable[[str], None]) -> Iterator[None]:
    """Admit one process per node, and report the wait to the others. The lock is released if its holder dies."""
    lock = filelock.FileLock(path, mode=0o666)  # users of a shared folder share the lock
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            progress(f"waiting for another process to prepare {layout.name} ({path})")
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
