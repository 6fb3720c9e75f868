"""status.json: the present state of the run, for `dydist status` and for users."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dydist.monitor.null import NullMonitor
from dydist.monitor.outputs.files import json_bytes, replace_file
from dydist.monitor.outputs.jsonlines import evaluations, read_lines
from dydist.monitor.outputs.pace import Pace
from dydist.process.report import job_name
from dydist.records import CheckpointRecord, EvaluationRecord, RunSummary, StepRecord

HEARTBEAT_S = 5.0
"""Seconds between updates. A run whose `updated` is older than three of these may be considered dead."""
_ALERTS_KEPT = 20


class StatusFile(NullMonitor):
    """Replaces status.json atomically at every record, and from a thread every `heartbeat_s` seconds.

    `updated`: last heartbeat of the process; `progressed`: when its step last advanced; both are unix times.
    `alerts`: the newest notes of level warning or error.
    """

    def __init__(
        self,
        path: Path,
        *,
        world_size: int,
        environ: Mapping[str, str] = os.environ,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._path = path
        self._now = now
        self._monotonic = monotonic
        self._pace = Pace()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._values: dict[str, Any] = {
            "state": "starting", "step": None, "total_steps": None, "epoch": None, "loss": None,
            "split": None, "accuracy": None, "best_accuracy": None, "test_accuracy": None,
            "images_per_s": None, "eta_s": None, "lr": None,
            "temperature": None, "last_checkpoint": None, "host": socket.gethostname(), "pid": os.getpid(),
            "world_size": world_size, "job": job_name(environ),
            "started": now(), "progressed": None, "updated": None, "message": "", "alerts": [],
        }  # fmt: skip
        self._values["last_checkpoint"] = self._last_checkpoint()
        with suppress(OSError):  # the first record's write raises as well, and Monitors reports it
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write()
        self._thread = threading.Thread(
            target=self._beat, args=(heartbeat_s,), name="dydist-status", daemon=True
        )
        self._thread.start()

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self._pace.update(step, self._monotonic())
        self._set(
            state="running", step=step, total_steps=total_steps, progressed=self._now(),
            epoch=min(step, max(0, total_steps - 1)) // steps_per_epoch, **self._accuracies(step),
        )  # fmt: skip

    def step(self, record: StepRecord) -> None:
        self._pace.update(record.step, self._monotonic())
        self._set(
            step=record.step, epoch=record.epoch, loss=record.loss, images_per_s=record.images_per_s,
            lr=record.lr, temperature=record.temperature, progressed=self._now(),
            eta_s=self._pace.eta_s(self._values["total_steps"] or record.step),
        )  # fmt: skip

    def evaluation(self, record: EvaluationRecord) -> None:
        tests = record.split == "test" and self._values["split"] == "validation"
        if record.ema:
            if not tests:
                self._set(ema_accuracy=record.accuracy, progressed=self._now())
            return
        if tests:
            self._set(test_accuracy=record.accuracy, progressed=self._now())
            return
        best = self._values["best_accuracy"]
        self._set(
            step=record.step, split=record.split, accuracy=record.accuracy, progressed=self._now(),
            best_accuracy=record.accuracy if best is None else max(best, record.accuracy),
        )  # fmt: skip

    def checkpoint(self, record: CheckpointRecord) -> None:
        self._set(
            last_checkpoint={
                "step": record.step, "time": self._now(), "url": record.url, "error": record.error,
                "bytes": record.bytes, "commit_s": record.commit_s,
            }
        )  # fmt: skip

    def note(self, text: str, *, level: str = "info") -> None:
        if level == "info":
            self._set(message=text)
            return
        alert = {"time": self._now(), "level": level, "text": text}
        self._set(message=text, alerts=[*self._values["alerts"], alert][-_ALERTS_KEPT:])

    def close(self, summary: RunSummary) -> None:
        self._closed.set()
        self._thread.join()
        self._set(
            state=summary.state, step=summary.step, total_steps=summary.total_steps, message=summary.message,
            eta_s=0.0 if summary.state == "done" else None,
            split=summary.split, accuracy=summary.last_accuracy, best_accuracy=summary.best_accuracy,
            test_accuracy=summary.test_accuracy,
        )  # fmt: skip

    def _last_checkpoint(self) -> Any:
        """The last save before this start, from the existing status.json."""
        try:
            return json.loads(self._path.read_bytes())["last_checkpoint"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _accuracies(self, step: int) -> dict[str, Any]:
        """Last and best accuracy up to the step from which the run resumes, and their split, from metrics.jsonl."""
        lines = read_lines(self._path.with_name("metrics.jsonl"))
        found = evaluations(line for line in lines if not line.get("ema") and line.get("step", 0) <= step)
        split, past = next(iter(found.items()), (None, []))
        accuracies = [line["accuracy"] for line in past]
        return {
            "split": split,
            "accuracy": accuracies[-1] if past else None,
            "best_accuracy": max(accuracies, default=None),
        }

    def _set(self, **values: Any) -> None:
        with self._lock:
            self._values.update(values)
        self._write()

    def _write(self) -> None:
        with self._lock:
            self._values["updated"] = self._now()
            replace_file(self._path, json_bytes(self._values, indent=1), durable=False)

    def _beat(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            try:
                self._write()
            except OSError:
                continue  # the next record's write raises in the loop's thread, and Monitors reports it


def conclude_status(path: Path, summary: RunSummary) -> None:
    """Set the state in a finished run's status.json, if a kill has left another one; other values are kept."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        values = {}
    if not isinstance(values, dict) or values.get("state") == "done":
        return
    end = {
        "state": summary.state, "step": summary.step, "accuracy": summary.last_accuracy,
        "split": summary.split, "best_accuracy": summary.best_accuracy,
        "test_accuracy": summary.test_accuracy, "eta_s": 0.0, "message": "", "updated": time.time(),
    }  # fmt: skip
    replace_file(path, json_bytes({"total_steps": summary.total_steps, **values, **end}, indent=1))
