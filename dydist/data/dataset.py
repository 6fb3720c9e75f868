"""Opening a data set: the one function that the rest of dydist calls for images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import filelock
import numpy as np

from dydist.config import DataConfig
from dydist.data import builtin
from dydist.data.cache import CachedArrays, fingerprint, open_cached, write_cached
from dydist.data.cifar import LAYOUTS, Layout, how_to_get, missing_files, read_classes, read_split
from dydist.data.download import download
from dydist.errors import UserError

CACHE_FOLDER = ".dydist-cache"


@dataclass(frozen=True)
class ImageDataset:
    """One split, in memory shared between processes.

    `images`: uint8 [N,3,H,W], read-only. `labels`: int64 [N], read-only, 0 ≤ label < len(classes).
    `mean`, `std`: of each channel over the training images, in units of 1/255 of a byte value (0..1).
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __len__(self) -> int:
        return len(self.images)


def _silent(_: str) -> None:
    """Progress that nobody asked for."""


def open_dataset(
    config: DataConfig,
    split: Literal["train", "test"],
    *,
    cache_dir: Path | None = None,
    progress: Callable[[str], None] = _silent,
) -> ImageDataset:
    """The images of one split, at most `config.limit` of them.

    CIFAR is downloaded where it is missing, then converted once into memory-mapped arrays (both splits, so
    that damage to either is told before training). Processes of a node may call this at the same time: one
    works, the others wait for it. `cache_dir` overrides where converted arrays lie; `progress` gets a line
    about each long step.

    Raises:
        UserError: files are missing, damaged or unreadable, the download failed, or an extra is not installed.
    """
    if config.name == "digits":
        images, labels = builtin.digits(split)
        dataset = ImageDataset(images, labels, builtin.DIGIT_CLASSES, builtin.DIGITS_MEAN, builtin.DIGITS_STD)
    elif config.name == "synthetic":
        images, labels = builtin.synthetic(split, limit=config.limit)
        dataset = ImageDataset(
            images, labels, builtin.SYNTHETIC_CLASSES, builtin.SYNTHETIC_MEAN, builtin.SYNTHETIC_STD
        )
    else:
        layout = LAYOUTS[config.name]
        cached = open_cifar(layout, config, cache_dir=cache_dir, progress=progress)
        arrays = cached.splits[split]
        dataset = ImageDataset(arrays.images, arrays.labels, cached.classes, layout.mean, layout.std)
    if config.limit is not None:
        dataset = replace(
            dataset, images=dataset.images[: config.limit], labels=dataset.labels[: config.limit]
        )
    return dataset


def open_cifar(
    layout: Layout, config: DataConfig, *, cache_dir: Path | None, progress: Callable[[str], None]
) -> CachedArrays:
    """The converted arrays of a CIFAR data set, downloaded and converted first where that is still to be done."""
    root = Path(config.root).expanduser()
    cache = _cache_place(root, cache_dir)
    if (
        not missing_files(layout, root)
        and (found := open_cached(_converted(layout, root, cache))) is not None
    ):
        return found
    with _lock(cache, layout, progress):
        if missing := missing_files(layout, root):
            if not config.download:
                raise UserError(
                    f"data.root: {missing[0]} is missing and data.download is false; "
                    + how_to_get(layout, root)
                )
            download(layout, root, progress=progress)
        folder = _converted(layout, root, cache)
        if (found := open_cached(folder)) is not None:
            return found
        progress(f"converting {root / layout.folder} (once for this machine)")
        classes = read_classes(layout, root)
        splits = {
            "train": read_split(layout, root, layout.train),
            "test": read_split(layout, root, layout.test),
        }
        write_cached(folder, classes, splits, log=progress)
        found = open_cached(folder)
        assert found is not None, f"{folder} was just written"
        return found


def _converted(layout: Layout, root: Path, cache: Path) -> Path:
    """Where the conversion of the source files as they are now belongs."""
    return cache / f"{layout.name}-{fingerprint([root / layout.folder / name for name in layout.files])}"


def _cache_place(root: Path, cache_dir: Path | None) -> Path:
    """A folder that can be written: given, or beside the data, or the user's own."""
    if cache_dir is None:
        cache_dir = root / CACHE_FOLDER
        try:
            cache_dir.mkdir(parents=True, exist_ok=True)
            writable = os.access(cache_dir, os.W_OK)
        except OSError:
            writable = False
        if not writable:
            home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
            cache_dir = home / "dydist" / hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{cache_dir}: cannot be made ({error.strerror}); converted images are kept there. "
            "Make data.root writable, or set XDG_CACHE_HOME to a place that is"
        ) from None
    return cache_dir


@contextmanager
def _lock(cache: Path, layout: Layout, progress: Callable[[str], None]) -> Iterator[None]:
    """One process of a node at a time; the others are told what they wait for."""
    lock = filelock.FileLock(cache / f"{layout.name}.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        progress(f"waiting for another process to prepare {layout.name}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
