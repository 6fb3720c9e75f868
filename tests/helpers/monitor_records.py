"""Records for the monitors' tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from dydist.records import CheckpointRecord, EvaluationRecord, RunSummary, StepRecord


class Clock:
    """A clock that moves when told."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def step_record(step: int, **changes: Any) -> StepRecord:
    values: dict[str, Any] = {
        "step": step, "epoch": (step - 1) // 10, "loss": 2.0 / step, "accuracy": 0.5, "lr": 0.1,
        "temperature": 30.0, "images_per_s": 1234.5, "data_wait_s": 0.001, "step_s": 0.1, "grad_norm": 1.5,
    }  # fmt: skip
    return StepRecord(**{**values, **changes})


def evaluation_record(step: int, accuracy: float = 0.75, **changes: Any) -> EvaluationRecord:
    values: dict[str, Any] = {
        "step": step, "epoch": (step - 1) // 10, "loss": 0.1 + 0.2, "accuracy": accuracy, "images": 100,
        "seconds": 2.0,
    }  # fmt: skip
    return EvaluationRecord(**{**values, **changes})


def checkpoint_record(step: int, error: str | None = None) -> CheckpointRecord:
    return CheckpointRecord(
        step=step, url="s3://bucket/run", bytes=3 << 20, pause_s=0.02, commit_s=1.5, error=error
    )


def summary(state: str = "done", step: int = 100) -> RunSummary:
    return RunSummary(
        state=state, step=step, total_steps=100, best_accuracy=0.8, last_accuracy=0.75, seconds=3725.0,
        places={"metrics": "runs/a/metrics.jsonl", "TensorBoard": "tensorboard --logdir runs/a"},
        message="run the same command again" if state == "stopped" else "",
    )  # fmt: skip


def documented_tags() -> list[str]:
    """The tags of TensorBoard that docs/tensorboard.md lists, with their placeholders such as <layer>."""
    docs = (Path(__file__).parents[2] / "docs" / "tensorboard.md").read_text()
    return re.findall(r"^\| `([^`]+)` \|", docs.split("## Tags")[1].split("\n## ")[0], flags=re.M)
