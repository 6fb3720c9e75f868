"""Operations that fail before or after they took effect: of any store, of the local file system, and of S3's wire."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from dydist.checkpoint import Storage
from dydist.storage.protocol import Chunks

T = TypeVar("T")
Plan = Callable[[str], "str | None"]
"""Says of each operation, by its name, whether it fails "before" or "after" it takes effect; None: not at all."""

SYSTEM_CALLS = ("open", "fsync", "link", "rename", "replace", "unlink", "mkdir", "rmdir", "scandir")


def once(number: int, when: str) -> Plan:
    """The operation of that number, counted from 0, fails, and no other."""
    lock, count = threading.Lock(), [-1]

    def plan(name: str) -> str | None:
        with lock:
            count[0] += 1
            return when if count[0] == number else None

    return plan


def at_random(seed: int, share: float) -> Plan:
    """A share of all operations fails, half of them before and half after they took effect."""
    lock, dice = threading.Lock(), random.Random(seed)

    def plan(name: str) -> str | None:
        with lock:
            return dice.choice(("before", "after")) if dice.random() < share else None

    return plan


class Failing:
    """A store whose operations fail as `plan` says. Reads and listings fail too; there is nothing to take effect."""

    def __init__(self, inner: Storage, plan: Plan) -> None:
        self._inner = inner
        self._plan = plan

    @property
    def url(self) -> str:
        return self._inner.url

    def working_folder(self, folder: str, attempt: str) -> str:
        return self._inner.working_folder(folder, attempt)

    def folders(self) -> list[str]:
        return _failing(self._plan, "folders", self._inner.folders)

    def files(self, folder: str) -> dict[str, int]:
        return _failing(self._plan, "files", self._inner.files, folder)

    def listing(self, prefix: str) -> dict[str, dict[str, int]] | None:
        return _failing(self._plan, "listing", self._inner.listing, prefix)

    def size(self, name: str) -> int | None:
        return _failing(self._plan, "size", self._inner.size, name)

    def read(self, name: str) -> Iterator[bytes]:
        for chunk in self._inner.read(name):
            yield _failing(self._plan, "read", lambda chunk=chunk: chunk)  # type: ignore[misc]

    def write(self, name: str, chunks: Chunks) -> None:
        _failing(self._plan, "write", self._inner.write, name, chunks)

    def create(self, name: str, data: bytes) -> None:
        _failing(self._plan, "create", self._inner.create, name, data)

    def delete(self, name: str) -> None:
        _failing(self._plan, "delete", self._inner.delete, name)

    def delete_folder(self, folder: str) -> None:
        _failing(self._plan, "delete_folder", self._inner.delete_folder, folder)

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        _failing(self._plan, "publish", self._inner.publish, working, folder, manifest)

    def modified(self, folder: str) -> float | None:
        return _failing(self._plan, "modified", self._inner.modified, folder)


def _failing(plan: Plan, name: str, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Do something, or fail before or after it as the plan says."""
    when = plan(name)
    if when == "before":
        raise OSError(errno.EIO, f"{name} failed before it took effect")
    result = work(*arguments, **options)
    if when == "after":
        with contextlib.suppress(AttributeError, TypeError):
            os.close(result) if name == "open" else result.close()  # type: ignore[attr-defined, arg-type]
        raise OSError(errno.EIO, f"{name} failed after it took effect")
    return result


@contextlib.contextmanager
def failing_disk(root: Path, plan: Plan) -> Iterator[None]:
    """The system calls that Python makes under a folder fail with EIO, as the plan says."""
    originals = {name: getattr(os, name) for name in SYSTEM_CALLS}

    def under_root(argument: Any, options: dict[str, Any]) -> bool:
        handle = argument if isinstance(argument, int) else options.get("dir_fd")
        if handle is not None:
            argument = os.readlink(f"/proc/self/fd/{handle}")
        return str(argument).startswith(str(root))

    def patched(name: str) -> Callable[..., Any]:
        original = originals[name]

        def call(*arguments: Any, **options: Any) -> Any:
            if not arguments or not under_root(arguments[0], options):
                return original(*arguments, **options)
            return _failing(plan, name, original, *arguments, **options)

        return call

    for name in SYSTEM_CALLS:
        setattr(os, name, patched(name))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(os, name, original)
