"""Converted data sets: one uint8 array per split on disk, memory-mapped by every process of a node.

    <cache>/cifar10-<fingerprint>/train-images.npy  uint8 [N,3,32,32]
                                  train-labels.npy  int64 [N]
                                  test-images.npy, test-labels.npy
                                  index.json        class names; size and SHA-256 of each array file

The fingerprint covers the names, sizes and modification times of the source files, so changed sources are
converted anew. The folder is written under a temporary name and renamed when it is whole: it is there entirely
or not at all. The operating system shares the mapped pages between processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dydist.data.cifar import Split
from dydist.errors import UserError

FORMAT = 1
_INDEX = "index.json"
_PARTIAL = ".partial-"
_DAY_S = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class CachedArrays:
    """A converted data set: `splits` has read-only arrays, the images memory-mapped."""

    folder: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Split]


def fingerprint(sources: Sequence[Path]) -> str:
    """16 hexadecimal digits that change when a source file is replaced or touched. Raises OSError."""
    facts = [(path.name, status.st_size, status.st_mtime_ns) for path in sources for status in [path.stat()]]
    return hashlib.sha256(json.dumps([FORMAT, facts]).encode()).hexdigest()[:16]


def open_cached(folder: Path) -> CachedArrays | None:
    """Open a converted data set; None if it does not exist or is damaged (truncated, wrong shape or dtype)."""
    try:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        splits = {}
        for split in ("train", "test"):
            images = _open_array(folder, f"{split}-images.npy", index, "r")
            labels = _open_array(folder, f"{split}-labels.npy", index, None)
            if images.dtype != np.uint8 or labels.dtype != np.int64 or len(images) != len(labels):
                return None
            labels.setflags(write=False)
            splits[split] = Split(images=images, labels=labels)
        return CachedArrays(folder=folder, classes=tuple(index["classes"]), splits=splits)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None


def _open_array(folder: Path, name: str, index: dict[str, Any], mmap_mode: Literal["r"] | None) -> np.ndarray:
    path = folder / name
    if path.stat().st_size != index["files"][name]["bytes"]:
        raise ValueError(f"{path} is cut short")
    array: np.ndarray = np.load(path, mmap_mode=mmap_mode, allow_pickle=False)
    return array


def verify_cached(folder: Path) -> list[str]:
    """Names of the array files whose SHA-256 does not match. Reads all files."""
    index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    return [name for name, entry in index["files"].items() if _sha256(folder / name) != entry["sha256"]]


def discard_cached(folder: Path) -> None:
    """Mark a converted data set as damaged: the next process that opens it converts again."""
    (folder / _INDEX).unlink(missing_ok=True)


def write_cached(
    folder: Path, classes: Sequence[str], splits: Mapping[str, Split], *, log: Callable[[str], None]
) -> None:
    """Write a converted data set; `folder` appears atomically.

    Hold the lock of `folder.parent`: this removes files of killed conversions and conversions of earlier source
    files. Raises UserError if it cannot be written, as on a full disk.
    """
    sweep(folder, now=time.time())
    partial = folder.parent / f"{_PARTIAL}{folder.name}-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir()
        files = {}
        for split, arrays in splits.items():
            for kind, array in (("images", arrays.images), ("labels", arrays.labels)):
                path = partial / f"{split}-{kind}.npy"
                with path.open("wb") as file:
                    np.save(file, array, allow_pickle=False)
                    file.flush()
                    os.fsync(file.fileno())
                files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
                log(f"wrote {path.name}: {len(array):,} {kind}, {path.stat().st_size / 2**20:.1f} MiB")
        with (partial / _INDEX).open("w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "classes": list(classes), "files": files}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        _rename_whole(partial, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        size = sum(arrays.images.nbytes + arrays.labels.nbytes for arrays in splits.values())
        raise UserError(
            f"{folder.parent}: the converted images cannot be written: {error.strerror or error}. "
            f"{size / 2**20:.0f} MiB must fit there; free some space, or set XDG_CACHE_HOME to a roomier place "
            "(it is used where data.root cannot be written)"
        ) from None


def sweep(folder: Path, *, now: float) -> None:
    """Remove files of killed conversions, and conversions of earlier versions of the source files.

    Unfinished conversions of other hosts are kept for a day: on some network file systems their lock is not visible.
    `now`: seconds since the epoch.
    """
    name = folder.name.rsplit("-", 1)[0]
    for old in folder.parent.glob(f"{name}-*"):
        if old != folder:
            shutil.rmtree(old, ignore_errors=True)
    for partial in folder.parent.glob(f"{_PARTIAL}{name}-*"):
        ours = f"-{socket.gethostname()}-" in partial.name
        with suppress(OSError):
            if ours or now - partial.stat().st_mtime > _DAY_S:
                shutil.rmtree(partial, ignore_errors=True)


def _rename_whole(partial: Path, folder: Path) -> None:
    if folder.exists():  # it is damaged, else it would have been used
        shutil.rmtree(folder)
    try:
        partial.rename(folder)
    except OSError:
        if open_cached(folder) is None:
            raise
        shutil.rmtree(partial, ignore_errors=True)  # another host was faster, with the same content
        return
    with suppress(OSError):  # some file systems cannot sync a folder
        descriptor = os.open(folder.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
