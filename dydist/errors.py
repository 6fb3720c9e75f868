"""Exit codes of a run, and the errors that determine them."""

EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_STOPPED = 75
"""Stopped early with the state saved: run the same command again (BSD's EX_TEMPFAIL)."""


class UserError(Exception):
    """The configuration or the input is wrong. The message says what, what is allowed, what to do. Exit 2."""


class StopRequestedError(BaseException):
    """A signal stopped the run while nothing could be lost. Not an Exception, so that none catches it. Exit 75."""


class FailedError(Exception):
    """The run cannot continue; the message is one line. All processes raise the same error. Exit 1."""


class DivergedError(FailedError):
    """The loss is not finite, or processes no longer hold the same weights. Nothing is saved. Exit 1.

    `unbounded`: the loss or the weights grew without bound, so the run may go back to an earlier checkpoint.
    """

    def __init__(self, message: str, *, unbounded: bool = False) -> None:
        super().__init__(message)
        self.unbounded = unbounded


class CheckpointError(FailedError):
    """A checkpoint could not be written or read for a reason outside the run. Exit 1."""


class DamagedError(CheckpointError):
    """A checkpoint's folder has no manifest, or its files do not match it."""


class CancelledError(CheckpointError):
    """A save was cancelled, because a newer one replaced it or the run ends."""


class LeaseLostError(CheckpointError):
    """Another run took this run's lease while this run's heartbeat was missing."""


class LeaseHeldError(UserError):
    """Another run holds the lease of the same checkpoint store."""


class NewerFormatError(UserError):
    """A checkpoint was written by a newer dydist than this one."""
