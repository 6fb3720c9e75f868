"""Checks that this node can write to the checkpoint store, with the storage code that saves use."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from dydist.checkpoint import Retrying, Storage, explain, is_transient, open_storage, scrub
from dydist.config import CheckpointConfig
from dydist.errors import UserError
from dydist.jobs.node.checks import CLOCK_BAD_S, CLOCK_NOTE_S, RUN_FREE_BYTES, Finding, check_room

LIMIT_S = 30.0
"""Seconds after which a write of four kilobytes counts as failed."""
STAMP_S = 1.0
"""Resolution of a store's time stamps."""


def check_place(config: CheckpointConfig, workdir: Path, *, limit_s: float = LIMIT_S) -> list[Finding]:
    """Write to `checkpoint.url`, read back, compare clocks, delete. No findings if no URL is given."""
    if config.url is None:
        return []
    url, found = config.url, list[Finding]()
    if "://" not in url:
        url = str(workdir / os.path.expanduser(url))
        found += check_room(Path(url), RUN_FREE_BYTES, shared=True)
    ended = threading.Event()

    def check() -> None:
        try:
            found.extend(_check(open_storage(url, config.storage_options), url, limit_s))
        finally:
            ended.set()

    # A daemon thread: a hanging call in the store's library cannot be interrupted, and must not block the node.
    threading.Thread(target=check, name="dydist-place-check", daemon=True).start()
    if not ended.wait(limit_s):
        text = f"checkpoint.url: {scrub(url)} does not answer within {limit_s:g} s"
        return [Finding(level="bad", text=text, shared=True, passing=True)]
    return found


def _check(inner: Storage, url: str, limit_s: float) -> Iterator[Finding]:
    storage = Retrying(
        inner,
        deadline=time.monotonic()
        + 0.8 * limit_s,  # so that the store's own error is reported, if there is one
        clock=time.monotonic,
        cancelled=threading.Event(),
    )
    content, folder = os.urandom(4096), f".preflight-{uuid.uuid4().hex[:12]}"
    try:
        storage.write(f"{folder}/probe", lambda: [content])
        written = time.time()
        stamp = storage.modified(folder)
        same = b"".join(storage.read(f"{folder}/probe")) == content
        storage.delete_folder(folder)
    except (UserError, ImportError) as error:
        yield Finding(level="bad", text=f"checkpoint.url: {explain(error)}", shared=True)
    except BaseException as error:  # a store's library may raise anything, even asyncio's CancelledError
        text = f"checkpoint.url: {scrub(url)} cannot be written: {explain(error)}"
        yield Finding(level="bad", text=text, shared=True, passing=is_transient(error))
    else:
        if not same:
            yield Finding(
                level="bad", text=f"checkpoint.url: {scrub(url)} gives back other bytes than were written"
            )
        if stamp is not None and (off := abs(written - stamp) - STAMP_S) > CLOCK_NOTE_S:
            text = f"the clock is {written - stamp:+.0f} s off that of {scrub(url)}; start NTP"
            yield Finding(level="bad" if off > CLOCK_BAD_S else "note", text=text)
