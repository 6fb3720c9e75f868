"""A look at a place before anything else is done, so that a wrong `checkpoint.url` costs no download of data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dydist.checkpoint._agreement import Task, told
from dydist.errors import UserError
from dydist.storage.opening import open_storage
from dydist.storage.places import is_url, local_path

PATIENCE_S = 15.0
"""A store that does not answer for so long is left to the start, which waits for it."""


def refuse_unusable(place: str, options: Mapping[str, Any] | None = None) -> None:
    """Raise UserError where a place cannot be used, however long a start would wait. Changes nothing there."""

    def look() -> None:
        if is_url(place):
            open_storage(place, options).folders()
        else:
            _try_folder(Path(local_path(place)))

    task = Task(look)
    if task.finished.wait(PATIENCE_S) and task.error is not None:
        kind, text = told(task.error)
        if issubclass(kind, UserError):
            raise kind(text)


def _try_folder(folder: Path) -> None:
    """Make a folder where `folder` is, or is to be made, and remove it."""
    while not os.path.lexists(folder):
        folder = folder.parent
    with tempfile.TemporaryDirectory(prefix=".probe-", dir=folder):
        pass
