"""A monitor that passes everything to several others, none of which can stop training."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from traceback import format_exception

from dydist.records import CheckpointRecord, Detail, EvaluationRecord, Monitor, RunSummary, StepRecord
from dydist.text.redaction import scrub

_log = logging.getLogger(__name__)


class Monitors:
    """Passes each record to every monitor in turn.

    A monitor that raises does not stop training: its failure is reported once, to the other monitors, and it receives
    the next record again (a full disk may have space then), after another attempt to start it if that failed.
    Thread-safe. Removes secrets from all texts.
    """

    def __init__(self, monitors: Sequence[Monitor] = ()) -> None:
        self._monitors = list(monitors)
        self._failed: set[int] = set()
        self._unstarted: set[int] = set()
        self._start: Callable[[Monitor], None] | None = None
        self._lock = threading.RLock()

    def add(self, monitors: Sequence[Monitor]) -> None:
        """Pass later records to these monitors as well."""
        self._monitors.extend(monitors)

    def start(self, *, step: int, total_steps: int, steps_per_epoch: int) -> None:
        self._start = lambda m: m.start(step=step, total_steps=total_steps, steps_per_epoch=steps_per_epoch)
        self._unstarted = {id(monitor) for monitor in self._monitors}
        self._each(lambda m: None)

    def step(self, record: StepRecord) -> None:
        self._each(lambda m: m.step(record))

    def evaluation(self, record: EvaluationRecord) -> None:
        self._each(lambda m: m.evaluation(record))

    def checkpoint(self, record: CheckpointRecord) -> None:
        error = None if record.error is None else scrub(record.error)
        shown = replace(record, url=scrub(record.url), error=error)
        self._each(lambda m: m.checkpoint(shown))

    def detail(self, record: Detail) -> None:
        self._each(lambda m: m.detail(record))

    def note(self, text: str, *, level: str = "info") -> None:
        shown = scrub(text)
        self._each(lambda m: m.note(shown, level=level))

    def close(self, summary: RunSummary) -> None:
        places = {name: scrub(place) for name, place in summary.places.items()}
        shown = replace(summary, places=places, message=scrub(summary.message))
        self._each(lambda m: m.close(shown))

    def _each(self, call: Callable[[Monitor], None]) -> None:
        with self._lock:
            for monitor in self._monitors:
                try:
                    if self._start is not None and id(monitor) in self._unstarted:
                        self._start(monitor)
                        self._unstarted.discard(id(monitor))
                    call(monitor)
                except Exception as error:
                    self._tell_once(monitor, error)

    def _tell_once(self, monitor: Monitor, error: Exception) -> None:
        if id(monitor) in self._failed:
            return
        self._failed.add(id(monitor))
        name = type(monitor).__name__
        _log.warning("monitor %s failed; training goes on\n%s", name, scrub("".join(format_exception(error))))
        text = scrub(f"{name} could not write: {error!r}. Training goes on; what it shows may be incomplete.")
        for other in self._monitors:
            if other is not monitor and id(other) not in self._failed:
                try:
                    other.note(text, level="warning")
                except Exception as second:
                    self._tell_once(other, second)
