"""Checks stores before anything else is done: a wrong `checkpoint.url` is reported before data is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dydist.checkpoint._agreement import Task, error_for_all
from dydist.checkpoint._restore import find_source
from dydist.errors import UserError
from dydist.machine import try_to_write
from dydist.storage.names import step_of
from dydist.storage.opening import open_storage
from dydist.storage.places import is_url, local_path

PATIENCE_S = 15.0
"""Seconds to wait for a store. If it does not answer, the check passes, and the start waits longer for it."""


def check_store(
    place: str, options: Mapping[str, Any] | None = None, *, field: str = "checkpoint.url"
) -> None:
    """Raise UserError, which names `field`, if waiting cannot make a place usable. Changes nothing there."""

    def look() -> None:
        if is_url(place):
            open_storage(place, options, field=field).folders()
        else:
            try_to_write(Path(local_path(place)))

    _look(look, field)


def refuse_missing_source(source: str, place: str, options: Mapping[str, Any] | None = None) -> None:
    """Raise UserError if `checkpoint.resume` names another run's checkpoint, and there is none.

    A run that has its own checkpoints at `place` resumes from those, so nothing is checked then.
    """

    def look() -> None:
        if not any(step_of(name) is not None for name in open_storage(place, options).folders()):
            find_source(lambda url: open_storage(url, options, field="checkpoint.resume"), source)

    _look(look, "checkpoint.resume")


def _look(work: Callable[[], None], field: str) -> None:
    task = Task(work)
    if task.finished.wait(PATIENCE_S) and task.error is not None:
        kind, text = error_for_all(task.error, field)
        if issubclass(kind, UserError):
            raise kind(text)
