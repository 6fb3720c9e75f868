"""The two leases that a start takes, both or neither: of its run folder and of its store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dydist.checkpoint._lease import Lease

FOLDER_LEASE = ".LEASE.json"
"""File name of the run folder's lease. The store's lease, which may be in the same folder, has another name."""


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """What a store contains at a start. `steps`: of all checkpoints, including damaged ones.

    `run`: the run id in the newest complete checkpoint; None if there is none, or if dydist 0.1 wrote it.
    """

    steps: tuple[int, ...]
    run: str | None


Admit = Callable[[StoredRun], str]
"""Returns the run's id if run folder and store belong to one run; else raises UserError. Called on process 0."""


class Claim:
    """The leases of one run, held by process 0."""

    def __init__(self, leases: Sequence[Lease]) -> None:
        self._leases = leases

    def acquire(self, deadline_s: float) -> None:
        """Take all leases, or none if one of them cannot be taken. Raises as `Lease.acquire` does."""
        try:
            for lease in self._leases:
                lease.acquire(deadline_s)
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """Raise LeaseLostError if another run took one of the leases."""
        for lease in self._leases:
            lease.check()

    def release(self) -> None:
        """Release the leases that this run still holds."""
        for lease in reversed(self._leases):
            lease.release()

    @property
    def lost(self) -> tuple[str, str] | None:
        """Which lease was lost, and the description of its new holder; None while this run holds all."""
        return next(((lease.url, lease.lost) for lease in self._leases if lease.lost is not None), None)
