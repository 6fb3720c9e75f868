"""The monitor and the probe that do nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dydist.records import CheckpointRecord, Detail, EvaluationRecord, LayerAttention, RunSummary, StepRecord


class NullMonitor:
    """Ignores all records. For processes other than 0, and as base class of monitors of some records."""

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        pass

    def step(self, record: StepRecord) -> None:
        pass

    def evaluation(self, record: EvaluationRecord) -> None:
        pass

    def checkpoint(self, record: CheckpointRecord) -> None:
        pass

    def detail(self, record: Detail) -> None:
        pass

    def note(self, text: str, *, level: str = "info") -> None:
        pass

    def close(self, summary: RunSummary) -> None:
        pass


class NullProbe:
    """Measures nothing."""

    def before_step(self, step: int, *, logged: bool) -> None:
        pass

    def after_step(self, step: int, images: Any, *, logged: bool, data_wait_s: float) -> None:
        pass

    def read(self, step: int) -> tuple[Mapping[str, float], Mapping[str, LayerAttention]]:
        return {}, {}

    def begin_evaluation(self) -> None:
        return None

    def end_evaluation(self, step: int) -> None:
        pass
