"""A torch.profiler trace of a range of steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

ROWS = 40


class StepProfiler:
    """Profiles steps `first` to `last` (finished-step numbers, both included) into `folder`.

    Writes steps-<first>-<last>.pt.trace.json, which Perfetto (ui.perfetto.dev) and TensorBoard's profiler plugin
    open, and next to it a table of the most expensive operations.
    """

    def __init__(self, first: int, last: int, folder: Path, *, tell: Callable[[str], None]) -> None:
        self._first, self._last, self._folder, self._tell = first, last, folder, tell
        self._running: profile | None = None

    def before_step(self, step: int) -> None:
        """Start at the first step of the range. `step`: its number once finished."""
        if self._running is None and self._first <= step <= self._last:
            activities = [ProfilerActivity.CPU]
            if torch.cuda.is_available():
                activities.append(ProfilerActivity.CUDA)
            self._began = step
            self._running = profile(activities=activities, record_shapes=True, acc_events=True)
            self._running.start()

    def after_step(self, step: int) -> None:
        """Stop and write at the last step of the range."""
        if self._running is not None and step >= self._last:
            self._write(step)

    def close(self, step: int) -> None:
        """Write the profile if the run ends within the range."""
        if self._running is not None:
            self._write(step)

    def _write(self, step: int) -> None:
        assert self._running is not None
        running, self._running = self._running, None
        running.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"steps-{self._began}-{step}"
        trace = self._folder / f"{name}.pt.trace.json"
        running.export_chrome_trace(str(trace))
        cuda = torch.cuda.is_available()
        order = "self_cuda_time_total" if cuda else "self_cpu_time_total"
        table = running.key_averages().table(sort_by=order, row_limit=ROWS)
        (self._folder / f"{name}.txt").write_text(table + "\n", encoding="utf-8")
        self._tell(f"profile of steps {self._began} to {step}: {trace} (open it at ui.perfetto.dev)")


def profile_range(text: str) -> tuple[int, int]:
    """Parse `first:last`; raises ValueError if it is malformed, or the range is empty."""
    first, separator, last = text.partition(":")
    if not separator or not 1 <= int(first) <= int(last):
        raise ValueError(text)
    return int(first), int(last)
