"""Uploads a log folder to a remote store: new data of the local event files, in segments, each once.

A segment consists of complete records, and is stored as `<event file>.<offset>`. TensorBoard reads a folder's
segments in the order of their names as one log. The next start sends what a kill left unsent.
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
"""Seconds between uploads: the maximum delay of a remote log."""
_CLOSE_S = 60.0


class Shipper:
    """Uploads from a thread; its messages wait for `pop_messages`.

    (A report from the thread would deadlock with a monitor's `close`, which waits for the thread.)
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
        """Messages since the last call: (text, level). A failure is reported at its start and at its end."""
        while self._messages:
            yield self._messages.popleft()

    def close(self) -> None:
        """Upload the rest; give up after a minute, so that a hanging store does not keep the run from ending."""
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
            except Exception as error:  # any error of any store: it must not affect training
                if not self._failing:
                    text = f"TensorBoard log: cannot write to {scrub(self._url)}: {explain(error)}; retrying"
                    self._messages.append((text, "warning"))
                self._failing = True
                self._connected = None  # do not reuse a broken connection
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
    """The offset at which to continue each event file: its newest segment, whose upload may have been interrupted."""
    sent: dict[str, int] = {}
    try:
        entries = store.ls(root, detail=False)
    except FileNotFoundError:  # object stores have no empty folders
        return sent
    for entry in entries:
        name, _, offset = str(entry).rsplit("/", 1)[-1].rpartition(".")
        if offset.isdigit() and len(offset) == 12:
            sent[name] = max(sent.get(name, 0), int(offset))
    return sent
