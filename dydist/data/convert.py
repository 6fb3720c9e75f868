"""Converts the images of a folder to one uint8 array per split, on all cores. Resumes an interrupted conversion.

The arrays are written in blocks. Once a block is in its file, a line in `journal.jsonl` records it with its CRC-32. A
later attempt keeps the blocks with the recorded CRC and converts the others. So blocks that a kill or a power failure
damaged are not used, and no complete block is converted twice. Threads suffice, since Pillow decodes and scales
without Python's global lock.
"""

from __future__ import annotations

import json
import os
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from dydist.data.cache import BAD_FILES, finish_cached
from dydist.data.dataset import mean_and_std_of_sums
from dydist.data.folder import SHOWN, Found, Source, shown
from dydist.data.picture import PictureError, decode_picture, picture_warnings
from dydist.errors import UserError

BLOCK_BYTES = 1 << 20
"""Least size of a block's images."""
REPORT_S = 5.0
_JOURNAL = "journal.jsonl"


@dataclass(frozen=True)
class _Block:
    """Consecutive images of a split, from number `start` on."""

    split: str
    start: int
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class _Done:
    """A block in its file: CRC-32, and sums of values and of their squares per channel, which are whole numbers."""

    checksum: int
    values: tuple[int, ...]
    squares: tuple[int, ...]


def convert_images(
    found: Found, side: int, partial: Path, folder: Path, *, threads: int, progress: Callable[[str], None]
) -> None:
    """Write all images, [3, side, side], to `partial`, and rename it to `folder` when it is complete.

    Hold the cache's lock. `partial` may contain the files of an earlier attempt. After an exception, also one from a
    signal handler, it ends within the time of one image. Raises UserError, which names all unusable files.
    """
    partial.mkdir(exist_ok=True)
    journal = partial / _JOURNAL
    for split, sources in found.splits.items():
        _create(partial, split, len(sources), side)
    every = list(_blocks(found, side))
    done = _finished(partial, every)
    bad: list[tuple[str, str]] = []
    total = sum(map(len, found.splits.values()))
    kept = sum(len(block.sources) for block in every if block in done)
    progress(
        f"converting {total:,} images to {side} × {side} pixels with {threads} threads"
        + (f"; {kept:,} are there from an attempt that was cut" if kept else "")
    )
    cancelled = threading.Event()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="dydist-convert")
    began = told = time.monotonic()
    count = 0
    try:
        with picture_warnings(), journal.open("a", encoding="utf-8") as log:
            tasks = {
                pool.submit(_convert, found.root, block, side, partial, bad, cancelled): block
                for block in every
                if block not in done
            }
            for task in as_completed(tasks):
                block, result = tasks[task], task.result()
                if result is not None:
                    done[block] = result
                    log.write(json.dumps([block.split, block.start, *astuple(result)]) + "\n")
                    log.flush()
                count += len(block.sources)
                if (now := time.monotonic()) > told + REPORT_S:
                    told, rate = now, count / (now - began)
                    left = (total - kept - count) / rate
                    progress(f"{kept + count:,} of {total:,} images, {rate:,.0f}/s, {left:,.0f} s left")
    finally:
        cancelled.set()
        pool.shutdown(wait=True, cancel_futures=True)
    if bad:
        listing = partial.parent / f"{folder.name}{BAD_FILES}"
        raise _unusable(found.root, sorted(bad), listing)
    labels = {
        split: np.array([one.label for one in sources], dtype=np.int64)
        for split, sources in found.splits.items()
    }
    train = [done[block] for block in every if block.split == "train"]
    mean, std = mean_and_std_of_sums(
        np.sum([block.values for block in train], axis=0),
        np.sum([block.squares for block in train], axis=0),
        len(found.splits["train"]) * side**2,
    )
    finish_cached(partial, folder, found.classes, labels, mean=mean, std=std)
    (folder / _JOURNAL).unlink(missing_ok=True)  # only now: a kill while it is hashed loses nothing
    progress(f"converted {total:,} images in {time.monotonic() - began:.1f} s to {folder}")


def _create(partial: Path, split: str, count: int, side: int) -> None:
    """Create a split's file with its header, unless it exists with its full length."""
    path, shape = partial / f"{split}-images.npy", (count, 3, side, side)
    with suppress(OSError, ValueError):
        if np.load(path, mmap_mode="r", allow_pickle=False).shape == shape:
            return
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)


def _blocks(found: Found, side: int) -> Iterator[_Block]:
    size = max(1, BLOCK_BYTES // (3 * side**2))
    for split, sources in found.splits.items():
        for start in range(0, len(sources), size):
            yield _Block(split, start, sources[start : start + size])


def _finished(partial: Path, every: list[_Block]) -> dict[_Block, _Done]:
    """The complete blocks of an earlier attempt."""
    known = {(block.split, block.start): block for block in every}
    found = {}
    with suppress(OSError):
        for line in (partial / _JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):  # the last line may be cut
                split, start, checksum, values, squares = json.loads(line)
                block = known[split, start]
                if zlib.crc32(_stored(partial, block).data) == checksum:
                    found[block] = _Done(checksum, tuple(values), tuple(squares))
    return found


def _stored(partial: Path, block: _Block) -> np.ndarray:
    """A block's images as they are in the file: uint8 [n, 3, side, side]."""
    images = np.load(partial / f"{block.split}-images.npy", mmap_mode="r", allow_pickle=False)
    return np.ascontiguousarray(images[block.start : block.start + len(block.sources)])


def _convert(
    root: Path,
    block: _Block,
    side: int,
    partial: Path,
    bad: list[tuple[str, str]],
    cancelled: threading.Event,
) -> _Done | None:
    """Write a block to its file; None if it is not complete. Unusable files are added to `bad`."""
    images = np.empty((len(block.sources), 3, side, side), dtype=np.uint8)
    whole = True
    for row, source in enumerate(block.sources):
        if cancelled.is_set():
            return None
        try:
            images[row] = decode_picture(os.path.join(root, source.path), side)
        except PictureError as error:
            bad.append((source.path, str(error)))
            whole = False
    if not whole:
        return None
    path = partial / f"{block.split}-images.npy"
    offset = np.lib.format.open_memmap(path, mode="r").offset + block.start * images[0].nbytes
    # by write(), not through a mapping: on a full disk a write raises, but a mapped page would kill the process
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(images.data)
    values, squares = (
        sum(np.power(image, power, dtype=np.uint32).sum((1, 2), dtype=np.uint64) for image in images)
        for power in (1, 2)
    )
    return _Done(zlib.crc32(images.data), tuple(values.tolist()), tuple(squares.tolist()))


def _unusable(root: Path, bad: list[tuple[str, str]], listing: Path) -> UserError:
    """The error about bad files, with SHOWN of them; the file `listing` gets all."""
    lines = [f"{shown(path)}: {' '.join(reason.split())[:200]}" for path, reason in bad]
    told = ""
    with suppress(OSError):
        listing.write_text("\n".join(lines) + "\n", encoding="utf-8")
        told = f" (all of them: {listing})"
    if len(lines) > SHOWN:
        lines[SHOWN:] = [f"and {len(lines) - SHOWN:,} more{told}"]
    text = "\n  ".join(lines)
    return UserError(
        f"data.root: {len(bad):,} files in {shown(root)} cannot be used; replace or remove them, and start again:\n"
        f"  {text}"
    )
