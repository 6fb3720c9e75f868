"""A log folder on a remote store: what the local event files gained is uploaded in segments, never twice.

A segment is a run of whole records, stored as `<event file>.<offset>`. TensorBoard reads the segments of a
folder in the order of their names as one log. What a kill left unsent is sent by the next start.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dydist.checkpoint import explain
from dydist.monitor.outputs.eventlog import event_files, whole_records
from dydist.storage.places import open_filesystem
from dydist.text.redaction import scrub

SEGMENT_S = 30.0
"""Seconds between uploads: how far a remote log may be behind."""
_CLOSE_S = 60.0


class Shipper:
    """Uploads from a thread, which tells nobody anything: what there is to say waits for `pop_messages`.

    (Telling from the thread would deadlock with a monitor that is closed, which waits for the thread.)
    """

    def __init__(
        self, folder: Path, url: str, *, options: Mapping[str, Any], every_s: float = SEGMENT_S
    ) -> None:
        self._folder, self._url, self._options = folder, url.rstrip("/"), options
        self._connected: tuple[Any, str] | None = None
        self._sent: dict[str, int] | None = None
        self._failing = False
        self._messages: deque[tuple[str, str]] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(every_s,), name="dydist-log-upload", daemon=True
        )
        self._thread.start()

    def pop_messages(self) -> Iterator[tuple[str, str]]:
        """What happened since the last call: (text, level). A failure is told at its start and its end."""
        while self._messages:
            yield self._messages.popleft()

    def close(self) -> None:
        """Send the rest; give up after a minute, for a store that hangs must not keep a run from ending."""
        self._stop.set()
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive() or self._failing:
            text = f"the end of the TensorBoard log is not at {scrub(self._url)}; it is in {self._folder}"
            self._messages.append((text, "warning"))

    def _work(self, every_s: float) -> None:
        while True:
            last = self._stop.wait(every_s)
            try:
                self._send()
            except Exception as error:  # any store, any error: training must not care
                if not self._failing:
                    text = f"TensorBoard log: cannot write to {scrub(self._url)}: {explain(error)}; trying on"
                    self._messages.append((text, "warning"))
                self._failing = True
                self._connected = None  # a broken connection is not used again
            else:
                if self._failing:
                    self._messages.append((f"TensorBoard log: {scrub(self._url)} takes writes again", "info"))
                self._failing = False
            if last:
                return

    def _send(self) -> None:
        if self._connected is None:
            self._connected = open_filesystem(self._url, self._options, field="monitor.logdir")
        store, root = self._connected
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
