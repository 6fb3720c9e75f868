"""Where checkpoints lie: one small protocol, and the local disk. Remote places are in `_remote`.

Names are relative to the place and have at most two levels: a checkpoint's folder and a file in it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from dydist.checkpoint._format import MANIFEST
from dydist.places import is_url, local_path

Chunks = Callable[[], Iterable["bytes | memoryview"]]
"""Makes a file's bytes anew, so that a write can be tried again."""

READ_BYTES = 4 << 20
TEMPORARY = ".tmp"
"""How the names of files end that are still being written. Nothing lists them."""


class Storage(Protocol):
    """A place for checkpoints. Every method may raise OSError; FileNotFoundError has its usual meaning."""

    @property
    def url(self) -> str:
        """The place as shown to people: without secrets."""

    def folders(self) -> list[str]:
        """Names of the folders in the place, hidden ones too; empty where the place is not there."""

    def files(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder, by name; empty where the folder is not there."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where it is not there."""

    def read(self, name: str) -> Iterator[bytes]:
        """A file's bytes in chunks."""

    def write(self, name: str, chunks: Chunks) -> None:
        """Write a file, replacing an older one: whole or not at all where the store can."""

    def create(self, name: str, data: bytes) -> None:
        """Write a new file. FileExistsError where there is one and the store can tell."""

    def delete(self, name: str) -> None:
        """Remove a file; no error where it is not there."""

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and its files; no error where it is not there."""

    def working_folder(self, folder: str, attempt: str) -> str:
        """Folder that an attempt writes its files to before `publish`."""

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        """Write the manifest last of all and let the checkpoint appear under its name."""

    def modified(self, folder: str) -> float | None:
        """When something in a folder last changed, in seconds since 1970 by the store's clock; None: unknown."""


def open_storage(url: str, options: Mapping[str, Any] | None = None) -> Storage:
    """The place at a path or an fsspec URL. Opens no connection yet."""
    if not is_url(url):
        return LocalStorage(local_path(url))
    from dydist.checkpoint._remote import RemoteStorage

    return RemoteStorage(url, options or {})


class LocalStorage:
    """A folder; a checkpoint's folder appears complete or not at all.

    `durable`: what is written is flushed to the disk and outlasts a power cut. Without, it outlasts the process.
    """

    def __init__(self, path: str | os.PathLike[str], *, durable: bool = True) -> None:
        self._durable = durable
        self.root = Path(os.path.abspath(os.path.expanduser(path)))

    @property
    def url(self) -> str:
        return str(self.root)

    def folders(self) -> list[str]:
        return [entry.name for entry in self._entries("") if entry.is_dir()]

    def files(self, folder: str) -> dict[str, int]:
        result = {}
        for entry in self._entries(folder):
            # What another process renames while we look was a temporary file, or is gone.
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file() and not entry.name.endswith(TEMPORARY):
                    result[entry.name] = entry.stat().st_size
        return result

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.root / folder) as entries:
                return list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def size(self, name: str) -> int | None:
        try:
            return (self.root / name).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, name: str) -> Iterator[bytes]:
        with (self.root / name).open("rb", buffering=0) as file:
            while chunk := file.read(READ_BYTES):
                yield chunk

    def write(self, name: str, chunks: Chunks) -> None:
        with self._whole(name, chunks) as temporary:
            temporary.replace(self.root / name)

    def create(self, name: str, data: bytes) -> None:
        with self._whole(name, lambda: [data]) as temporary:
            os.link(temporary, self.root / name)  # fails where the name is taken, and shows the file whole

    @contextlib.contextmanager
    def _whole(self, name: str, chunks: Chunks) -> Iterator[Path]:
        """A temporary file beside the target, on the disk to the last byte; gone afterwards."""
        target = self.root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:12]}{TEMPORARY}")
        try:
            with temporary.open("xb") as file:
                file.writelines(chunks())
                if self._durable:
                    file.flush()
                    os.fsync(file.fileno())
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)

    def delete(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def delete_folder(self, folder: str) -> None:
        # The manifest first: a folder half deleted is not a checkpoint.
        if (self.root / folder).is_dir():
            (self.root / folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(self.root / folder)

    def working_folder(self, folder: str, attempt: str) -> str:
        return f".{folder}.{attempt}.partial"

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        self.write(f"{working}/{MANIFEST}", lambda: [manifest])
        self._flush(self.root / working)
        target = self.root / folder
        replaced = self.root / working.replace(".partial", ".replaced")
        if target.exists():  # a damaged one, or one that the user went back before
            target.rename(replaced)
        (self.root / working).rename(target)
        self._flush(self.root)
        if replaced.exists():
            shutil.rmtree(replaced)

    def modified(self, folder: str) -> float | None:
        times = []
        for entry in self._entries(folder):
            with contextlib.suppress(FileNotFoundError):
                times.append(entry.stat().st_mtime)
        try:
            return max([(self.root / folder).stat().st_mtime, *times])
        except FileNotFoundError:
            return None

    def _flush(self, path: Path) -> None:
        """Make renames in a folder last through a power cut."""
        if not self._durable:
            return
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
