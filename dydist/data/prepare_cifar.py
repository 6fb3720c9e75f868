"""Prepares CIFAR: downloads or unpacks it if it is missing, and converts it once per node."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dydist.config import DataConfig
from dydist.data.cache import CachedArrays, fingerprint, write_cached
from dydist.data.cache_places import conversion_places, locked, open_or_convert, writable
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
    # without `content`: checkpoints hold a hash of the pixels
    return cached.split(split)._replace(content=None)


def open_cifar(
    layout: Layout,
    root: Path,
    *,
    allow_download: bool,
    cache_dir: Path | None,
    progress: Callable[[str], None],
) -> CachedArrays:
    """Open the converted arrays of both splits; downloads and converts them first if necessary. Raises UserError."""
    root = data_root(layout, Path(os.path.expanduser(root)))
    source = root / layout.folder
    places = conversion_places(root, root, cache_dir)
    if not _complete(layout, root, allow_download=allow_download):
        with locked(writable(places) / f"{layout.name}.lock", layout.name, progress):
            if not _complete(layout, root, allow_download=allow_download):
                download(layout, root, progress=progress)

    def convert(target: Path) -> None:
        progress(f"converting {source} to {target} (once for this machine)")
        classes = read_classes(layout, root)
        splits = {
            "train": read_split(layout, root, layout.train),
            "test": read_split(layout, root, layout.test),
        }
        write_cached(target, classes, splits, log=progress)

    return open_or_convert(
        places,
        _conversion_name(layout, root),
        sources=[root, source],
        what=layout.name,
        convert=convert,
        progress=progress,
    )


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


def _conversion_name(layout: Layout, root: Path) -> str:
    """The name of the conversion of the present source files."""
    try:
        return f"{layout.name}-{fingerprint([root / layout.folder / name for name in layout.files])}"
    except OSError as error:
        raise UserError(
            f"{error.filename} vanished or became unreadable while it was opened ({error.strerror}); leave the "
            f"files of {layout.name} in place while runs start, and start again"
        ) from None
