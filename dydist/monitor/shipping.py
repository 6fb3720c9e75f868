"""A log folder on a remote store: what the local event files gained is uploaded in segments, never twice.

A segment is a run of whole records, stored as `<event file>.<offset>`. TensorBoard reads the segments of a
folder in the order of their names as one log. What a kill left unsent is sent by the next start.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec

from dydist.monitor.eventlog import event_files, whole_records

SEGMENT_S = 30.0
"""Seconds between uploads: how far a remote log may be behind."""
_CLOSE_S = 60.0


class Shipper:
    """Uploads from a thread. A store that fails is told once a failure's start, and tried again each time."""

    def __init__(
        self,
        folder: Path,
        url: str,
        *,
        options: Mapping[str, Any],
        tell: Callable[[str, str], None],
        every_s: float = SEGMENT_S,
    ) -> None:
        """`tell(text, level)` may be called from the thread."""
        self._folder, self._url, self._options, self._tell = folder, url.rstrip("/"), options, tell
        self._sent: dict[str, int] | None = None
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(every_s,), name="dydist-log-upload", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Send the rest; give up after a minute, for a store that hangs must not keep a run from ending."""
        self._stop.set()
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive() or self._failing:
            self._tell(
                f"the end of the TensorBoard log is not at {self._url}; it is in {self._folder}", "warning"
            )

    def _work(self, every_s: float) -> None:
        while True:
            last = self._stop.wait(every_s)
            try:
                self._send()
            except Exception as error:  # any store, any error: training must not care
                if not self._failing:
                    self._tell(
                        f"TensorBoard log: cannot write to {self._url}: {error!r}; trying on", "warning"
                    )
                self._failing = True
            else:
                if self._failing:
                    self._tell(f"TensorBoard log: {self._url} takes writes again", "info")
                self._failing = False
            if last:
                return

    def _send(self) -> None:
        store, root = fsspec.url_to_fs(self._url, **self._options)
        if self._sent is None:
            store.makedirs(root, exist_ok=True)
            self._sent = _already_there(store, root)
        for path in event_files(self._folder):
            offset = self._sent.get(path.name, 0)
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read()
            segment = data[: whole_records(data)]
            if segment:
                store.pipe_file(f"{root}/{path.name}.{offset:012d}", segment)
                self._sent[path.name] = offset + len(segment)


def _already_there(store: Any, root: str) -> dict[str, int]:
    """Where to go on in each event file: at its newest segment, which an interrupted upload may have cut short."""
    sent: dict[str, int] = {}
    try:
        entries = store.ls(root, detail=False)
    except FileNotFoundError:  # an object store has no empty folders
        return sent
    for entry in entries:
        name, _, offset = str(entry).rsplit("/", 1)[-1].rpartition(".")
        if offset.isdigit() and len(offset) == 12:
            sent[name] = max(sent.get(name, 0), int(offset))
    return sent
