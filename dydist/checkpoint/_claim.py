"""What a run claims at a start: its run folder and its checkpoint place, one writer each, both or neither."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dydist.checkpoint._lease import Lease

FOLDER_LEASE = ".LEASE.json"
"""The run folder's own lease. The place's may lie in the same folder under its own name."""


@dataclass(frozen=True, kw_only=True)
class StoredRun:
    """What a place holds of a run, as a start finds it. `steps`: of all its checkpoints, damaged ones too.

    `run`: the id that its newest whole checkpoint was written with; None where there is none, or it is of dydist 0.1.
    """

    steps: tuple[int, ...]
    run: str | None


Admit = Callable[[StoredRun], str]
"""Process 0 decides whether a run folder and what its place holds are one run's: its id. Raises UserError."""


class Claim:
    """The leases of one run, held by process 0."""

    def __init__(self, leases: Sequence[Lease]) -> None:
        self._leases = leases

    def acquire(self, deadline_s: float) -> None:
        """Take all; where one cannot be had, none. Raises as `Lease.acquire` does."""
        try:
            for lease in self._leases:
                lease.acquire(deadline_s)
        except BaseException:
            self.release()
            raise

    def check(self) -> None:
        """Raises LeaseLostError where another run took one over."""
        for lease in self._leases:
            lease.check()

    def release(self) -> None:
        """Give back what is still ours."""
        for lease in reversed(self._leases):
            lease.release()

    @property
    def lost(self) -> tuple[str, str] | None:
        """What was taken over, and by whom, in words; None while all are held."""
        return next(((lease.url, lease.lost) for lease in self._leases if lease.lost is not None), None)
