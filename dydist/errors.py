"""Exit codes of a run, and the errors that choose one."""

EXIT_DONE = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_STOPPED = 75
"""Stopped early with everything saved: run the same command again (BSD's EX_TEMPFAIL)."""


class UserError(Exception):
    """The configuration or the input is wrong: one line that says what, what is allowed, what to do. Exit 2."""


class StopRequestedError(BaseException):
    """A signal asked the run to stop while nothing was to be lost. No `except Exception` may take it. Exit 75."""


class FailedError(Exception):
    """The run cannot go on for a reason that one line explains. All processes raise it alike. Exit 1."""


class DivergedError(FailedError):
    """The loss is not finite, or processes no longer hold the same weights. Nothing is saved. Exit 1.

    `unbounded`: it is the loss or the weights that grew without bound, so an earlier checkpoint is the way back.
    """

    def __init__(self, message: str, *, unbounded: bool = False) -> None:
        super().__init__(message)
        self.unbounded = unbounded


class CheckpointError(FailedError):
    """A checkpoint could not be written or read for a reason outside the run. Exit 1."""


class DamagedError(CheckpointError):
    """A folder that looks like a checkpoint is not one: no manifest, or one that does not match."""


class CancelledError(CheckpointError):
    """A save was given up on purpose, because a newer one replaced it or the run ends."""


class LeaseLostError(CheckpointError):
    """Another run took over this run's checkpoint place while this one could not be seen alive."""


class LeaseHeldError(UserError):
    """Another run is alive and writes to the same checkpoint place."""


class NewerFormatError(UserError):
    """A checkpoint was written by a newer dydist than this one."""
