"""One save: each process writes its share and confirms it; process 0 commits the checkpoint."""

from __future__ import annotations

import hashlib
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dydist.checkpoint._context import TransferContext
from dydist.checkpoint._format import (
    STATE,
    FileEntry,
    Manifest,
    encode_json,
    part_file,
    read_json,
    tensor_file,
)
from dydist.errors import CancelledError, CheckpointError, DamagedError, UserError
from dydist.storage.names import MANIFEST, folder_name
from dydist.storage.protocol import Chunks, Storage

if TYPE_CHECKING:
    from torch import Tensor

    from dydist.checkpoint._tensors import HostCopy

FIRST_POLL_S = 0.005
LONGEST_POLL_S = 2.0
NOTICE_S = 30.0
"""Seconds after which a note names the processes that have not confirmed their share."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The writer of a save: the run, its cluster job ("" if none), this process, and the host of each process."""

    run: str
    job: str
    rank: int
    world_size: int
    hosts: tuple[str, ...]

    @property
    def host(self) -> str:
        return self.hosts[self.rank]

    def name(self, rank: int) -> str:
        """The name of a process in messages."""
        return f"process {rank} ({self.hosts[rank]})"


@dataclass(kw_only=True, eq=False)
class Save:
    """A save on this process. `shares`: share → kind → name → host copy, for the shares that this process writes.

    `phase` goes queued → writing → (staged → uploading →) done, failed or cancelled. `started` and `deadline` are
    times of the pipeline's monotonic clock. `sources`: the files that this process uploads, from memory or the stage.
    """

    step: int
    attempt: str
    accuracy: float | None
    final: bool
    state: bytes
    shares: Mapping[int, Mapping[str, Mapping[str, Tensor]]]
    memory: HostCopy | None
    started: float
    deadline: float
    pause_s: float = 0.0
    phase: str = "queued"
    error: str | None = None
    bytes: int = 0
    sources: dict[str, Chunks] = field(default_factory=dict)
    close_sources: Callable[[], None] = lambda: None
    cancelled: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)

    @property
    def folder(self) -> str:
        return folder_name(self.step)

    def release_memory(self) -> None:
        """Release the host copy for the next save."""
        self.shares = {share: {} for share in self.shares}
        memory, self.memory = self.memory, None
        if memory is not None:
            memory.release()

    def close(self) -> None:
        """Release the host copy and the staged files once the save has ended."""
        self.close_sources()
        self.sources = {}
        self.release_memory()

    def files(self, shares: Sequence[int], world_size: int, *, with_state: bool) -> dict[str, Chunks]:
        """The files of some shares: name → chunks of bytes."""
        from dydist.checkpoint._tensors import encode

        result: dict[str, Chunks] = {}
        for share in shares:
            # Also put the state into a file of share 0, whose name is unique to this save, unlike state.json. Share 0
            # always has a file, since it contains the largest tensor.
            state = self.state.decode() if share == 0 else None
            for kind, tensors in self.shares[share].items():
                if tensors:
                    name = tensor_file(kind, share, world_size, self.attempt)
                    result[name] = lambda tensors=tensors, state=state: encode(tensors, state)  # type: ignore[misc]
                    state = None
        if with_state:
            result[STATE] = lambda: [self.state]
        return result


def write_part(
    storage: Storage,
    save: Save,
    files: Mapping[str, Chunks],
    rank: int,
    before_note: Callable[[], None] = lambda: None,
) -> None:
    """Write and hash files, call `before_note`, and write the part file that confirms them.

    Once the part file exists, process 0 may rename the files.
    """
    working = storage.working_folder(save.folder, save.attempt)
    entries = {name: write_hashed(storage, f"{working}/{name}", chunks) for name, chunks in files.items()}
    note = {"rank": rank, "attempt": save.attempt, "files": {n: vars(entry) for n, entry in entries.items()}}
    before_note()
    storage.write(f"{working}/{part_file(rank, save.attempt)}", lambda: [encode_json(note)])


def write_hashed(storage: Storage, name: str, chunks: Chunks) -> FileEntry:
    """Write a file; returns the size and SHA-256 of the bytes that were passed to the store."""
    digest, size = hashlib.sha256(), 0

    def tallied() -> Iterator[bytes | memoryview]:
        nonlocal digest, size
        digest, size = hashlib.sha256(), 0
        for chunk in chunks():
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    storage.write(name, tallied)
    return FileEntry(bytes=size, sha256=digest.hexdigest())


