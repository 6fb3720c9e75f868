"""Detects stragglers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

SLOWER = 1.2
"""A process is slow if its busy time is above this multiple of the median of the others."""


class StragglerWatch:
    """Compares the processes' busy times at each logged step; reports one that was slow twice in a row."""

    def __init__(self, hosts: Sequence[str]) -> None:
        self._hosts = hosts
        self._suspect: int | None = None
        self._told: int | None = None

    def update(self, busy_s: Sequence[float]) -> str | None:
        """Mean busy seconds per step, by rank → a warning, or None."""
        if len(busy_s) < 2:
            return None
        slowest = max(range(len(busy_s)), key=busy_s.__getitem__)
        others = statistics.median(value for rank, value in enumerate(busy_s) if rank != slowest)
        if others <= 0 or busy_s[slowest] < SLOWER * others:
            self._suspect = self._told = None
            return None
        first_time, self._suspect = self._suspect != slowest, slowest
        if first_time or self._told == slowest:
            return None
        self._told = slowest
        return (
            f"process {slowest} on {self._hosts[slowest]} is slow: busy {busy_s[slowest]:.3g} s a step, the others "
            f"{others:.3g} s; all wait for it. Look for another program, heat or a failing disk on that node"
        )
