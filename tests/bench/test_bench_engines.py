"""The engines' benchmark: what it says a process holds, and that it measures for real."""

from __future__ import annotations

import pytest

from dydist.bench.engines import ENGINES, held_bytes, measure
from dydist.bench.local import run_processes
from dydist.cli.bench_engines import bench_engines
from dydist.errors import UserError


def test_held_bytes_follow_the_zero_papers_table() -> None:
    million = 1_000_000
    assert [held_bytes(million, engine, 4) / million for engine in ENGINES] == [12, 12, 10, 7, 4]
    assert held_bytes(million, "zero3", 1) == 16 * million  # alone, ZeRO's copy of the weights is a loss


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(UserError, match="zero9 is no engine; use some of ddp"):
        bench_engines(engines=("zero9",))


def test_a_process_that_fails_ends_the_others() -> None:
    code = "import os, time\nif os.environ['RANK'] == '1': raise SystemExit('no')\ntime.sleep(900)"
    with pytest.raises(RuntimeError, match="process 1 ended with 1"):
        run_processes("timeit", ["-n", "1", "-r", "1", code], 2)


def test_a_process_that_hangs_is_ended() -> None:
    code = "import threading\nthreading.Event().wait()"
    with pytest.raises(RuntimeError, match=r"process 0 had not ended after 0\.5 s"):
        run_processes("timeit", ["-n", "1", "-r", "1", code], 1, timeout_s=0.5)


@pytest.mark.long
def test_it_measures() -> None:
    cost = measure("zero2", 2, steps=2, batch_size=16, shards=8, width=0.0625, stem="strided")
    assert len(cost.step_s) == 2
    assert cost.steps_per_s > 0
    assert cost.peak_bytes > cost.held_bytes > 0
