"""What lies in a place: which folders are checkpoints, whether their bytes are right, and what they hold."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dydist.checkpoint._errors import DamagedError
from dydist.checkpoint._format import KINDS, MANIFEST, STATE, Manifest, aside_file, step_of
from dydist.checkpoint._storage import Storage

if TYPE_CHECKING:
    from dydist.checkpoint._tensors import TrainingState

MANIFEST_LIMIT = 64 << 20
"""A manifest is never larger; a file that is has been damaged, and is not read into memory."""
AT_ONCE = 16
"""Checkpoints that a survey looks at together: each costs a few requests, and a request to a far store takes long."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """A checkpoint's folder. `problem` says why it is not a checkpoint; None: sizes and manifest agree."""

    folder: str
    step: int
    manifest: Manifest | None
    problem: str | None
    set_aside: bool
    bytes: int

    @property
    def intact(self) -> Manifest:
        """The manifest. Raises DamagedError where the folder is not a checkpoint."""
        if self.manifest is None or self.problem is not None:
            raise DamagedError(f"{self.folder}: {self.problem}")
        return self.manifest


def survey(storage: Storage) -> list[Found]:
    """Every checkpoint folder of a place, highest step first; reads manifests and sizes, not the tensors.

    Raises NewerFormatError where one was written by a newer dydist.
    """
    steps = sorted(
        ((step, name) for name in storage.folders() if (step := step_of(name)) is not None), reverse=True
    )
    if not steps:
        return []
    with ThreadPoolExecutor(min(AT_ONCE, len(steps)), "dydist-survey") as pool:
        return list(pool.map(lambda step: inspect(storage, step[1]), steps))


def inspect(storage: Storage, folder: str) -> Found:
    """One checkpoint folder, by its manifest and sizes."""
    step = step_of(folder)
    assert step is not None, folder
    sizes = storage.files(folder)
    manifest, problem = None, None
    try:
        manifest = _read_manifest(storage, folder, sizes)
        if manifest.step != step:
            raise DamagedError(f"{MANIFEST} is of step {manifest.step}")
        for name, entry in manifest.files.items():
            if name not in sizes:
                raise DamagedError(f"{name} is missing")
            if sizes[name] != entry.bytes:
                raise DamagedError(f"{name} has {sizes[name]:,} bytes, not {entry.bytes:,}")
    except DamagedError as error:
        problem = str(error)
    return Found(
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
    except DamagedError:  # bytes may have been spoilt on the way: believe it the second time
        return Manifest.decode(b"".join(storage.read(name)))


def read_checked(storage: Storage, found: Found, name: str) -> Iterator[bytes]:
    """A file's bytes in chunks; DamagedError after the last one if size or hash are not the manifest's."""
    entry = found.intact.files[name]
    digest, size = hashlib.sha256(), 0
    try:
        for chunk in storage.read(f"{found.folder}/{name}"):
            digest.update(chunk)
            size += len(chunk)
            yield chunk
    except FileNotFoundError:
        raise DamagedError(f"{found.folder}: {name} is missing") from None
    if size != entry.bytes:
        raise DamagedError(f"{found.folder}: {name} has {size:,} bytes, not {entry.bytes:,}")
    if digest.hexdigest() != entry.sha256:
        raise DamagedError(f"{found.folder}: {name} does not match its SHA-256")


def verify(storage: Storage, found: Found) -> None:
    """Read every byte. Raises DamagedError that names the file; memory stays at one chunk."""
    for name in found.intact.files:
        try:
            for _ in read_checked(storage, found, name):
                pass
        except DamagedError:  # believe it the second time
            for _ in read_checked(storage, found, name):
                pass


def load(storage: Storage, found: Found, kinds: tuple[str, ...] = KINDS) -> TrainingState:
    """Read a checkpoint's tensors (of some kinds of file) and state.json, every byte verified on the way."""
    from dydist.checkpoint._tensors import TrainingState, decode

    manifest = found.intact
    tensors: dict[str, dict] = {kind: {} for kind in KINDS}
    for name in manifest.files:
        kind = name.partition("-")[0]
        if kind in kinds and name.endswith(".safetensors"):
            tensors[kind].update(decode(_whole(storage, found, name)))
    extra = json.loads(_whole(storage, found, STATE))
    return TrainingState(step=manifest.step, extra=extra, **tensors)


def _whole(storage: Storage, found: Found, name: str) -> bytes:
    try:
        return b"".join(read_checked(storage, found, name))
    except DamagedError:  # believe it the second time
        return b"".join(read_checked(storage, found, name))
