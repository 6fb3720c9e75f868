"""Sends the steps of a TensorBoard log to one tracker, each once, across kills and resumes.

Only steps that a checkpoint covers are sent: no later start trains them again, and no tracker can take a step back.
The log itself is the queue, so a tracker may be down for days. If a run resumes from before the newest step that was
sent, since the user said so or that checkpoint was damaged, it continues as a new run there, with its whole history.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dydist.monitor.trackers.events import StepReader
from dydist.monitor.trackers.protocol import TrackedRun, Tracker
from dydist.monitor.trackers.record import read_record, write_record
from dydist.text.redaction import scrub


class Sender:
    """Sends one run, from one process. After `give_up`, the next call makes a new tracker and starts it."""

    def __init__(
        self,
        make: Callable[[], Tracker],
        *,
        name: str,
        run: TrackedRun,
        events: Path,
        resumed: int,
        tell: Callable[[str, str], None],
    ) -> None:
        """`run`: its id is in the run folder, or is made. `events`: the TensorBoard log. `resumed`: the step of this
        start."""
        self._make, self._name, self._run, self._tell = make, name, run, tell
        self._events, self._covered = events, resumed
        self._tracker: Tracker | None = None
        self._reader = StepReader(events)
        self._newest = -1
        self._place = ""
        self._values: dict[str, Any] = {}

    def send(self, covered: int) -> None:
        """Send the steps up to `covered` that the tracker does not have."""
        self._covered = max(self._covered, covered)
        tracker = self._started()
        for step in self._reader.read(self._newest, self._covered):
            if step.scalars or step.images:
                tracker.log(step.step, step.time, step.scalars, step.images)
                self._newest = step.step
                self._write(sent=step.step)

    def finish(self, state: str) -> None:
        """End this start at the tracker; `state` as of `Tracker.finish`."""
        self._started().finish(state)
        self._write(finished=state)

    def give_up(self) -> None:
        """Discard the tracker after an error."""
        self._tracker = None

    def _started(self) -> Tracker:
        if self._tracker is not None:
            return self._tracker
        self._values = {"id": uuid.uuid4().hex[:12], "number": 1, **read_record(self._run.folder, self._name)}
        run = self._identified()
        self._write(finished=None)  # before the tracker knows the run: a kill in between must not make two
        tracker = self._make()
        newest = tracker.start(run)
        if newest is not None and newest > self._covered:
            tracker.finish("superseded")
            self._write(number=self._values["number"] + 1, sent=None)
            run = replace(self._identified(), replaces=run.id)
            self._tell(
                f"has steps up to {newest} of run {run.replaces}, and this start is from step {self._covered}: "
                f"from now on it is run {run.id} there, with its whole history",
                "warning",
            )
            tracker = self._make()
            newest = tracker.start(run)
        self._newest = -1 if newest is None else newest
        self._reader = StepReader(self._events)
        place = scrub(tracker.place)
        self._write(place=place)
        if self._place != place:
            self._tell(f"shows this run at {place}", "info")
        self._place, self._tracker = place, tracker
        return tracker

    def _identified(self) -> TrackedRun:
        first, number = self._values["id"], self._values["number"]
        run_id = first if number == 1 else f"{first}-{number}"
        return replace(self._run, id=run_id, sent=self._values.get("sent"))

    def _write(self, **values: Any) -> None:
        self._values |= values
        write_record(self._run.folder, self._name, self._values)
