"""Connections to one store: opened on demand, dropped after a failure, shared only if that is safe."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from dydist.errors import DamagedError, UserError

OWN_CONNECTIONS = 8
"""Maximum number of connections that serve one operation at a time (FTP): servers limit them."""
_HARMLESS = (FileNotFoundError, FileExistsError, UserError, DamagedError)
"""Errors after which a connection can be reused."""

Opened = tuple[Any, str]
"""An fsspec file system and the store's path in it."""


class Connections:
    """Gives each operation its own connection, or the same one to all if the file system is thread-safe.

    fsspec's asynchronous file systems are thread-safe; others do not document it. Connections cannot be passed to
    another process: open the store there.
    """

    def __init__(self, open_one: Callable[[], Opened]) -> None:
        self._open_one = open_one
        self._lock = threading.Lock()
        self._own = threading.Semaphore(OWN_CONNECTIONS)
        self._idle: list[Opened] = []
        self._shared: Opened | None = None

    @contextlib.contextmanager
    def use(self) -> Iterator[Opened]:
        """A connection for one operation. After a failure it is dropped, so that the next operation opens a new
        one."""
        with self._own if self._shared is None else contextlib.nullcontext():
            opened = self._take()
            keep = False
            try:
                yield opened
                keep = True
            except _HARMLESS:
                keep = True
                raise
            except GeneratorExit:  # the reader stopped before the end of the file
                keep = opened is self._shared
                raise
            finally:
                self._put_back(opened, keep=keep)

    def _take(self) -> Opened:
        with self._lock:
            if self._shared is not None:
                return self._shared
            if self._idle:
                return self._idle.pop()
            opened = self._open_one()
            if getattr(opened[0], "async_impl", False):
                self._shared = opened
            return opened

    def _put_back(self, opened: Opened, *, keep: bool) -> None:
        with self._lock:
            if getattr(opened[0], "async_impl", False):
                if not keep and self._shared is opened:
                    self._shared = None
            elif keep:
                self._idle.append(opened)
