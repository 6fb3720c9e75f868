"""Reading a store: which folders are checkpoints, whether their bytes are intact, and what they contain."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dydist.checkpoint._content import Content, Seen, embedded_state, read_state
from dydist.checkpoint._format import KINDS, STATE, TENSOR_FILE, FileEntry, Manifest, aside_file
from dydist.errors import DamagedError
from dydist.storage.names import MANIFEST, STEP_PREFIX, step_of
from dydist.storage.protocol import Storage, written_in_place

if TYPE_CHECKING:
    from torch import Tensor

    from dydist.checkpoint._tensors import TrainingState

MANIFEST_LIMIT = 64 << 20
"""Maximum bytes of a manifest. A larger file is damaged, and is not read into memory."""
AT_ONCE = 16
"""Checkpoints that a survey inspects concurrently, since each takes a request or more to the store."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFolder:
    """A checkpoint's folder. `problem`: why it is not a checkpoint; None if the file sizes match the manifest."""

    folder: str
    step: int
    manifest: Manifest | None
    problem: str | None
    set_aside: bool
    bytes: int

    @property
    def intact(self) -> Manifest:
        """The manifest. Raises DamagedError if the folder is not a checkpoint."""
        if self.manifest is None or self.problem is not None:
            raise DamagedError(f"{self.folder}: {self.problem}")
        return self.manifest


def survey(storage: Storage) -> list[CheckpointFolder]:
    """Every checkpoint folder of a store, highest step first; reads manifests and sizes, not tensors.

    A folder that may not be read is reported as a checkpoint with a problem. If that holds for every folder, the
    store itself refuses access, and PermissionError is raised. Raises NewerFormatError if a newer dydist wrote one.
    """
    listing = storage.listing(STEP_PREFIX)
    names = storage.folders() if listing is None else listing
    steps = sorted(((step, name) for name in names if (step := step_of(name)) is not None), reverse=True)
    if not steps:
        return []

    def look(step: tuple[int, str]) -> tuple[CheckpointFolder, PermissionError | None]:
        return _look(storage, step[1], None if listing is None else listing[step[1]])

    with ThreadPoolExecutor(min(AT_ONCE, len(steps)), "dydist-survey") as pool:
        looked = list(pool.map(look, steps))
    refused = [error for _, error in looked if error is not None]
    if len(refused) == len(looked):
        raise refused[0]
    return [found for found, _ in looked]


def _look(
    storage: Storage, folder: str, sizes: dict[str, int] | None
) -> tuple[CheckpointFolder, PermissionError | None]:
    try:
        return inspect(storage, folder, sizes), None
    except PermissionError as error:
        step = step_of(folder)
        assert step is not None
        problem = f"it may not be read: {error.strerror or error}"
        return CheckpointFolder(
            folder=folder, step=step, manifest=None, problem=problem, set_aside=False, bytes=0
        ), error


def inspect(storage: Storage, folder: str, sizes: dict[str, int] | None = None) -> CheckpointFolder:
    """Inspect one checkpoint folder. `sizes`: bytes of its files, if they are known already."""
    step = step_of(folder)
    assert step is not None, folder
    manifest, problem = None, None
    sizes = storage.files(folder) if sizes is None else sizes
    try:
        manifest = _read_manifest(storage, folder, sizes)
        if manifest.step != step:
            raise DamagedError(f"{MANIFEST} is of step {manifest.step}")
        if manifest.lack is not None:
            raise DamagedError(manifest.lack)
        for name, entry in manifest.files.items():
            if sizes.get(name) == entry.bytes:
                continue
            if name == STATE and written_in_place(storage):
                _embedded(storage, folder, manifest)
            elif name not in sizes:
                raise DamagedError(f"{name} is missing")
            else:
                raise DamagedError(f"{name} has {sizes[name]:,} bytes, not {entry.bytes:,}")
    except DamagedError as error:
        problem = str(error)
    return CheckpointFolder(
        folder=folder,
        step=step,
        manifest=manifest,
        problem=problem,
        set_aside=manifest is not None and aside_file(manifest.attempt) in sizes,
        bytes=sum(sizes.values()),
    )


def _read_manifest(storage: Storage, folder: str, sizes: dict[str, int]) -> Manifest:
    if MANIFEST not in sizes:
        raise DamagedError(f"no {MANIFEST}: the save never finished")
    if sizes[MANIFEST] > MANIFEST_LIMIT:
        raise DamagedError(f"{MANIFEST} has {sizes[MANIFEST]:,} bytes, which no manifest has")
    name = f"{folder}/{MANIFEST}"
    try:
        return Manifest.decode(b"".join(storage.read(name)))
    except FileNotFoundError:
        raise DamagedError(f"no {MANIFEST}: the save never finished") from None
    except DamagedError:  # a transfer may have damaged it: read it once more
        return Manifest.decode(b"".join(storage.read(name)))


