"""metrics.jsonl: curves. events.jsonl: starts, saves, notes and ends, with their times."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dydist.monitor.null import NullMonitor
from dydist.monitor.outputs.files import json_bytes, replace_file
from dydist.records import CheckpointRecord, ConfusionRecord, Detail, EvaluationRecord, RunSummary, StepRecord


class JsonLines(NullMonitor):
    """Writes one line per logged step and per evaluation to metrics.jsonl, with floats in full precision.

    A resume removes every line after its step, so the curves have neither overlaps nor gaps, however the run was
    killed. events.jsonl (starts, saves, notes, ends) is append-only. A value that is not finite is written as null.
    """

    def __init__(
        self, run_dir: Path, *, now: Callable[[], float] = time.time, identity: dict[str, Any] | None = None
    ) -> None:
        self._metrics_path = run_dir / "metrics.jsonl"
        self._events_path = run_dir / "events.jsonl"
        self._now = now
        self._identity = identity or {}
        self._started = False
        run_dir.mkdir(parents=True, exist_ok=True)

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        cut_after(self._metrics_path, step)
        self._started = True
        self._event(
            "start", step=step, total_steps=total_steps, steps_per_epoch=steps_per_epoch, **self._identity
        )

    def step(self, record: StepRecord) -> None:
        values = asdict(record)
        extra = values.pop("extra")
        values["attention"] = {name: _rounded(layer) for name, layer in values["attention"].items()}
        self._metric({"kind": "step", **values, **extra, "time": self._now()})

    def evaluation(self, record: EvaluationRecord) -> None:
        self._metric({"kind": "evaluation", **asdict(record), "time": self._now()})

    def checkpoint(self, record: CheckpointRecord) -> None:
        self._event("checkpoint", **asdict(record))
        if self._metrics_path.exists():
            # If a checkpoint survives a power loss, the lines up to its step must as well.
            with open(self._metrics_path, "ab") as file:
                os.fsync(file.fileno())

    def detail(self, record: Detail) -> None:
        """Write the newest confusion matrix to confusion.json; images and histograms are only in TensorBoard."""
        if isinstance(record, ConfusionRecord):
            replace_file(self._metrics_path.with_name("confusion.json"), json_bytes(asdict(record)))

    def note(self, text: str, *, level: str = "info") -> None:
        self._event("note", level=level, text=text)

    def close(self, summary: RunSummary) -> None:
        self._event("end", **asdict(summary))
        self._started = False

    def _metric(self, values: dict[str, Any]) -> None:
        if self._started:
            _append(self._metrics_path, json_bytes(values))

    def _event(self, kind: str, **values: Any) -> None:
        _append(self._events_path, json_bytes({"kind": kind, "time": self._now(), **values}))


def _rounded(layer: dict[str, Any]) -> dict[str, Any]:
    """Round attention to six decimals, which is enough for plots: a line has 19 layers."""
    return {
        key: [round(part, 6) for part in value]
        if isinstance(value, tuple)
        else (round(value, 6) if math.isfinite(value) else None)
        for key, value in layer.items()
    }


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a JSON Lines file; truncated or damaged ones are skipped. A missing file has none."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            yield values


def evaluations(lines: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The evaluations among the lines of a metrics.jsonl by split, validation first if there is one.

    A run with a validation split is evaluated on the test split at its end alone.
    """
    by_split: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        if line.get("kind") == "evaluation":
            by_split.setdefault(line.get("split", "test"), []).append(line)
    return dict(sorted(by_split.items(), reverse=True))


def cut_after(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to `step`; drop later and truncated ones. Replaces the file atomically."""
    if not path.exists():
        return
    old = path.read_bytes()
    kept = b"".join(json_bytes(values) for values in read_lines(path) if values.get("step", step + 1) <= step)
    if kept != old:
        replace_file(path, kept)


def _append(path: Path, line: bytes) -> None:
    """Append a line with one write. Opens the file each time, so that other nodes see the line through NFS at once.

    Ends a line that a kill or a full disk has truncated first. Raises OSError if the line does not fit completely.
    """
    whole = b"\n" + line if _torn(path) else line
    with open(path, "ab", buffering=0) as file:
        if file.write(whole) != len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _torn(path: Path) -> bool:
    """Whether the last line has no newline, because of a kill."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
