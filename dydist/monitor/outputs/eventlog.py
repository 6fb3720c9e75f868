"""TensorBoard event files on the local disk, one per process start, in an order independent of the clock."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog, SourceMetadata
from tensorboard.compat.proto.summary_pb2 import Summary

_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\.")
_HEADER, _FOOTER = 12, 4
"""Bytes around a record's data: before it, its length and the length's checksum; after it, the data's checksum."""


class EventLog:
    """Appends events to a new file in `folder`; each is one write, so a kill truncates at most the last one.

    TensorBoard reads a folder's files in the order of their names, which begin with the time. This class uses a
    number above all existing ones, so that a resume within the same second, or on a node whose clock is behind, also
    comes last.
    """

    def __init__(self, folder: Path, *, purge_step: int, now: Callable[[], float] = time.time) -> None:
        """`purge_step`: readers discard events of earlier files from this step on."""
        folder.mkdir(parents=True, exist_ok=True)
        stamp = max([int(now()), *(stamp_of(path.name) + 1 for path in event_files(folder))])
        self.path = folder / f"events.out.tfevents.{stamp:010d}.{socket.gethostname()}.{os.getpid()}.0"
        self._now = now
        source = SourceMetadata(writer="dydist.monitor")
        self._add(Event(file_version="brain.Event:2", source_metadata=source))
        self._add(Event(step=purge_step, session_log=SessionLog(status=SessionLog.SessionStatus.START)))

    def add(self, summary: Summary, step: int) -> None:
        """Write a summary as one event of `step`."""
        self._add(Event(summary=summary, step=step))

    def add_graph(self, graph: bytes) -> None:
        """Write the model's graph, a serialised GraphDef."""
        self._add(Event(graph_def=graph))

    def _add(self, event: Event) -> None:
        event.wall_time = self._now()
        data = event.SerializeToString()
        length = struct.pack("<Q", len(data))
        record = length + _checksum(length) + data + _checksum(data)
        with open(self.path, "ab", buffering=0) as file:
            before = file.tell()
            if file.write(record) != len(record):
                file.truncate(before)  # readers stop at a truncated record, and would miss all later ones
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))


def event_files(folder: Path) -> list[Path]:
    """The event files of a folder, in TensorBoard's order."""
    return sorted(path for path in folder.glob("events.out.tfevents.*") if _NAME.match(path.name))


def stamp_of(name: str) -> int:
    """The number in an event file's name; 0 for other names."""
    match = _NAME.match(name)
    return int(match[1]) if match else 0


def whole_records(data: bytes) -> int:
    """Length of the complete records at the start of `data`."""
    end = 0
    while end + _HEADER <= len(data):
        (length,) = struct.unpack_from("<Q", data, end)
        if end + _HEADER + length + _FOOTER > len(data):
            break
        end += _HEADER + length + _FOOTER
    return end


def _checksum(data: bytes) -> bytes:
    # here: it imports boto3 where that is installed, and readers need no checksum
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    return struct.pack("<I", masked_crc32c(data))
