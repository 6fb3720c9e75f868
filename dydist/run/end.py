"""How a run ends: what its monitors are told, and what a start finds to do where the run is done already."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dydist.config import Config
from dydist.engine import Loop, Progress
from dydist.errors import DivergedError
from dydist.monitor import JsonLines
from dydist.monitor.outputs.status import conclude_status
from dydist.records import Monitor, RunSummary
from dydist.run.rollback import rollback_advice
from dydist.text.redaction import redacted


@dataclass(frozen=True, kw_only=True)
class Ending:
    """Makes the summary of a run's end. `began`: when it started, by the monotonic clock."""

    config: Config
    run_dir: Path
    total_steps: int
    began: float

    def __call__(
        self, state: str, *, step: int, progress: Progress | None = None, message: str = ""
    ) -> RunSummary:
        """What the end of the run shows. `state` is done, stopped or failed."""
        shown = redacted(self.config)
        return RunSummary(
            state=state,
            step=step,
            total_steps=self.total_steps,
            best_accuracy=progress.best_accuracy if progress else None,
            last_accuracy=progress.last_accuracy if progress else None,
            seconds=time.monotonic() - self.began,
            places={
                "run folder": str(self.run_dir),
                "checkpoints": shown.checkpoint.url or str(self.run_dir / "checkpoints"),
                "TensorBoard": shown.monitor.logdir or str(self.run_dir / "tensorboard"),
            },
            message=message,
        )


def tell_already_done(run_dir: Path, progress: Progress, end: Ending, terminal: Monitor) -> None:
    """Say, on process 0, that the run is done. Nothing is done with this start's configuration, so none is written."""
    text = f"This run is already done: step {progress.step} of {end.total_steps}."
    summary = end("done", step=progress.step, progress=progress)
    JsonLines(run_dir).note(text)
    conclude_status(run_dir / "status.json", summary)
    terminal.note(text)
    terminal.close(summary)


def with_rollback_advice(
    error: BaseException, run_dir: Path, held: Callable[[], list[int] | None], loop: Loop | None
) -> BaseException:
    """An error to end with: where the loss grew without bound it names the checkpoint to go back to. On process 0.

    `held` gives the steps that have a checkpoint, None where that cannot be known.
    """
    if not isinstance(error, DivergedError) or not error.unbounded:
        return error
    steps = held()
    if steps is None:
        return error
    return DivergedError(
        f"{error}. {rollback_advice(run_dir, steps, list(loop.losses) if loop is not None else [])}"
    )
