"""The names in a place of checkpoints: of a checkpoint's folder, of its manifest, and of what a save leaves behind."""

from __future__ import annotations

import re

MANIFEST = "MANIFEST.json"
"""The file that makes a folder a checkpoint; written last."""
PARTIAL, REPLACED = ".partial", ".replaced"
"""How hidden folders' names end: of a save that has not been published, and of what it replaced."""

STEP_PREFIX = "step-"
"""How the names of checkpoints' folders begin."""
_STEP = re.compile(r"step-([0-9]{9,15})")
_LEFTOVER = re.compile(r"\.step-([0-9]{9,15})\.([0-9a-f]+)(\.partial|\.replaced)")


def folder_name(step: int) -> str:
    """Folder of the checkpoint after `step` optimiser steps."""
    return f"{STEP_PREFIX}{step:09d}"


def step_of(folder: str) -> int | None:
    """The step that a folder's name tells, or None where it is not a checkpoint folder's name."""
    match = _STEP.fullmatch(folder)
    step = int(match[1]) if match else None
    return step if step is not None and folder == folder_name(step) else None  # no second name for one step


def leftover_step(folder: str) -> int | None:
    """The step of a save that was never finished, or of one that was replaced, by its folder's name; or None."""
    match = _LEFTOVER.fullmatch(folder)
    return int(match[1]) if match else None
