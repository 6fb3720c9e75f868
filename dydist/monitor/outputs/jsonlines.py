"""metrics.jsonl: the curves. events.jsonl: what happened to the run, and when."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dydist.monitor.null import NullMonitor
from dydist.monitor.outputs.files import json_bytes, replace_file
from dydist.records import CheckpointRecord, ConfusionRecord, Detail, EvaluationRecord, RunSummary, StepRecord


class JsonLines(NullMonitor):
    """A line a logged step and a line an evaluation in metrics.jsonl, floats in full.

    A resume cuts every line past its step, so the curves neither overlap nor gap, however the run was killed.
    What must outlive a resume (starts, saves, notes, ends) goes to events.jsonl, which is only ever added to.
    A value that is not finite is written as null, which JSON can hold.
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
            # A checkpoint that survives a power cut must not find fewer lines than its step.
            with open(self._metrics_path, "ab") as file:
                os.fsync(file.fileno())

    def detail(self, record: Detail) -> None:
        """The newest confusion matrix goes to confusion.json; pictures and histograms are TensorBoard's."""
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
    """Attention to six decimals: it is there to be drawn, 19 layers a line."""
    return {
        key: [round(part, 6) for part in value]
        if isinstance(value, tuple)
        else (round(value, 6) if math.isfinite(value) else None)
        for key, value in layer.items()
    }


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSON Lines file; a torn or damaged one is left out. A missing file has none."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict):
            yield values


def cut_after(path: Path, step: int) -> None:
    """Keep the lines of metrics.jsonl up to `step`; drop later and torn ones. The file is replaced whole."""
    if not path.exists():
        return
    old = path.read_bytes()
    kept = b"".join(json_bytes(values) for values in read_lines(path) if values.get("step", step + 1) <= step)
    if kept != old:
        replace_file(path, kept)


def _append(path: Path, line: bytes) -> None:
    """Add a line with one write. Opened anew each time, so that other nodes see it through NFS at once.

    A line that a kill or a full disk tore off is ended first. Raises OSError where not all of the line fits.
    """
    whole = b"\n" + line if _torn(path) else line
    with open(path, "ab", buffering=0) as file:
        if file.write(whole) != len(whole):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _torn(path: Path) -> bool:
    """Whether a kill left the last line without its end."""
    if not path.exists() or path.stat().st_size == 0:
        return False
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"
