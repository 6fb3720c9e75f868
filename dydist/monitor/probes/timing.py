"""Measures where a step's time goes on each process.

A process is busy from a step's start until its last gradient is computed; then it waits for the others' gradients
until the optimizer step. On a GPU, events on its stream measure both, and are read once they have completed.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

FIELDS = ("busy_s", "collective_wait_s")
"""The values that each process shares: means per step over the window since the last logged step."""


class StepTimer:
    """Times steps with hooks on the last gradient (the first layer's) and on the optimizer."""

    def __init__(
        self, model: nn.Module, device: torch.device, *, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._cuda = device.type == "cuda"
        self._clock = clock
        self._marks: list[Any] = []
        self._passed: deque[tuple[list[Any], float]] = deque()
        self._walls: list[float] = []
        self._last: float | None = None
        first = next(p for p in model.parameters() if p.requires_grad)
        self._hooks = [
            first.register_post_accumulate_grad_hook(lambda _: self._gradient()),
            register_optimizer_step_pre_hook(lambda *_: self._mark(2)),
        ]

    def begin(self) -> None:
        """Before a step's forward pass."""
        if self._last is None:  # the first step, or the first after a pause, starts here
            self._last = self._clock()
        self._marks = [self._now()]

    def end(self, data_wait_s: float) -> None:
        """After a step. `data_wait_s`: seconds spent waiting for its images."""
        if len(self._marks) == 3:
            self._passed.append((self._marks, data_wait_s))
        self._marks = []
        now = self._clock()
        assert self._last is not None
        self._walls.append(now - self._last)
        self._last = now

    def pause(self) -> None:
        """Exclude the time until the next `begin`, such as an evaluation or a save."""
        self._last = None

    def window(self) -> list[float]:
        """FIELDS since the last call; starts a new window. Zeros if no step has completed on the device."""
        busy = waited = count = 0.0
        while self._passed and (not self._cuda or self._passed[0][0][2].query()):
            (begin, gradient, update), data_wait = self._passed.popleft()
            busy += data_wait + self._between(begin, gradient)
            waited += self._between(gradient, update)
            count += 1
        return [busy / count, waited / count] if count else [0.0, 0.0]

    def percentiles(self) -> dict[str, float]:
        """Median, 95th percentile and longest time between two steps' ends since the last call, in seconds."""
        walls, self._walls = sorted(self._walls), []
        if not walls:
            return {}
        return {
            "speed/step_p50_s": walls[len(walls) // 2],
            "speed/step_p95_s": walls[min(len(walls) - 1, int(0.95 * len(walls)))],
            "speed/step_max_s": walls[-1],
        }

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _gradient(self) -> None:
        if self._marks:  # the last of several backward passes in a step counts
            self._marks = [self._marks[0], self._now()]

    def _mark(self, number: int) -> None:
        if len(self._marks) == number:
            self._marks.append(self._now())

    def _now(self) -> Any:
        if not self._cuda:
            return self._clock()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, first: Any, second: Any) -> float:
        return float(first.elapsed_time(second) / 1000 if self._cuda else second - first)


def process_figures(times: Sequence[Sequence[float]], *, shown: int = 16) -> dict[str, float]:
    """Every process's FIELDS, by rank → values by tag, the slowest rank, and its ratio to the others' median."""
    busy = [row[0] for row in times]
    waits = [row[1] for row in times]
    figures = {"speed/busy_s": statistics.fmean(busy), "speed/collective_wait_s": statistics.fmean(waits)}
    if len(busy) > 1:
        slowest = max(range(len(busy)), key=busy.__getitem__)
        others = statistics.median(value for rank, value in enumerate(busy) if rank != slowest)
        figures["ranks/slowest"] = float(slowest)
        figures["ranks/slowest_ratio"] = busy[slowest] / others if others > 0 else 1.0
        figures |= {f"ranks/busy_s/{rank}": value for rank, value in enumerate(busy[:shown])}
    return figures