def read_checked(
    storage: Storage, found: CheckpointFolder, name: str, seen: Seen | None = None
) -> Iterator[bytes]:
    """A file's bytes in chunks. Raises DamagedError after the last one if size or hash differ from the manifest, or
    if the file cannot be loaded. `seen`: the tensors of the checkpoint's files read so far."""
    manifest = found.intact
    yield from checked(storage, f"{found.folder}/{name}", manifest.files[name], manifest.step, seen)


def checked(
    storage: Storage, path: str, entry: FileEntry, step: int, seen: Seen | None = None
) -> Iterator[bytes]:
    """As `read_checked`, for a file that need not belong to a committed checkpoint."""
    name, digest, size = path.rpartition("/")[2], hashlib.sha256(), 0
    folder = path.rpartition("/")[0]
    content = Content(name, entry.bytes, step)
    try:
        for chunk in storage.read(path):
            digest.update(chunk)
            content.feed(chunk)
            size += len(chunk)
            yield chunk
    except FileNotFoundError:
        raise DamagedError(f"{folder}: {name} is missing") from None
    if size != entry.bytes:
        raise DamagedError(f"{folder}: {name} has {size:,} bytes, not {entry.bytes:,}")
    if digest.hexdigest() != entry.sha256:
        raise DamagedError(f"{folder}: {name} does not match its SHA-256")
    try:
        content.check({} if seen is None else seen)
    except ValueError as error:
        raise DamagedError(f"{folder}: {name} cannot be loaded: {error}") from None


def verify(storage: Storage, found: CheckpointFolder) -> None:
    """Read every byte, one chunk at a time. Raises DamagedError, which names the file."""
    seen: Seen = {}
    for name in found.intact.files:
        if name == STATE:
            _state(storage, found)
            continue
        try:
            for _ in read_checked(storage, found, name, seen):
                pass
        except DamagedError:  # a transfer may have damaged it: read it once more
            for _ in read_checked(storage, found, name, seen):
                pass
    require_weights(found, seen)


def require_weights(found: CheckpointFolder, seen: Seen) -> None:
    """Raise DamagedError if the files that were read contain no weights."""
    if not any(kind == "model" for kind, _ in seen):
        raise DamagedError(f"{found.folder}: its files hold no weights")


def load(storage: Storage, found: CheckpointFolder, kinds: tuple[str, ...] = KINDS) -> TrainingState:
    """Read state.json and the tensors of `kinds`; verifies every byte that it reads."""
    from dydist.checkpoint._tensors import TrainingState, decode

    manifest = found.intact
    tensors: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    seen: Seen = {}
    for name in manifest.files:
        kind = name.partition("-")[0]
        if kind in kinds and name.endswith(".safetensors"):
            tensors[kind].update(decode(_whole(storage, found, name, seen)))
    if "model" in kinds:
        require_weights(found, seen)
    return TrainingState(step=manifest.step, extra=_state(storage, found), **tensors)


def _state(storage: Storage, found: CheckpointFolder) -> dict[str, Any]:
    try:
        return read_state(state_bytes(storage, found), found.step)
    except ValueError as error:
        raise DamagedError(f"{found.folder}: {STATE} cannot be loaded: {error}") from None


def state_bytes(storage: Storage, found: CheckpointFolder) -> bytes:
    """The verified content of state.json, even if another save has overwritten that file."""
    try:
        return _whole(storage, found, STATE)
    except DamagedError:
        if not written_in_place(storage):
            raise
        return _embedded(storage, found.folder, found.intact)


def _embedded(storage: Storage, folder: str, manifest: Manifest) -> bytes:
    """The content of state.json from a tensor file's header, which no other save can overwrite.

    On a store without rename, a save writes into the checkpoint's folder directly. A run that was presumed dead may
    then overwrite `state.json` with its own, for the same step, after this checkpoint was committed.
    """
    for name, entry in manifest.files.items():
        match = TENSOR_FILE.fullmatch(name)
        if match and int(match[2]) == 0:
            state = embedded_state(b"".join(checked(storage, f"{folder}/{name}", entry, manifest.step)))
            if state is not None and hashlib.sha256(state).hexdigest() == manifest.files[STATE].sha256:
                return state
    raise DamagedError(f"{folder}: {STATE} does not match its SHA-256, and no tensor file holds its bytes")


def _whole(storage: Storage, found: CheckpointFolder, name: str, seen: Seen | None = None) -> bytes:
    try:
        return b"".join(read_checked(storage, found, name, seen))
    except DamagedError:  # a transfer may have damaged it: read it once more
        return b"".join(read_checked(storage, found, name, seen))
