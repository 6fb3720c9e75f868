"""The local stage: a folder on the node's own disk where a save lands complete before it goes to a remote store."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dydist.checkpoint._catalog import Found, survey, verify
from dydist.checkpoint._format import encode_json
from dydist.errors import DamagedError
from dydist.private_files import NotPrivateError, check_private, private_folder
from dydist.storage.local import LocalStorage
from dydist.storage.names import leftover_step
from dydist.storage.protocol import READ_BYTES, Chunks
from dydist.text.redaction import scrub

PLACE = "PLACE.json"
DEFAULT = "dydist-stage-"
"""How the folder of stages is called where `checkpoint.stage_dir` is not given; the user's name follows."""
NAMES = 16
"""So many names are tried where others have taken those before."""
STALE_S = 14 * 24 * 3600.0
"""What other runs left in the same stage folder is swept after so long without a change."""


def open_stage(url: str, stage_dir: str | None) -> LocalStorage:
    """The stage of one remote place. The default lies under the temporary folder, for this user alone.

    Where someone else has taken that name, it is the first one numbered that nobody has. Makes nothing.
    """
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    default = Path(tempfile.gettempdir()) / f"{DEFAULT}{_user_name()}"
    names = (default, *(default.with_name(f"{default.name}-{number}") for number in range(1, NAMES)))
    parent = Path(stage_dir) if stage_dir else next(filter(_is_private, names), default)
    # Not flushed: it is for while the node lives, and what a power cut tears is found by its hash.
    return LocalStorage(parent / key, durable=False)


def check_stage(stage: LocalStorage) -> str | None:
    """Why a stage may not be used: someone else could have put checkpoints there. None where it may."""
    try:
        for folder in _private_folders(stage):
            check_private(folder)
    except NotPrivateError as error:
        return str(error)
    return None


def prepare_stage(stage: LocalStorage, url: str, *, now: float) -> None:
    """Make the folder, say whose it is, and sweep what torn saves and long-dead runs left. Called by one process a
    node, before any save, by the run that holds the place's lease. Raises OSError where it cannot be made, and
    NotPrivateError where it is someone else's."""
    for private in _private_folders(stage):
        private_folder(private)
    stage.write(PLACE, lambda: [encode_json({"url": scrub(url)})])
    for folder in stage.folders():
        if leftover_step(folder) is not None:
            stage.delete_folder(folder)
    for other in stage.root.parent.iterdir():
        if other != stage.root and _is_private(other) and (other / PLACE).is_file():
            neighbour = LocalStorage(other)
            times = [
                (other / PLACE).stat().st_mtime,
                *(neighbour.modified(f) or 0 for f in neighbour.folders()),
            ]
            if now - max(times) > STALE_S:
                for folder in neighbour.folders():
                    neighbour.delete_folder(folder)
                (other / PLACE).unlink(missing_ok=True)


def prune_stage(stage: LocalStorage, keep: int, *, staged_step: int, trusted: set[str]) -> None:
    """Keep the newest `keep` staged checkpoints, and nothing of saves before `staged_step` that were given up.

    What is kept in place of others is read back whole first, as by `prune`. `trusted`: attempts that were read back
    before; those read now are added.
    """
    for folder in stage.folders():
        step = leftover_step(folder)
        if step is not None and step < staged_step:
            stage.delete_folder(folder)
    kept = 0
    for found in survey(stage):
        if kept < keep and _is_whole(stage, found, trusted):
            kept += 1
        else:
            stage.delete_folder(found.folder)


def _is_whole(stage: LocalStorage, found: Found, trusted: set[str]) -> bool:
    if found.manifest is None or found.problem is not None:
        return False
    if found.manifest.attempt not in trusted:
        try:
            verify(stage, found)
        except DamagedError:
            return False
        trusted.add(found.manifest.attempt)
    return True


def staged(stage: LocalStorage | None) -> list[Found]:
    """Complete checkpoints on the stage, newest first."""
    return [found for found in survey(stage) if found.problem is None] if stage is not None else []


def copy_of(stage: LocalStorage, attempt: str) -> str | None:
    """The folder of a save's complete copy on the stage, or None."""
    for found in staged(stage):
        if found.manifest is not None and found.manifest.attempt == attempt:
            return f"{stage.url}/{found.folder}"
    return None


def _private_folders(stage: LocalStorage) -> list[Path]:
    """The stage's folder, and the one around it where that is not of the user's choice."""
    ours = stage.root.parent.name.startswith(DEFAULT)
    return [stage.root.parent, stage.root] if ours else [stage.root]


def _is_private(folder: Path) -> bool:
    try:
        check_private(folder)
    except NotPrivateError:
        return False
    return True


def _user_name() -> str:
    """This user's name, as it may be part of a folder's; the number where there is none."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        name = ""
    return name if name.replace("-", "").replace("_", "").replace(".", "").isalnum() else str(os.getuid())


class OpenFiles:
    """Staged files held open, so that they can be uploaded while their folder is renamed or swept."""

    def __init__(self, stage: LocalStorage, names: Mapping[str, str]) -> None:
        """`names`: file name → its name on the stage."""
        self._handles = {name: os.open(stage.root / path, os.O_RDONLY) for name, path in names.items()}

    def sources(self) -> dict[str, Chunks]:
        """File name → its bytes."""
        return {name: _reader(handle) for name, handle in self._handles.items()}

    def close(self) -> None:
        """Let go of the files."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles = {}


def _reader(handle: int) -> Callable[[], Iterator[bytes]]:
    def chunks() -> Iterator[bytes]:
        offset = 0
        while chunk := os.pread(handle, READ_BYTES, offset):
            offset += len(chunk)
            yield chunk

    return chunks
