"""The speed of a run, including evaluations and saves, and its estimated end."""

from __future__ import annotations

_SMOOTHING = 0.3


class Pace:
    """Smoothed seconds per step of this process, from (step, clock reading) pairs."""

    def __init__(self) -> None:
        self._last: tuple[int, float] | None = None
        self._seconds_per_step: float | None = None

    def update(self, step: int, now: float) -> None:
        """Record that `step` steps were finished at `now` (seconds of a monotonic clock)."""
        if self._last is not None and step > self._last[0]:
            seconds = (now - self._last[1]) / (step - self._last[0])
            old = self._seconds_per_step
            self._seconds_per_step = seconds if old is None else (1 - _SMOOTHING) * old + _SMOOTHING * seconds
        self._last = (step, now)

    def eta_s(self, total_steps: int) -> float | None:
        """Seconds until `total_steps`; None if unknown yet."""
        if self._last is None or self._seconds_per_step is None:
            return None
        return max(0, total_steps - self._last[0]) * self._seconds_per_step
