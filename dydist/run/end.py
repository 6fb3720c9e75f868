"""The end of a run: its summary, and the message of a start that finds the run already done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dydist.config import Config
from dydist.engine import Loop, Progress
from dydist.errors import DivergedError
from dydist.monitor import JsonLines
from dydist.monitor.build import trackers_of
from dydist.monitor.outputs.status import conclude_status
from dydist.records import Monitor, RunSummary
from dydist.run.rollback import rollback_advice
from dydist.text.redaction import redacted


@dataclass(frozen=True, kw_only=True)
class SummaryBuilder:
    """Builds the summary of a run. `began`: its start by the monotonic clock."""

    config: Config
    run_dir: Path
    total_steps: int
    began: float

    def __call__(
        self, state: str, *, step: int, progress: Progress | None = None, message: str = ""
    ) -> RunSummary:
        """The summary of a run in `state` done, stopped or failed."""
        shown = redacted(self.config)
        return RunSummary(
            state=state,
            step=step,
            total_steps=self.total_steps,
            best_accuracy=progress.best_accuracy if progress else None,
            last_accuracy=progress.last_accuracy if progress else None,
            split=self.config.data.evaluated_split,
            test_accuracy=progress.test_accuracy if progress else None,
            seconds=time.monotonic() - self.began,
            places={
                "run folder": str(self.run_dir),
                "checkpoints": shown.checkpoint.url or str(self.run_dir / "checkpoints"),
                "TensorBoard": shown.monitor.logdir or str(self.run_dir / "tensorboard"),
            },
            message=message,
        )


def tell_already_done(
    run_dir: Path,
    progress: Progress,
    end: SummaryBuilder,
    terminal: Monitor,
    trained_with: Mapping[str, Any],
) -> None:
    """Report, on process 0, that the run is done, and send its trackers what they do not have.

    No step uses this start's configuration, so it is not written. `trained_with`: the one that trained, by section.
    """
    text = f"This run is already done: step {progress.step} of {end.total_steps}."
    summary = end("done", step=progress.step, progress=progress)
    JsonLines(run_dir).note(text)
    conclude_status(run_dir / "status.json", summary)
    terminal.note(text)

    def tell(text: str, level: str) -> None:
        terminal.note(text, level=level)

    trackers = trackers_of(end.config, run_dir, trained_with, tell, unfinished=True)
    for tracker in trackers:
        tracker.start(step=progress.step, total_steps=end.total_steps, steps_per_epoch=0)
    for tracker in trackers:
        tracker.close(summary)
    terminal.close(summary)


def with_rollback_advice(
    error: BaseException, run_dir: Path, held: Callable[[], list[int] | None], loop: Loop | None
) -> BaseException:
    """The error with advice on rollback if the loss grew without bound; else `error` itself. On process 0.

    `held()`: the steps that have a checkpoint, or None if that is unknown.
    """
    if not isinstance(error, DivergedError) or not error.unbounded:
        return error
    steps = held()
    if steps is None:
        return error
    return DivergedError(
        f"{error}. {rollback_advice(run_dir, steps, list(loop.losses) if loop is not None else [])}"
    )
