"""`python docs/benchmarks monitor`, run for real on a small network."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from helpers.support import REPOSITORY
from monitor import median_interval


@pytest.mark.long
def test_bench_monitor_gives_ratios() -> None:
    command = [
        sys.executable,
        str(REPOSITORY / "docs" / "benchmarks"),
        "monitor",
        "--steps",
        "4",
        "--pairs",
        "2",
    ]
    command += ["--width", "0.0625", "--batch-size", "16", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    result = json.loads(done.stdout)
    assert len(result["wall"]) == len(result["cpu"]) == 2
    assert all(0 < ratio < 100 for ratio in result["wall"] + result["cpu"])
    assert "pair 2 of 2" in done.stderr


def test_the_median_has_an_interval() -> None:
    assert median_interval([1.0] * 5) == (1.0, 1.0, 1.0)
    middle, low, high = median_interval([0.9, 1.0, 1.1, 1.0, 1.2])
    assert low <= middle == 1.0 <= high
