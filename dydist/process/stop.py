"""Stop requests: a signal sets a flag, the loop votes with it, and all processes stop at the same step.

`engine/loop.py` votes and makes the final save through `run/session.py`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from dydist.errors import StopRequestedError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """While entered, SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 set `requested`. A second SIGINT ends the process."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._interrupts = 0
        self._at_once = False
        self._before: dict[int, object] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.signal is not None

    @property
    def name(self) -> str:
        """The name of the first signal."""
        return "a signal" if self.signal is None else signal.Signals(self.signal).name

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Within this context, a signal raises StopRequestedError. For waits during which nothing can be lost."""
        self._at_once = True
        try:
            if self.requested:
                raise StopRequestedError
            yield
        finally:
            self._at_once = False

    def listen(self) -> StopRequest:
        """Install the signal handlers, until `ignore_signals`."""
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __enter__(self) -> StopRequest:
        return self.listen()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts == 2:
                os._exit(128 + number)
        self.signal = self.signal or number
        if self._at_once:
            self._at_once = False  # only once: a second signal must not interrupt the error's cleanup
            raise StopRequestedError


def ignore_signals() -> None:
    """Ignore signals until the process exits, so that a late warning does not kill a finished run.

    While it shuts down, Python restores its own handlers, except for signals that are ignored.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def stop_with_parent() -> None:
    """Ask Linux to send SIGTERM when the launcher dies: `accelerate launch` does not forward the signals it gets."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # the parent died before the call
            os.kill(os.getpid(), signal.SIGTERM)
