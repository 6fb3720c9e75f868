"""Reads the TensorBoard log of a run by step, without what a resume has discarded."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary

from dydist.monitor.outputs.eventlog import event_files

_LENGTH, _CHECKSUM = 8, 4


@dataclass(kw_only=True)
class Step:
    """What was logged at a step: scalars, and images as PNG files, by tag. `time`: of its first event, unix seconds."""

    step: int
    time: float
    scalars: dict[str, float] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)


class StepReader:
    """Reads a folder of event files that grows. A file's steps end where a later file's start made readers discard."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._offsets: dict[Path, int] = {}
        """Where the first event lies that has not been returned."""

    def read(self, after: int, upto: int) -> list[Step]:
        """The steps above `after`, up to `upto`, in their order; `after` must not fall from one call to the next."""
        found: dict[int, Step] = {}
        files = event_files(self._folder)
        limit: float = math.inf
        for path in reversed(files):  # the newest first: it bounds the earlier ones
            if limit > after:
                self._read_file(path, after, min(upto, limit), limit, found)
            limit = min(limit, purge_step(path) - 1)
        return [found[step] for step in sorted(found)]

    def _read_file(self, path: Path, after: int, upto: float, limit: float, found: dict[int, Step]) -> None:
        first_later: int | None = None
        at = self._offsets.get(path, 0)
        for event, end in events(path, at):
            if event.step > after and event.HasField("summary"):
                if event.step <= upto:
                    step = found.setdefault(event.step, Step(step=event.step, time=event.wall_time))
                    for value in event.summary.value:
                        _add(value, step)
                elif event.step <= limit and first_later is None:
                    first_later = at
            at = end
        self._offsets[path] = at if first_later is None else first_later


def _add(value: Summary.Value, step: Step) -> None:
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        step.scalars[value.tag] = value.simple_value
    elif kind == "image":
        step.images[value.tag] = value.image.encoded_image_string


def events(path: Path, offset: int = 0) -> Iterator[tuple[Event, int]]:
    """The complete events of a file from `offset` on, each with the offset of its end."""
    with open(path, "rb") as file:
        file.seek(offset)
        while len(head := file.read(_LENGTH + _CHECKSUM)) == _LENGTH + _CHECKSUM:
            (length,) = struct.unpack_from("<Q", head)
            data = file.read(length + _CHECKSUM)
            if len(data) < length + _CHECKSUM:
                return
            offset += len(head) + len(data)
            yield Event.FromString(data[:length]), offset


def purge_step(path: Path) -> float:
    """The step from which a file's start discards the events of earlier files; infinite if it does not say."""
    for event, _ in events(path):
        if event.HasField("session_log"):
            return float(event.step)
        if event.HasField("summary"):
            break
    return math.inf
