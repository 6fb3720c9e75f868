"""Retries of transient errors, with capped, jittered, exponential back-off."""

from __future__ import annotations

import errno
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import tenacity

from dydist.errors import CancelledError, CheckpointError
from dydist.storage.protocol import Chunks, Storage
from dydist.storage.transient import explain, is_transient

T = TypeVar("T")

FIRST_WAIT_S = 0.25
LONGEST_WAIT_S = 20.0


class Tell(Protocol):
    """Shows a note to the user. `level`: info, warning (also shown in quiet runs, and kept in status.json), error."""

    def __call__(self, text: str, *, level: str = "info") -> None: ...


class Retrying:
    """A storage that retries operations until they succeed, fail permanently, or time out.

    `cancelled` ends waits at once. `on_retry` is called at most once per operation, with the error. `patience_s`: the
    maximum total wait of one operation between its attempts.
    """

    def __init__(
        self,
        inner: Storage,
        *,
        deadline: float,
        clock: Callable[[], float],
        cancelled: threading.Event,
        on_retry: Callable[[str], None] = lambda text: None,
        patience_s: float = math.inf,
    ) -> None:
        self.inner = inner
        self._patience_s = patience_s
        self._deadline = deadline
        self._clock = clock
        self._cancelled = cancelled
        self._on_retry = on_retry

    @property
    def url(self) -> str:
        return self.inner.url

    def _call(self, operation: Callable[..., T], *args: Any) -> T:
        def give_up(state: tenacity.RetryCallState) -> bool:
            late = self._clock() >= self._deadline or state.idle_for >= self._patience_s
            return late or self._cancelled.is_set()

        def before_sleep(state: tenacity.RetryCallState) -> None:
            if state.attempt_number == 3 and state.outcome is not None:
                self._on_retry(
                    f"{self.url} does not answer as it should, trying again: {explain(state.outcome.exception())}"
                )

        def sleep(seconds: float) -> None:
            self._cancelled.wait(seconds)

        def wait(state: tenacity.RetryCallState) -> float:
            jittered = tenacity.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)(state)
            return max(0.0, min(jittered, self._deadline - self._clock()))

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(is_transient),
            wait=wait,
            stop=give_up,
            sleep=sleep,
            before_sleep=before_sleep,
            reraise=True,
        )
        if self._cancelled.is_set():
            raise CancelledError("given up")
        return retrying(operation, *args)

    def folders(self) -> list[str]:
        return self._call(self.inner.folders)

    def files(self, folder: str) -> dict[str, int]:
        return self._call(self.inner.files, folder)

    def listing(self, prefix: str) -> dict[str, dict[str, int]] | None:
        return self._call(self.inner.listing, prefix)

    def read(self, name: str) -> Iterator[bytes]:
        """Chunks of a file; after a failure, reads it again and skips the bytes already returned."""
        given = 0
        source: Iterator[bytes] | None = None

        def following() -> bytes | None:
            nonlocal source
            try:
                if source is None:
                    source = _skip(self.inner.read(name), given)
                return next(source, None)
            except BaseException:
                source = None
                raise

        while (chunk := self._call(following)) is not None:
            given += len(chunk)
            yield chunk

    def size(self, name: str) -> int | None:
        return self._call(self.inner.size, name)

    def write(self, name: str, chunks: Chunks) -> None:
        """Write, and check the size in the store."""
        written = 0

        def watched() -> Iterator[bytes | memoryview]:
            nonlocal written
            written = 0
            for chunk in chunks():
                written += len(chunk)
                if self._cancelled.is_set():
                    raise CancelledError("given up")
                if self._clock() >= self._deadline:
                    raise CheckpointError(
                        f"{self.url}: the time for the save was up while {name} was written"
                    )
                yield chunk

        def write_and_look() -> None:
            self.inner.write(name, watched)
            size = self.inner.size(name)
            if size != written:
                raise OSError(errno.EIO, f"{name} has {size} bytes in the store after {written} were written")

        self._call(write_and_look)

    def create(self, name: str, data: bytes) -> None:
        self._call(self.inner.create, name, data)

    def delete(self, name: str) -> None:
        self._call(self.inner.delete, name)

    def delete_folder(self, folder: str) -> None:
        self._call(self.inner.delete_folder, folder)

    def working_folder(self, folder: str, attempt: str) -> str:
        return self.inner.working_folder(folder, attempt)

    def publish(self, working: str, folder: str, manifest: bytes) -> None:
        self._call(self.inner.publish, working, folder, manifest)

    def modified(self, folder: str) -> float | None:
        return self._call(self.inner.modified, folder)


def _skip(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for chunk in chunks:
        if count >= len(chunk):
            count -= len(chunk)
        else:
            yield chunk[count:]
            count = 0
