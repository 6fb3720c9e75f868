"""Removing superseded checkpoints and the files of torn saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from dydist.checkpoint._catalog import CheckpointFolder, inspect, survey, verify
from dydist.checkpoint._format import STATE
from dydist.checkpoint._policy import superseded
from dydist.errors import DamagedError
from dydist.storage.names import MANIFEST, leftover_step, step_of
from dydist.storage.protocol import Storage

TORN_AGE_S = 24 * 3600.0
"""Seconds for which the files of a torn save are kept, for inspection and for slow writers to finish."""


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Which checkpoints are kept (CheckpointConfig has the same fields)."""

    keep: int
    keep_every_steps: int | None = None
    keep_best: bool = True


def prune(
    storage: Storage,
    rule: Keep,
    *,
    now: float,
    dry_run: bool = False,
    on_damaged: Callable[[str], None] = lambda text: None,
    trusted: set[str] | None = None,
) -> list[CheckpointFolder]:
    """Remove superseded checkpoints, and files of torn saves older than a day; returns the removed checkpoints.

    A checkpoint that supersedes others is read back completely before they are removed, since it may be damaged.
    `trusted`: attempts verified earlier, which are not read again; newly verified attempts are added. `now` is in
    seconds since 1970. `on_damaged` is called with a message for each checkpoint that cannot be loaded.
    """
    trusted = set() if trusted is None else trusted
    found = survey(storage)
    while True:
        live = [f for f in found if f.problem is None and not f.set_aside]
        if not live:
            return []
        newest = live[0]
        goners = set(
            superseded(
                found,
                verified=newest.step,
                keep=rule.keep,
                keep_every_steps=rule.keep_every_steps,
                keep_best=rule.keep_best,
            )
        )
        doubtful = next((f for f in live if f.folder not in goners and f.intact.attempt not in trusted), None)
        if doubtful is None or (not goners and doubtful is not newest):
            break
        try:
            verify(storage, doubtful)
        except DamagedError as error:
            on_damaged(f"{storage.url}: the bytes that were written do not come back: {error}")
            found = [replace(f, problem=str(error)) if f is doubtful else f for f in found]
        else:
            trusted.add(doubtful.intact.attempt)
    removed = [f for f in found if f.folder in goners]
    if not dry_run:
        for item in removed:
            storage.delete_folder(item.folder)
        sweep(storage, [f for f in found if f not in removed], newest, now=now)
    return removed


def sweep(storage: Storage, found: list[CheckpointFolder], newest: CheckpointFolder, *, now: float) -> None:
    """Remove files of torn saves not modified for a day, and files in the newest checkpoint that it does not list."""

    def old(folder: str) -> bool:
        changed = storage.modified(folder)
        return changed is not None and now - changed > TORN_AGE_S

    for folder in storage.folders():
        if leftover_step(folder) is not None and old(folder):
            storage.delete_folder(folder)
    for item in found:
        torn = item.manifest is None and item.step != newest.step and old(item.folder)
        if torn and MANIFEST not in storage.files(item.folder):  # damaged checkpoints are kept for inspection
            storage.delete_folder(item.folder)
    # Not at once: a slower save of the same step may still write there, and must not commit removed files.
    strays = [name for name in storage.files(newest.folder) if name not in newest.intact.files]
    if strays != [MANIFEST] and old(newest.folder):
        for name in strays:
            if name != MANIFEST:
                storage.delete(f"{newest.folder}/{name}")


def remove_attempt(storage: Storage, folder: str, attempt: str) -> None:
    """Remove the files of a save that failed or was cancelled.

    Does nothing if it was committed after all: its last request took effect, but the response was lost.
    """
    working = storage.working_folder(folder, attempt)
    if working != folder:
        storage.delete_folder(working)
        return
    if step_of(folder) is None:
        return
    there = inspect(storage, folder).manifest
    if there is not None and there.attempt == attempt:
        return
    names = storage.files(folder)
    torn = [name for name in names if attempt in name]
    if MANIFEST not in names and set(names) <= {*torn, STATE}:
        storage.delete_folder(folder)
    else:
        for name in torn:
            storage.delete(f"{folder}/{name}")
