"""Copying one checkpoint from one store to another: verified, and continued after an interruption."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dydist.checkpoint._catalog import (
    CheckpointFolder,
    checked,
    inspect,
    read_checked,
    require_weights,
    state_bytes,
)
from dydist.checkpoint._content import Seen
from dydist.checkpoint._format import STATE
from dydist.errors import CheckpointError, DamagedError
from dydist.storage.protocol import Storage


def copy_checkpoint(
    source: Storage,
    target: Storage,
    found: CheckpointFolder,
    *,
    may_commit: Callable[[], None] = lambda: None,
    on_file: Callable[[str, int, bool], None] = lambda name, size, copied: None,
) -> bool:
    """Copy a checkpoint; returns False if the target already has it complete.

    Files left by an interrupted copy are read back and kept if their hash matches. The manifest is written last.
    `on_file` is called with each file's name, bytes, and whether it was copied. Raises DamagedError if the source is
    damaged, and CheckpointError if the target does not return the bytes that were written.
    """
    manifest = found.intact
    there = inspect(target, found.folder)
    if there.problem is None and there.manifest == manifest:
        return False
    working = target.working_folder(found.folder, manifest.attempt)
    present = target.files(working)
    seen: Seen = {}

    def holds(name: str) -> bool:
        """Whether the target returns the source's bytes, in a form that can be loaded."""
        try:
            for _ in checked(target, f"{working}/{name}", manifest.files[name], manifest.step, seen):
                pass
        except DamagedError:
            return False
        return True

    for name, entry in manifest.files.items():
        if present.get(name) == entry.bytes and holds(name):
            on_file(name, entry.bytes, False)
            continue

        def chunks(name: str = name) -> Iterable[bytes]:
            return [state_bytes(source, found)] if name == STATE else read_checked(source, found, name, seen)

        target.write(f"{working}/{name}", chunks)
        if not holds(name):
            raise CheckpointError(f"{target.url}: {found.folder}/{name} was not stored as it was sent")
        on_file(name, entry.bytes, True)
    require_weights(found, seen)
    may_commit()
    target.publish(working, found.folder, manifest.encode())
    return True
