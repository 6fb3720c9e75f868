"""The names in a checkpoint store: of checkpoint folders, manifests, and folders left by unfinished saves."""

from __future__ import annotations

import re

MANIFEST = "MANIFEST.json"
"""The file that makes a folder a checkpoint; written last."""
PARTIAL, REPLACED = ".partial", ".replaced"
"""Suffixes of hidden folders: of an unpublished save, and of a replaced checkpoint."""

STEP_PREFIX = "step-"
"""Prefix of checkpoint folders."""
_STEP = re.compile(r"step-([0-9]{9,15})")
_LEFTOVER = re.compile(r"\.step-([0-9]{9,15})\.([0-9a-f]+)(\.partial|\.replaced)")


def folder_name(step: int) -> str:
    """The folder name of the checkpoint after `step` optimizer steps."""
    return f"{STEP_PREFIX}{step:09d}"


def step_of(folder: str) -> int | None:
    """The step in a folder's name; None if it is not the name of a checkpoint folder."""
    match = _STEP.fullmatch(folder)
    step = int(match[1]) if match else None
    return step if step is not None and folder == folder_name(step) else None  # each step has one name


def leftover_step(folder: str) -> int | None:
    """The step in the folder name of an unfinished save or a replaced checkpoint; None for other names."""
    match = _LEFTOVER.fullmatch(folder)
    return int(match[1]) if match else None
