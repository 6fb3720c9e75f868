"""The interface of a checkpoint store. `local` and `remote` implement it.

Names are relative to the store and have at most two components: a checkpoint's folder and a file in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

Chunks = Callable[[], Iterable["bytes | memoryview"]]
"""Returns a file's bytes from the start at each call, so that a write can be retried."""

READ_BYTES = 4 << 20
TEMPORARY = ".tmp"
"""Suffix of files that are being written, which no method lists."""


class Storage(Protocol):
    """A store for checkpoints. Every method may raise OSError; FileNotFoundError has its usual meaning.

    Every method is idempotent: if an operation takes effect and then fails, a retry must detect the effect and
    succeed.
    """

    @property
    def url(self) -> str:
        """The URL for display, without secrets."""

    def folders(self) -> list[str]:
        """Names of the folders in the store, including hidden ones; empty if the store does not exist."""

    def files(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder, by name; empty if the folder does not exist."""

    def listing(self, prefix: str) -> dict[str, dict[str, int]] | None:
        """`files` of every folder with this prefix, in one request; None if the store needs a request per folder."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if there is no file of that name."""

    def read(self, name: str) -> Iterator[bytes]:
        """A file's bytes in chunks."""

    def write(self, name: str, chunks: Chunks) -> None:
        """Write or replace a file; atomically if the store supports that."""

    def create(self, name: str, data: bytes) -> None:
        """Write a new file. Raises FileExistsError if one with other bytes exists and the store can detect it."""

    def delete(self, name: str) -> None:
        """Remove a file; no error if it does not exist."""

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and its files; no error if it does not exist."""

    def working_folder(self, folder: str, attempt: str) -> str:
        """The folder to which an attempt writes its files before `publish`."""

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        """Write the manifest, as the last file, and make the checkpoint visible under its name.

        Raises FileNotFoundError if the attempt's files are gone and the checkpoint is not visible either.
        """

    def modified(self, folder: str) -> float | None:
        """The time of the last change in a folder, in seconds since 1970 by the store's clock; None if unknown."""


def written_in_place(storage: Storage) -> bool:
    """Whether saves write directly to the checkpoint's folder, to which another save of the step may also write."""
    return storage.working_folder("folder", "attempt") == "folder"


def refuse_other_bytes(storage: Storage, name: str, data: bytes) -> None:
    """Raise FileExistsError if the file that exists before a `create` has other bytes than `data`."""
    with contextlib.suppress(FileNotFoundError):
        if b"".join(storage.read(name)) == data:
            return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), f"{storage.url}/{name}")


def not_a_file(name: str) -> str:
    """A hidden name for a folder that has a file's name."""
    return f".{name}.{uuid.uuid4().hex[:12]}.not-a-file"
