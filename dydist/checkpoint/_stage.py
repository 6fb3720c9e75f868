"""The stage: a folder on the node's own disk, to which a save is written before its upload to a remote store."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dydist.checkpoint._catalog import CheckpointFolder, survey, verify
from dydist.checkpoint._format import encode_json
from dydist.errors import DamagedError
from dydist.private_files import NotPrivateError, check_private, private_folder
from dydist.storage.local import LocalStorage
from dydist.storage.names import leftover_step
from dydist.storage.protocol import READ_BYTES, Chunks
from dydist.text.redaction import scrub

PLACE = "PLACE.json"
DEFAULT = "dydist-stage-"
"""Default name of the folder of stages (`checkpoint.stage_dir`), followed by the user's name."""
NAMES = 16
"""Numbered names to try if other users have taken the first ones."""
STALE_S = 14 * 24 * 3600.0
"""Seconds without a change after which other runs' stages in the same folder are removed."""


def open_stage(url: str, stage_dir: str | None) -> LocalStorage:
    """The stage of one remote store; by default below the temporary folder, private to this user.

    If another user has taken that name, the first free numbered name is used. Creates nothing.
    """
    key = hashlib.sha256(url.encode()).hexdigest()[:16]
    default = Path(tempfile.gettempdir()) / f"{DEFAULT}{_user_name()}"
    names = (default, *(default.with_name(f"{default.name}-{number}") for number in range(1, NAMES)))
    parent = Path(stage_dir) if stage_dir else next(filter(_is_private, names), default)
    # Not flushed: it only serves while the node is up, and hashes detect what a power loss tears.
    return LocalStorage(parent / key, durable=False)


def check_stage(stage: LocalStorage) -> str | None:
    """Why a stage must not be used (another user could have written to it), or None."""
    try:
        for folder in _private_folders(stage):
            check_private(folder)
    except NotPrivateError as error:
        return str(error)
    return None


def prepare_stage(stage: LocalStorage, url: str, *, now: float) -> None:
    """Create the folder, record its store, and remove files of torn saves and stale runs. Called by one process per
    node, before any save, while the run holds the store's lease. Raises OSError if it cannot be created, and
    NotPrivateError if it belongs to another user."""
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
    """Keep the newest `keep` staged checkpoints, and remove cancelled saves before `staged_step`.

    A checkpoint that supersedes others is verified first, as in `prune`. `trusted`: attempts verified earlier; newly
    verified ones are added.
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


def _is_whole(stage: LocalStorage, found: CheckpointFolder, trusted: set[str]) -> bool:
    if found.manifest is None or found.problem is not None:
        return False
    if found.manifest.attempt not in trusted:
        try:
            verify(stage, found)
        except DamagedError:
            return False
        trusted.add(found.manifest.attempt)
    return True


def staged(stage: LocalStorage | None) -> list[CheckpointFolder]:
    """Complete checkpoints on the stage, newest first."""
    return [found for found in survey(stage) if found.problem is None] if stage is not None else []


def copy_of(stage: LocalStorage, attempt: str) -> str | None:
    """The folder of a complete staged copy of a save, or None."""
    for found in staged(stage):
        if found.manifest is not None and found.manifest.attempt == attempt:
            return f"{stage.url}/{found.folder}"
    return None


def _private_folders(stage: LocalStorage) -> list[Path]:
    """The stage's folder, and its parent unless the user chose that one."""
    ours = stage.root.parent.name.startswith(DEFAULT)
    return [stage.root.parent, stage.root] if ours else [stage.root]


def _is_private(folder: Path) -> bool:
    try:
        check_private(folder)
    except NotPrivateError:
        return False
    return True


def _user_name() -> str:
    """This user's name as part of a folder name; the user id if there is none."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):
        name = ""
    return name if name.replace("-", "").replace("_", "").replace(".", "").isalnum() else str(os.getuid())


class OpenFiles:
    """Staged files held open, so that they can be uploaded even if their folder is renamed or removed."""

    def __init__(self, stage: LocalStorage, names: Mapping[str, str]) -> None:
        """`names`: file name → its name on the stage."""
        self._handles = {name: os.open(stage.root / path, os.O_RDONLY) for name, path in names.items()}

    def sources(self) -> dict[str, Chunks]:
        """File name → chunks of bytes."""
        return {name: _reader(handle) for name, handle in self._handles.items()}

    def close(self) -> None:
        """Close the files."""
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