def commit(
    storage: Storage,
    save: Save,
    context: TransferContext,
    *,
    ranks: Sequence[int],
    deadline: float,
    may_commit: Callable[[], None],
) -> Manifest:
    """Wait until `ranks` have confirmed their parts, at most until `deadline`, then publish the manifest.

    `may_commit` is called just before, and raises if this run may no longer write to the store. Raises CheckpointError
    if some processes did not confirm in time; the message names them.
    """
    working = storage.working_folder(save.folder, save.attempt)
    files = _await_parts(storage, save, working, context, ranks, deadline)
    identity = context.identity
    manifest = Manifest(
        step=save.step,
        attempt=save.attempt,
        run=identity.run,
        job=identity.job,
        host=identity.host,
        written_at=context.clock.now(),
        accuracy=save.accuracy if save.accuracy is not None and math.isfinite(save.accuracy) else None,
        world_size=identity.world_size,
        files=files,
    )
    sizes = storage.files(working)
    for name, entry in files.items():
        if sizes.get(name) != entry.bytes:
            raise CheckpointError(f"{name} has {sizes.get(name)} bytes in {storage.url}, not {entry.bytes}")
    for rank in ranks:
        storage.delete(f"{working}/{part_file(rank, save.attempt)}")
    raw = manifest.encode()
    Manifest.decode(raw)  # raises if the manifest could not be read back
    replaced = _attempt_there(storage, working) if MANIFEST in sizes else None
    if save.cancelled.is_set():
        raise CancelledError("given up")
    may_commit()
    storage.publish(working, save.folder, raw)
    if replaced is not None and replaced != save.attempt:
        for name in [name for name in sizes if replaced in name]:
            storage.delete(f"{save.folder}/{name}")
    return manifest


def _attempt_there(storage: Storage, folder: str) -> str | None:
    """The attempt of the checkpoint that is already in a folder, set aside or damaged; None if it is unreadable."""
    try:
        return Manifest.decode(b"".join(storage.read(f"{folder}/{MANIFEST}"))).attempt
    except (FileNotFoundError, DamagedError, UserError):
        return None


def _await_parts(
    storage: Storage,
    save: Save,
    working: str,
    context: TransferContext,
    ranks: Sequence[int],
    deadline: float,
) -> dict[str, FileEntry]:
    clock, identity = context.clock.monotonic, context.identity
    files: dict[str, FileEntry] = {}
    missing = {part_file(rank, save.attempt): rank for rank in ranks}
    began, pause, told = clock(), FIRST_POLL_S, False
    while True:
        present = storage.files(working)
        for name in [name for name in missing if name in present]:
            try:
                note = read_json(b"".join(storage.read(f"{working}/{name}")))
                entries = {file: FileEntry.decode(file, entry) for file, entry in note["files"].items()}
            except (ValueError, KeyError, AttributeError, DamagedError):
                continue  # damaged in transfer: read it again
            files.update(entries)
            del missing[name]
        if not missing:
            return files
        if clock() >= deadline:
            raise CheckpointError(
                f"step {save.step}: {_unconfirmed(missing.values(), present, save, identity)} in time"
            )
        if not told and clock() - began > NOTICE_S:
            told = True
            context.on_note(
                f"step {save.step}: {_unconfirmed(missing.values(), present, save, identity)} yet; waiting",
                level="warning",
            )
        if save.cancelled.wait(min(pause, max(0.0, deadline - clock()))):
            raise CancelledError("given up")
        pause = min(pause * 1.5, LONGEST_POLL_S)


def _unconfirmed(ranks: object, present: Mapping[str, int], save: Save, identity: Identity) -> str:
    named = []
    for rank in sorted(ranks):  # type: ignore[call-overload]
        marks = (f"-{rank:05d}-of-{identity.world_size:05d}-{save.attempt}.safetensors",)
        begun = any(name.endswith(marks) for name in present)
        named.append(f"{identity.name(rank)}, which {'is still writing' if begun else 'wrote nothing'},")
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    return f"{' and '.join(named[:8])}{more} did not confirm its share"
