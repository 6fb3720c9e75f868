"""Where checkpoints lie: one small protocol. `local` and `remote` implement it.

Names are relative to the place and have at most two levels: a checkpoint's folder and a file in it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

Chunks = Callable[[], Iterable["bytes | memoryview"]]
"""Makes a file's bytes anew, so that a write can be tried again."""

READ_BYTES = 4 << 20
TEMPORARY = ".tmp"
"""How the names of files end that are still being written. Nothing lists them."""


class Storage(Protocol):
    """A place for checkpoints. Every method may raise OSError; FileNotFoundError has its usual meaning.

    Every method is idempotent: an operation that took effect and then failed is tried again, and the second try must
    see what the first one did and succeed.
    """

    @property
    def url(self) -> str:
        """The place as shown to people: without secrets."""

    def folders(self) -> list[str]:
        """Names of the folders in the place, hidden ones too; empty where the place is not there."""

    def files(self, folder: str) -> dict[str, int]:
        """Bytes of each file in a folder, by name; empty where the folder is not there."""

    def listing(self, prefix: str) -> dict[str, dict[str, int]] | None:
        """`files` of every folder whose name begins with `prefix`, in one look; None where each is to be asked."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no file of that name."""

    def read(self, name: str) -> Iterator[bytes]:
        """A file's bytes in chunks."""

    def write(self, name: str, chunks: Chunks) -> None:
        """Write a file, replacing an older one: whole or not at all where the store can."""

    def create(self, name: str, data: bytes) -> None:
        """Write a new file. FileExistsError where there is one with other bytes and the store can tell."""

    def delete(self, name: str) -> None:
        """Remove a file; no error where it is not there."""

    def delete_folder(self, folder: str) -> None:
        """Remove a folder and its files; no error where it is not there."""

    def working_folder(self, folder: str, attempt: str) -> str:
        """Folder that an attempt writes its files to before `publish`."""

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        """Write the manifest last of all and let the checkpoint appear under its name.

        FileNotFoundError where the attempt's files are gone and the checkpoint does not show under its name either.
        """

    def modified(self, folder: str) -> float | None:
        """When something in a folder last changed, in seconds since 1970 by the store's clock; None: unknown."""


def written_in_place(storage: Storage) -> bool:
    """Whether a save writes straight into the checkpoint's folder, where another save of the step may write too."""
    return storage.working_folder("folder", "attempt") == "folder"


def refuse_other_bytes(storage: Storage, name: str, data: bytes) -> None:
    """Raise FileExistsError where a file that is in the way of `create` is not what `create` was to write itself."""
    with contextlib.suppress(FileNotFoundError):
        if b"".join(storage.read(name)) == data:
            return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), f"{storage.url}/{name}")


def not_a_file(name: str) -> str:
    """A hidden name for what is in the way of a file and is none."""
    return f".{name}.{uuid.uuid4().hex[:12]}.not-a-file"
