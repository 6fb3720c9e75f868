"""Prepares CIFAR: downloads or unpacks it if it is missing, and converts it once per node."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dydist.config import DataConfig
from dydist.data.cache import (
    CachedArrays,
    fingerprint,
    open_cached,
    write_cached,
)
from dydist.data.cache_places import CACHE_FOLDER, locked, trusted, user_cache, writable
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
    folders = [cache_dir] if cache_dir is not None else trusted([root / CACHE_FOLDER, user_cache(root)], root)
    if _complete(layout, root, allow_download=allow_download):
        folders = [
            folder
            for folder in folders
            if trusted([_converted(layout, root, folder)], root, root / layout.folder)
        ]
        for folder in folders:
            if (found := open_cached(_converted(layout, root, folder))) is not None:
                return found
    cache = writable(folders)
    with locked(cache / f"{layout.name}.lock", layout.name, progress):
        if not _complete(layout, root, allow_download=allow_download):
            download(layout, root, progress=progress)
        folder = _converted(layout, root, cache)
        if trusted([folder], root, root / layout.folder):
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
    # another user was faster: the next place
    return open_cifar(layout, root, allow_download=allow_download, cache_dir=cache_dir, progress=progress)


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
