"""Converted data sets: one uint8 array per split on disk, memory-mapped by every process of a node.

    <cache>/cifar10-<fingerprint>/train-images.npy  uint8 [N,3,H,W]
                                  train-labels.npy  int64 [N]
                                  test-images.npy, test-labels.npy
                                  index.json        class names; size and SHA-256 of each array file; mean and
                                                    standard deviation, if they were computed

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

from dydist.config import DataConfig
from dydist.data.cifar import Split
from dydist.data.dataset import Arrays
from dydist.errors import UserError
from dydist.private_files import is_made_by

FORMAT = 1
_INDEX = "index.json"
PARTIAL = ".partial-"
BAD_FILES = "-bad-files.txt"
"""End of the name of the file, beside a conversion, that lists what could not be converted."""
_DAY_S = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class CachedArrays:
    """A converted data set: `splits` has read-only arrays, the images memory-mapped.

    `mean`, `std`: per channel over the training images, 0..1, if they were computed. `content`: changes when a pixel
    or a label does.
    """

    folder: Path
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    content: str
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def split(self, name: Literal["train", "test"]) -> Arrays:
        """One split, with what was computed of the training images."""
        images, labels = self.splits[name].images, self.splits[name].labels
        return Arrays(images, labels, self.classes, mean=self.mean, std=self.std, content=self.content)


def fingerprint(sources: Sequence[Path]) -> str:
    """16 hexadecimal digits that change when a source file is replaced or touched. Raises OSError."""
    facts = [(path.name, status.st_size, status.st_mtime_ns) for path in sources for status in [path.stat()]]
    return hashlib.sha256(json.dumps([FORMAT, facts]).encode()).hexdigest()[:16]


def split_name(config: DataConfig) -> str:
    """8 hexadecimal digits of how one array is split, for the name of a conversion: another split's stays."""
    return hashlib.sha256(f"{config.test_fraction} {config.split_seed}".encode()).hexdigest()[:8]


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
        mean, std = (index.get(name) for name in ("mean", "std"))
        return CachedArrays(
            folder=folder,
            classes=tuple(index["classes"]),
            splits=splits,
            content=index["files"]["train-images.npy"]["sha256"]
            + index["files"]["train-labels.npy"]["sha256"],
            mean=None if mean is None else (float(mean[0]), float(mean[1]), float(mean[2])),
            std=None if std is None else (float(std[0]), float(std[1]), float(std[2])),
        )
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


def verified(opened: Callable[[], CachedArrays], progress: Callable[[str], None]) -> CachedArrays:
    """What `opened` opens, with the SHA-256 of every array verified. A changed one is reported and converted again."""
    cached = opened()
    if damaged := verify_cached(cached.folder):
        progress(f"{cached.folder}: {', '.join(damaged)} changed since it was written; converting again")
        discard_cached(cached.folder)
        cached = opened()
    return cached


def write_cached(
    folder: Path,
    classes: Sequence[str],
    splits: Mapping[str, Split],
    *,
    log: Callable[[str], None],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> None:
    """Write a converted data set; `folder` appears atomically.

    Hold the lock of `folder.parent`: this removes files of killed conversions and conversions of earlier source
    files. Raises UserError if it cannot be written, as on a full disk.
    """
    sweep(folder, now=time.time())
    partial = folder.parent / f"{PARTIAL}{folder.name}-{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
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
        measured = {} if mean is None or std is None else {"mean": list(mean), "std": list(std)}
        _write_index(partial, {"classes": list(classes), "files": files, **measured})
        _rename_whole(partial, folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        size = sum(arrays.images.nbytes + arrays.labels.nbytes for arrays in splits.values())
        raise unwritable(folder.parent, size, error) from None


def finish_cached(
    partial: Path,
    folder: Path,
    classes: Sequence[str],
    labels: Mapping[str, np.ndarray],
    *,
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Make a converted data set of `partial`, which has the images of all splits. Hold the lock. Raises OSError."""
    for split, array in labels.items():
        np.save(partial / f"{split}-labels.npy", array, allow_pickle=False)
    files = {}
    for path in sorted(partial.glob("*.npy")):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    _write_index(partial, {"classes": list(classes), "files": files, "mean": list(mean), "std": list(std)})
    _rename_whole(partial, folder)


def unwritable(place: Path, size: int, error: OSError) -> UserError:
    """The error for converted images of `size` bytes that cannot be written to `place`."""
    return UserError(
        f"{place}: the converted images cannot be written: {error.strerror or error}. "
        f"{size / 2**20:.0f} MiB must fit there; free some space, or set XDG_CACHE_HOME to a roomier place "
        "(it is used where data.root cannot be written)"
    )


def _write_index(folder: Path, values: dict[str, Any]) -> None:
    with (folder / _INDEX).open("w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **values}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def sweep(folder: Path, *, now: float, keep: Path | None = None) -> None:
    """Remove files of killed conversions, and conversions of earlier versions of the source files.

    Unfinished conversions of other hosts are kept for a day: on some network file systems their lock is not visible.
    `now`: seconds since the epoch. `keep`: a partial folder that stays.
    """
    name = folder.name.rsplit("-", 1)[0]
    for old in folder.parent.glob(f"{name}-*"):
        if old.name.endswith(BAD_FILES):
            with suppress(OSError):
                old.unlink()
        elif old != folder:
            shutil.rmtree(old, ignore_errors=True)
    for partial in folder.parent.glob(f"{PARTIAL}{name}-*"):
        if partial == keep:
            continue
        ours = f"-{socket.gethostname()}-" in partial.name
        with suppress(OSError):
            if ours or now - partial.stat().st_mtime > _DAY_S:
                shutil.rmtree(partial, ignore_errors=True)


def _rename_whole(partial: Path, folder: Path) -> None:
    if is_made_by(folder, {os.geteuid(), 0}) and open_cached(folder) is not None:
        shutil.rmtree(partial, ignore_errors=True)  # another host was faster, with the same content
        return
    if folder.exists():  # it is damaged, or another user's
        shutil.rmtree(folder)
    try:
        partial.rename(folder)
    except OSError:
        if open_cached(folder) is None:
            raise
        shutil.rmtree(partial, ignore_errors=True)
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
