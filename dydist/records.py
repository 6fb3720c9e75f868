"""What a run tells about itself: written by the engine, read by the monitors. Plain values, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """One logged training step; sums and means are over the global batch.

    `step` counts finished optimiser steps (1 after the first); `epoch` is the epoch of that step, from 0;
    `accuracy` is a fraction; times are seconds since the last logged step, per step on average.
    """

    step: int
    epoch: int
    loss: float
    accuracy: float
    lr: float
    temperature: float
    images_per_s: float
    data_wait_s: float = 0.0
    step_s: float = 0.0
    grad_norm: float | None = None
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord:
    """One pass over the test split: every image once. `accuracy` is a fraction, `loss` the mean cross-entropy."""

    step: int
    epoch: int
    loss: float
    accuracy: float
    images: int
    seconds: float
    ema: bool = False


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """A finished or failed save. `pause_s`: how long the loop stood still; `error` is None when committed."""

    step: int
    url: str
    bytes: int
    pause_s: float
    commit_s: float
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """What is printed at the end. `state` is done, stopped or failed."""

    state: str
    step: int
    total_steps: int
    best_accuracy: float | None
    last_accuracy: float | None
    seconds: float
    places: Mapping[str, str]
    message: str = ""


class Monitor(Protocol):
    """Receives a run's records on process 0. None of its methods may raise for a reason outside the run."""

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None: ...

    def step(self, record: StepRecord) -> None: ...

    def evaluation(self, record: EvaluationRecord) -> None: ...

    def checkpoint(self, record: CheckpointRecord) -> None: ...

    def note(self, text: str, *, level: str = "info") -> None: ...

    def close(self, summary: RunSummary) -> None: ...
