"""What a tracker implements. Plain values; imports no tracker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """One run, as a tracker is to know it."""

    id: str
    """Letters, digits and hyphens. The same at every start of this run, and no other run's."""
    name: str
    """`run.name`."""
    folder: Path
    """The run folder; a tracker may keep files in it."""
    config: Mapping[str, Any]
    """The configuration by field, such as `optim.lr`, without secrets."""
    sent: int | None = None
    """The newest step whose `log` returned, by the run folder's own record; None if there is none."""
    replaces: str | None = None
    """The id under which steps were sent that this run has since trained again from an earlier checkpoint."""


class Tracker(Protocol):
    """Sends one run to a tracker.

    All methods are called from one thread of a process of their own, so they may take their time. If one raises, the
    tracker is told to the user, discarded, and made anew half a minute later.
    """

    place: str
    """Where the run can be seen, known after `start`: a URL or a path, without secrets."""

    def start(self, run: TrackedRun) -> int | None:
        """Begin `run`, or continue it after a kill; returns the newest step that the tracker has of it.

        Later steps are sent, and these alone. None: it has none. A tracker that cannot tell returns `run.sent`.
        """
        ...

    def log(self, step: int, time: float, scalars: Mapping[str, float], images: Mapping[str, bytes]) -> None:
        """Send what was logged at `step`, in the order of steps; `time` in unix seconds, images as PNG files.

        Keys are TensorBoard's tags. After a kill the last step may come a second time, with the same values.
        """
        ...

    def finish(self, state: str) -> None:
        """End this start, and return once the tracker has all of it.

        `state`: done, stopped (it will be continued), failed or superseded (see `replaces`).
        """
        ...
