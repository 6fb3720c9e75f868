"""Interleaved measurement in one process, so that a slow phase of the machine affects all alternatives."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Ratio:
    """Ratio of the seconds of two alternatives: median, minimum and maximum over pairs."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
        """Ratio of each pair, then their median and range."""
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def interleave(
    ways: dict[str, Callable[[], Any]],
    *,
    pairs: int,
    clock: Callable[[], float] = time.perf_counter,
    repeat: int = 1,
) -> dict[str, list[float]]:
    """Seconds of each alternative in each of `pairs` rounds, after one round of warm-up.

    Every other round is in reverse order, so that the predecessor of an alternative varies. A turn makes `repeat`
    calls and counts the mean of one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        for _ in range(repeat):
            way()
    for pair in range(pairs):
        for name in list(ways) if pair % 2 == 0 else list(reversed(ways)):
            began = clock()
            for _ in range(repeat):
                ways[name]()
            seconds[name].append((clock() - began) / repeat)
    return seconds


def describe_machine(device: str = "cpu") -> dict[str, Any]:
    """The hardware and versions on which a measurement on this device type depends."""
    import platform

    import torch

    from dydist.models.strategies.native import build, reason

    name = build.cpu().split(" fpu ")[0]
    gpu = {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda} if device == "cuda" else {}
    capability = torch.backends.cpu.get_cpu_capability()
    return gpu | {
        "cpu": name,
        "capability": capability,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "native": reason() or "yes",
    }
