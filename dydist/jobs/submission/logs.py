"""The output of a job's processes: merged by time, by rank, and followed."""

from __future__ import annotations

import heapq
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dydist.jobs.attempt import attempts
from dydist.jobs.submission.status import JobStatus

POLL_S = 0.3
_LINE = re.compile(r"^(\S+) \[(rank|node) (\d+)\] (.*)$")


@dataclass(frozen=True, order=True)
class Line:
    """One line. `rank` None: from the node's own task."""

    time: str
    start: int
    node: int
    text: str
    rank: int | None = None

    def __str__(self) -> str:
        who = f"rank {self.rank}" if self.rank is not None else f"node {self.node}"
        return f"{self.time} [{who}] {self.text}"


def read_log(log_dir: Path, *, start: int | None = None, rank: int | None = None) -> Iterator[Line]:
    """All lines of one start (None: of all starts), merged over nodes by time."""
    for attempt in attempts(log_dir):
        number = int(attempt.folder.name.rpartition("-")[2])
        if start is not None and number != start:
            continue
        files = [_parse(path, number) for path in sorted(attempt.folder.glob("node-*.log"))]
        yield from (line for line in heapq.merge(*files) if rank is None or line.rank == rank)


def follow_log(
    log_dir: Path, *, rank: int | None, ended: Callable[[], bool], from_end: bool = False
) -> Iterator[Line]:
    """Follow the lines of this and later starts until the job has ended."""
    places: dict[Path, int] = {}
    if from_end:
        places = {path: path.stat().st_size for path in log_dir.glob("attempt-*/node-*.log")}
    while True:
        over = ended()  # checked before reading, so that the last lines are shown too
        new: list[Line] = []
        for path in sorted(log_dir.glob("attempt-*/node-*.log")):
            text, places[path] = _read_from(path, places.get(path, 0))
            number = int(path.parent.name.rpartition("-")[2])
            new += [line for line in _lines(text, number, _node(path)) if rank is None or line.rank == rank]
        yield from sorted(new)
        if over:
            return
        time.sleep(POLL_S)


def failure_header(status: JobStatus) -> str:
    """A job's failure in one line: kind, rank, node and message; or "". The traceback is in the log."""
    if status.failure is None:
        return ""
    failure: Mapping[str, Any] = status.failure
    message = " ".join(str(failure["message"]).split())
    if failure["kind"] == "preflight":  # the message names the nodes
        return message
    rank = "" if failure["rank"] is None else f"rank {failure['rank']} on "
    return f"{failure['kind']}: {rank}node {failure['node']}: {message}"


def _parse(path: Path, start: int) -> Iterator[Line]:
    return _lines(path.read_text(encoding="utf-8", errors="replace"), start, _node(path))


def _lines(text: str, start: int, node: int) -> Iterator[Line]:
    for line in text.split("\n"):
        if match := _LINE.match(line):
            stamp, kind, number, rest = match.groups()
            yield Line(stamp, start, node, rest, int(number) if kind == "rank" else None)


def _read_from(path: Path, place: int) -> tuple[str, int]:
    """The complete lines from offset `place`, and the offset of their end."""
    with path.open("rb") as file:
        file.seek(place)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    return whole.decode(errors="replace"), place + len(whole)


def _node(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
