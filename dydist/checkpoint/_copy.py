"""Copying one checkpoint from a place to another: verified on the way, and gone on with where it was cut."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from dydist.checkpoint._catalog import Found, inspect, read_checked
from dydist.checkpoint._errors import DamagedError
from dydist.checkpoint._storage import Storage


def copy_checkpoint(
    source: Storage,
    target: Storage,
    found: Found,
    *,
    may_commit: Callable[[], None] = lambda: None,
    on_file: Callable[[str, int, bool], None] = lambda name, size, copied: None,
) -> bool:
    """Copy a checkpoint; False where the target had it already, whole.

    Files that an earlier, cut copy left there are read back and kept where their hash is right. The manifest comes
    last, as always. `on_file` is told each file's name, bytes, and whether it had to be copied. Raises DamagedError
    where the source is, or where the target gives other bytes back.
    """
    manifest = found.intact
    there = inspect(target, found.folder)
    if there.problem is None and there.manifest == manifest:
        return False
    working = target.working_folder(found.folder, manifest.attempt)
    present = target.files(working)
    for name, entry in manifest.files.items():
        path = f"{working}/{name}"
        if present.get(name) == entry.bytes and _hash(target, path) == entry.sha256:
            on_file(name, entry.bytes, False)
            continue

        def chunks(name: str = name) -> Iterator[bytes]:
            return read_checked(source, found, name)

        target.write(path, chunks)
        if _hash(target, path) != entry.sha256:
            raise DamagedError(f"{target.url}: {found.folder}/{name} was not stored as it was sent")
        on_file(name, entry.bytes, True)
    may_commit()
    target.publish(working, found.folder, manifest.encode())
    return True


def _hash(storage: Storage, name: str) -> str:
    digest = hashlib.sha256()
    for chunk in storage.read(name):
        digest.update(chunk)
    return digest.hexdigest()
