"""Connections to one place: made when one is needed, forgotten after a failure, shared only where that is safe."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from dydist.errors import DamagedError, UserError

OWN_CONNECTIONS = 8
"""Connections at most where each serves one operation at a time (FTP): servers count them."""
_HARMLESS = (FileNotFoundError, FileExistsError, UserError, DamagedError)
"""What a connection outlives."""

Opened = tuple[Any, str]
"""An fsspec file system and the path of the place on it."""


class Connections:
    """Gives each operation a connection of its own, or all the same where the file system takes calls of many threads.

    fsspec's asynchronous file systems do; of the others nobody says so. A connection is not carried to another
    process: open the place there.
    """

    def __init__(self, open_one: Callable[[], Opened]) -> None:
        self._open_one = open_one
        self._lock = threading.Lock()
        self._own = threading.Semaphore(OWN_CONNECTIONS)
        self._idle: list[Opened] = []
        self._shared: Opened | None = None

    @contextlib.contextmanager
    def use(self) -> Iterator[Opened]:
        """One operation's connection. A failure ends it, so that the next operation makes a new one."""
        with self._own if self._shared is None else contextlib.nullcontext():
            opened = self._take()
            keep = False
            try:
                yield opened
                keep = True
            except _HARMLESS:
                keep = True
                raise
            except GeneratorExit:  # a file that was not read to its end
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
