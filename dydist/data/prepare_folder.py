"""`data.name=folder`: converts a folder of images once a node, and opens the conversion."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dydist.config import DataConfig
from dydist.data.cache import PARTIAL, CachedArrays, split_name, sweep, unwritable
from dydist.data.cache_places import conversion_places, open_or_convert, trusted
from dydist.data.convert import convert_images
from dydist.data.dataset import Arrays
from dydist.data.folder import Found, find_images
from dydist.errors import UserError
from dydist.machine import usable_cores

CONVERTER = 1
"""Version of the conversion: images converted by another are converted again."""
ABANDONED_S = 600.0
"""Age after which another host's unfinished conversion is taken over, if its lock is not held."""


def folder(
    config: DataConfig,
    split: Literal["train", "test"],
    *,
    cache_dir: Path | None,
    progress: Callable[[str], None],
) -> Arrays:
    """Open a split of the folder `config.root`. Raises UserError."""
    return open_folder(config, cache_dir=cache_dir, progress=progress).split(split)


def open_folder(
    config: DataConfig, *, cache_dir: Path | None, progress: Callable[[str], None]
) -> CachedArrays:
    """Open the converted images of both splits; converts them first if the folder is new or has changed.

    Raises UserError.
    """
    root = Path(os.path.expanduser(config.root))
    found = _find(root, config)

    def convert(target: Path) -> None:
        if found.left_out:
            counts = ", ".join(f"{count:,} {suffix}" for suffix, count in sorted(found.left_out.items())[:10])
            progress(f"files that are no images are left out: {counts}")
        _convert(found, target, config, progress)

    division = f"-{split_name(config)}" if found.divided else ""
    return open_or_convert(
        conversion_places(root, root, cache_dir),
        f"folder{config.side}{division}-{found.fingerprint()}v{CONVERTER}",
        sources=[root],
        what=f"the images of {root}",
        convert=convert,
        progress=progress,
    )


def _find(root: Path, config: DataConfig) -> Found:
    return find_images(root, test_fraction=config.test_fraction, seed=config.split_seed)


def _convert(found: Found, target: Path, config: DataConfig, progress: Callable[[str], None]) -> None:
    """Convert to `target`, going on with what an earlier attempt left. Raises UserError."""
    partial = _partial(target)
    sweep(target, now=time.time(), keep=partial)
    size = sum(map(len, found.splits.values())) * 3 * config.side**2
    try:
        partial.mkdir(exist_ok=True)
        if not trusted([partial]):
            raise UserError(
                f"{partial} belongs to another user, or is a link; remove it, or give data.root a folder that only you "
                "can write"
            )
        convert_images(found, config.side, partial, target, threads=usable_cores(), progress=progress)
    except OSError as error:
        raise unwritable(target.parent, size, error) from None
    if _find(found.root, config).fingerprint() != found.fingerprint():
        raise UserError(
            f"data.root: files in {found.root} changed while they were converted; start again when they are all there"
        )


def _partial(target: Path) -> Path:
    """This user's folder on this host for the unfinished conversion; another host's is taken over if abandoned."""
    own = target.parent / f"{PARTIAL}{target.name}-{socket.gethostname()}-{os.geteuid()}"
    if not own.exists():
        for other in target.parent.glob(f"{PARTIAL}{target.name}-*"):
            try:
                touched = max(path.stat().st_mtime for path in other.iterdir())
                if time.time() - touched > ABANDONED_S and trusted([other]):
                    other.rename(own)
                    break
            except (OSError, ValueError):
                continue
    return own
