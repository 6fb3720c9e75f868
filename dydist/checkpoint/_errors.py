"""What can go wrong with checkpoints."""

from __future__ import annotations

from dydist.errors import FailedError, UserError


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
