"""Checks of one node. Each returns its findings, none if all is well."""

from __future__ import annotations

import csv
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

RUN_FREE_BYTES = 1 << 30
"""Free bytes that a run folder needs, for some checkpoints and logs."""
SCRATCH_FREE_BYTES = 256 << 20
CLOCK_NOTE_S, CLOCK_BAD_S = 2.0, 60.0
"""A larger clock offset is reported; bad, since leases and signed storage requests depend on time."""
GPU_USED_SHARE = 0.1
"""If more of a GPU's memory is in use before the start, another program uses the GPU."""
PACKAGES = ("torch", "accelerate", "numpy", "safetensors", "deepspeed")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A finding of level `bad` (the node must not run the job) or `note`.

    `shared`: not specific to this node. `passing`: transient, such as a store that does not answer.
    """

    level: Literal["bad", "note"]
    text: str
    shared: bool = False
    passing: bool = False


def check_disk(
    folder: Path, *, free: int = RUN_FREE_BYTES, scratch_free: int = SCRATCH_FREE_BYTES
) -> Iterator[Finding]:
    """Check free space for the run and for temporary files."""
    places = ((folder, free, True), (Path(tempfile.gettempdir()), scratch_free, False))
    for path, needed, shared in places:
        yield from check_room(path, needed, shared=shared)


def check_room(path: Path, needed: int, *, shared: bool) -> Iterator[Finding]:
    """Check that `needed` bytes are free where `path` is, or will be."""
    existing = next(one for one in (path, *path.parents) if one.exists())
    left = shutil.disk_usage(existing).free
    if left < needed:
        text = f"{existing} has {left / 2**20:.0f} MiB free, {needed / 2**20:.0f} are needed; make room"
        yield Finding(level="bad", text=text, shared=shared)


def check_storage(folder: Path) -> Iterator[Finding]:
    """Check that a file can be written, read back and deleted."""
    content = os.urandom(4096)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "probe"
        file.write_bytes(content)
        if file.read_bytes() != content:
            yield Finding(level="bad", text=f"{folder} gives back other bytes than were written")
        file.unlink()
    except OSError as error:
        yield Finding(level="bad", text=f"{folder} cannot be written ({error.strerror})", shared=True)


def check_clock(folder: Path) -> tuple[float, list[Finding]]:
    """Seconds by which this node's clock is ahead of the file server's, which stamps files."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / "clock"
        before = time.time()
        file.write_bytes(b"")
        stamp = file.stat().st_mtime
        after = time.time()
        file.unlink()
    except OSError:
        return 0.0, []  # check_storage reports it
    skew = before - stamp if stamp < before else min(0.0, after - stamp)
    if abs(skew) <= CLOCK_NOTE_S:
        return skew, []
    level: Literal["bad", "note"] = "bad" if abs(skew) > CLOCK_BAD_S else "note"
    return skew, [Finding(level=level, text=f"the clock is {skew:+.1f} s off the file server's; start NTP")]


def versions() -> dict[str, str]:
    """The versions that must be equal on all nodes."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "none"
    return found


GPU_FIELDS = (
    "index", "name", "memory.used", "memory.total", "ecc.errors.uncorrected.volatile.total", "clocks.sm",
    "clocks.max.sm", "clocks_throttle_reasons.hw_slowdown",
)  # fmt: skip


NOT_FREE = "is not free"
GPU_FREE_S = 30.0
"""Seconds for which memory of a GPU may still be in use."""


def check_gpus(wanted: int) -> list[Finding]:
    """Check that GPUs exist, are free, have no uncorrected memory errors, and are not throttled."""
    deadline = time.monotonic() + GPU_FREE_S
    found = _look_at_gpus(wanted)
    while any(NOT_FREE in one.text for one in found) and time.monotonic() < deadline:
        time.sleep(1)  # the memory of killed processes is freed a moment later
        found = _look_at_gpus(wanted)
    return found


def _look_at_gpus(wanted: int) -> list[Finding]:
    query = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(query, capture_output=True, encoding="utf-8", errors="replace", timeout=60)
    except FileNotFoundError:
        return [
            Finding(
                level="bad",
                text="no NVIDIA driver (nvidia-smi not found); use --cpu, or a partition with GPUs",
            )
        ]
    except subprocess.TimeoutExpired:
        return [Finding(level="bad", text="nvidia-smi does not answer within 60 s")]
    if result.returncode:
        return [
            Finding(
                level="bad", text=f"nvidia-smi failed: {' '.join((result.stdout + result.stderr).split())}"
            )
        ]
    return list(judge_gpus(result.stdout, wanted, os.environ.get("CUDA_VISIBLE_DEVICES")))


def judge_gpus(text: str, wanted: int, visible: str | None) -> Iterator[Finding]:
    """Findings from nvidia-smi's table. `visible`: CUDA_VISIBLE_DEVICES; only numbers in it select."""
    rows = [
        dict(zip(GPU_FIELDS, (cell.strip() for cell in row), strict=True))
        for row in csv.reader(text.splitlines())
        if row
    ]
    if visible is not None and all(part.strip().isdigit() for part in visible.split(",")):
        ours = {part.strip() for part in visible.split(",")}
        rows = [row for row in rows if row["index"] in ours]
    if len(rows) < wanted:
        yield Finding(level="bad", text=f"{len(rows)} GPUs are visible, {wanted} are needed")
    for row in rows:
        who = f"GPU {row['index']} ({row['name']})"
        used, total = _number(row["memory.used"]), _number(row["memory.total"])
        if used is not None and total and used / total > GPU_USED_SHARE:
            yield Finding(level="bad", text=f"{who} {NOT_FREE}: {used:.0f} of {total:.0f} MiB in use")
        if errors := _number(row["ecc.errors.uncorrected.volatile.total"]):
            yield Finding(level="bad", text=f"{who} has {errors:.0f} uncorrected ECC errors")
        if row["clocks_throttle_reasons.hw_slowdown"] == "Active":
            clocks = f"{row['clocks.sm']} of {row['clocks.max.sm']} MHz"
            yield Finding(level="note", text=f"{who} is slowed down by heat or power ({clocks})")


def _number(text: str) -> float | None:
    """A cell as a number; `[N/A]` is None."""
    try:
        return float(text)
    except ValueError:
        return None
