"""Finds the run folder and the checkpoint store that a path or URL names.

A user may name a run by its folder, its checkpoints' folder, one checkpoint's folder, or a URL of the latter two.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dydist.config.reader import read_yaml
from dydist.config.types import normal_path
from dydist.errors import UserError
from dydist.storage.names import step_of
from dydist.storage.places import check_place
from dydist.text.redaction import fill_hidden

_MARKS = ("config.yaml", "metrics.jsonl", "status.json")


def is_run_folder(path: Path) -> bool:
    """Whether a run has written to this folder."""
    return any((path / name).is_file() for name in _MARKS)


def is_own_run(path: Path) -> bool:
    """Whether this is a run folder whose config.yaml belongs to the user, and is not writable for everybody."""
    try:
        status = [(path / name).stat() for name in ("", "config.yaml")]
    except OSError:
        return False
    return all(one.st_uid == os.getuid() and not one.st_mode & 0o002 for one in status)


def run_folder(path: Path) -> Path:
    """The run folder that contains a folder of checkpoints, or one checkpoint; any other path unchanged."""
    path = Path(normal_path(str(path), "run"))
    if path.is_dir() and not is_run_folder(path):
        for parent in list(path.resolve().parents)[:2]:
            if is_run_folder(parent) and path.resolve().is_relative_to(parent / "checkpoints"):
                return parent
    return path


def place_of(given: str, *, field: str) -> tuple[str, str | None, Mapping[str, Any]]:
    """The store that `given` names, the checkpoint's folder in it or None, and the run's storage options.

    Raises UserError, which names `field`, if a local folder does not exist.
    """
    text = normal_path(given, field)
    if "://" in text:
        check_place(text, field, step_folder=True)
    else:
        if not Path(text).is_dir():
            check_place(text, field, step_folder=True)
            kind = "that is a file" if Path(text).exists() else "there is no such folder"
            raise UserError(
                f"{field}: no checkpoint at {text}, {kind}; give a run's folder, or its checkpoints' folder or URL"
            )
        if is_run_folder(Path(text)):
            place, options = checkpoint_place(Path(text))
            return place, None, options
    parent, _, last = text.rpartition("/")
    if step_of(last) is not None:
        return parent or ("/" if text.startswith("/") else "."), last, {}
    return text, None, {}


def checkpoint_place(run_dir: Path) -> tuple[str, Mapping[str, Any]]:
    """The URL of a run's checkpoint store and its storage options, with secrets from the environment."""
    path = run_dir / "config.yaml"
    values = fill_hidden(read_yaml(path), os.environ) if path.is_file() else {}
    section = values.get("checkpoint", {})
    return section.get("url") or str(run_dir / "checkpoints"), section.get("storage_options") or {}
