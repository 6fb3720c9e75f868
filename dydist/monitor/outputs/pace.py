"""How fast a run goes, evaluation and saves included, and so when it will end."""

from __future__ import annotations

_SMOOTHING = 0.3


class Pace:
    """Seconds a step over this process's life, smoothed, from (step, clock reading) pairs."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._seconds_per_step: float | None = None

    def update(self, step: int, now: float) -> None:
        """Note that `step` steps were done at `now` (seconds of a monotonic clock)."""
        if self._last is not None and step > self._last[0]:
            seconds = (now - self._last[1]) / (step - self._last[0])
            old = self._seconds_per_step
            self._seconds_per_step = seconds if old is None else (1 - _SMOOTHING) * old + _SMOOTHING * seconds
        self._last = (step, now)

    def eta_s(self, total_steps: int) -> float | None:
        """Seconds until `total_steps`, or None while nothing is known yet."""
        if self._last is None or self._seconds_per_step is None:
            return None
        return max(0, total_steps - self._last[0]) * self._seconds_per_step
