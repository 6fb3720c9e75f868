"""The run's newest metrics for Prometheus: a file for node exporter's textfile collector."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

from dydist.monitor.null import NullMonitor
from dydist.monitor.outputs.files import replace_file
from dydist.records import CheckpointRecord, EvaluationRecord, RunSummary, StepRecord
from dydist.text.display import plain

_HELP = {
    "step": "Finished optimiser steps.",
    "total_steps": "Steps of the whole run.",
    "loss": "Mean training loss of the newest logged step.",
    "train_accuracy": "Fraction right of the newest logged step.",
    "validation_accuracy": "Fraction right of the newest evaluation on the validation split.",
    "validation_loss": "Mean loss of the newest evaluation on the validation split.",
    "test_accuracy": "Fraction right of the newest evaluation on the test split.",
    "test_loss": "Mean loss of the newest evaluation on the test split.",
    "learning_rate": "Learning rate.",
    "temperature": "Temperature of the attention.",
    "images_per_second": "Training images a second, all processes.",
    "data_wait_seconds": "Waiting for data, a step.",
    "checkpoint_step": "Step of the newest committed checkpoint.",
    "checkpoint_time_seconds": "Unix time of the newest committed checkpoint.",
    "checkpoint_failures": "Saves that failed since this process started.",
    "alerts": "Warnings and errors since this process started.",
    "running": "1 while the run trains, 0 after its end.",
    "updated_time_seconds": "Unix time of the newest figure.",
}


class PrometheusFile(NullMonitor):
    """Replaces the file at every record; metrics are labelled with the run's name (text format 0.0.4)."""

    def __init__(self, path: Path, run_name: str, *, now: Callable[[], float] = time.time) -> None:
        escaped = plain(run_name).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        self._path, self._label, self._now = path, f'{{run="{escaped}"}}', now
        self._values: dict[str, float] = {"checkpoint_failures": 0, "alerts": 0}

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self._set(step=step, total_steps=total_steps, running=1)

    def step(self, record: StepRecord) -> None:
        self._set(
            step=record.step, loss=record.loss, train_accuracy=record.accuracy, learning_rate=record.lr,
            temperature=record.temperature, images_per_second=record.images_per_s,
            data_wait_seconds=record.data_wait_s,
        )  # fmt: skip

    def evaluation(self, record: EvaluationRecord) -> None:
        if not record.ema:
            self._set(**{f"{record.split}_accuracy": record.accuracy, f"{record.split}_loss": record.loss})

    def checkpoint(self, record: CheckpointRecord) -> None:
        if record.error is None:
            self._set(checkpoint_step=record.step, checkpoint_time_seconds=self._now())
        else:
            self._set(checkpoint_failures=self._values["checkpoint_failures"] + 1)

    def note(self, text: str, *, level: str = "info") -> None:
        if level != "info":
            self._set(alerts=self._values["alerts"] + 1)

    def close(self, summary: RunSummary) -> None:
        self._set(running=0)

    def _set(self, **values: float) -> None:
        self._values.update(values, updated_time_seconds=self._now())
        lines: list[str] = []
        for name, help_text in _HELP.items():
            if name in self._values:
                metric = f"dydist_{name}"
                lines += [f"# HELP {metric} {help_text}", f"# TYPE {metric} gauge"]
                lines.append(f"{metric}{self._label} {_number(self._values[name])}")
        replace_file(self._path, "\n".join([*lines, ""]).encode(), durable=False)


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(float(value))
